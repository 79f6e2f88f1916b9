"""What is counted: a model, a batch, adapters and what trains, and the symbols that every formula is written in.

B  rows of the batch                      H  hidden size                 t       1 if anything in the layers trains
S  new tokens of a row                    L  layers                      full    1 if every weight trains
C  tokens attended to (S, or a cache)     N  query heads                 head    1 if the head's weight trains
T  = B * S                                K  key/value heads             bias    1 if the head's bias trains
Q  positions that the head runs at        D  head size                   q k v o gate up down
M  = Q, or more if the loss pads          I  intermediate size                   1 if that projection is adapted
G  chunks of the loss                     V  outputs of the head         x0 ... p0
R  rank                                   Y, U  tokens of the vocabulary         1 if the gradient reaches that input
P  parameters except the embedding's          and of the alphabet                of layer 0 (see `symbols`)
A  parameters of the adapters
W  parameters that train, J arrays of     X  pairs of a query and a key      fused   1 if attention is one fused kernel,
   them; E of W in F vectors                 whose score is formed           dense   1 if it is not
Z  keys whose place is looked at,         O  parts that the keys of a        half    1 if the model computes in a type
   of all sequences                          query are attended to in                narrower than float32
                                                                             masked  1 if a mask is formed for the
                                                                                 fused kernel
                                                                             remat   1 if layers are computed again in
                                                                                 the backward pass
                                                                             narrow  1 if the loss holds its logits in
gH, gN, gI  inputs that share a scale in                                         bfloat16
   4 bits, of H, N * D and I inputs                                          int8, nf4  1 if projections are held in 8,
                                                                                 in 4 bits

If cuDNN attends to the earlier tokens of a decode step, X, Z and O are those of the new ones; `stored` are the pairs, `held`
the keys and `kept` the sequences that it attends to. `joined` parts of a softmax are added. A turn of a generation's loop
reads `ahead` guesses in each row; its prefill forms the logits behind `finals` prompts.

adam, muon, clip, decay and skip are 1 if the optimiser is Adam (or AdamW), is Muon, clips, decays weights, skips steps that
are not finite; several is 1 if a step has several micro-batches, drop if there is dropout. `schedule` is the number of
scalar operations that compute a learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import jax.numpy as jnp

from jaxlv.config import OptimizerConfig, SamplingConfig, Weights
from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model.attention import fuses, key_blocks
from jaxlv.model.config import ModelConfig
from jaxlv.model.quantised import group_of
from jaxlv.steps.draw import BLOCK
from jaxlv.steps.loss import CHUNK_LOGITS, chunks_of
from jaxlv.text.codec import SYMBOLS

Train = Literal["adapters", "bias", "head", "full"]
HeadKind = Literal["frozen", "trained", "alphabet"]
LossKind = Literal["summed", "tokens", "both", "flat"]

# Operations of a learning rate, by schedule and by whether it warms up; all on scalars.
SCHEDULES = {
    ("constant", False): 0, ("constant", True): 11, ("cosine", False): 15, ("cosine", True): 23, ("onecycle", False): 31,
    ("onecycle", True): 31,
}  # fmt: skip


@dataclass(frozen=True)
class Update:
    """The optimiser settings that change the operations of a step."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    clip: bool = False
    decay: bool = False
    skip: bool = False  # skips steps whose loss or gradient is not finite
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    warmup: bool = False

    @classmethod
    def of(cls, config: OptimizerConfig, skip: bool = False) -> Update:
        """Returns the update of a config."""
        return cls(
            config.name, config.clip_norm > 0, config.weight_decay > 0, skip, config.schedule, config.warmup_steps > 0
        )


@dataclass(frozen=True)
class Drawing:
    """The sampler settings that change the operations of a generation; "unknown": they are not counted."""

    way: Literal["unknown", "greedy", "drawn"] = "unknown"
    top_k: bool = False
    top_p: bool = False
    penalty: bool = False
    ends: int = 1  # tokens that end a sample
    steps: bool = False  # a sample also ends after some number of steps

    @classmethod
    def of(cls, config: SamplingConfig, outputs: int, ends: int, steps: bool) -> Drawing:
        """Returns the drawing of a config from `outputs` tokens."""
        greedy, top_k = config.temperature == 0, 0 < config.top_k < outputs
        penalty = config.repetition_penalty != 1
        return cls("greedy" if greedy else "drawn", top_k, config.top_p < 1, penalty, max(1, ends), steps)


@dataclass(frozen=True)
class Work:
    """One forward pass, or a training step of `accumulate` micro-batches: `batch` rows of `length` new tokens each.

    Padding is executed, and only conventions of what really runs count it: a rank below that of the stack in which it trains
    (`stack_rank`), and the tokens that an older version of the loss added ("flat").
    """

    model: ModelConfig
    batch: int
    length: int
    rank: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    head: HeadKind = "frozen"  # "alphabet": only over the 13 symbols of the number format
    train: Train = "adapters"  # "bias", "head": the adapters and that part of the head; "full": every weight
    kernel: str = "xla"  # attention kernel: a key of jaxlv.model.attention.KERNELS
    cache: int = 0  # tokens attended to in addition to the new ones
    last_only: bool = False  # the head runs only at each row's last position, as in a prefill
    dtype: str = "float32"  # the type in which the model computes
    accumulate: int = 1
    dropout: bool = False
    update: Update = field(default_factory=Update)
    stack_rank: int = 0
    loss: LossKind = "summed"  # or token by token, by one softmax or by both; "flat": summed, as in an older version
    shared: int = 0  # cached tokens of a prompt that `samples` rows share
    samples: int = 1
    drawing: Drawing = field(default_factory=Drawing)
    remat: bool = False  # each layer is computed again in the backward pass
    narrow: bool = False  # the loss holds its logits in bfloat16
    over_data: int = 1  # devices that share the rows of the batch
    over_model: int = 1  # devices that share the weights (jaxlv.flops.spread)
    weights: Weights = "full"  # in 8 or 4 bits the layers' projections are dequantised before their products
    causal: bool = True  # a fused kernel of attention masks by itself: texts are padded only on the right
    known: int = 0  # prompts of a generation that are not read
    nested: int = 0  # texts read within longer ones: if `last_only`, the head runs at the ends of these, too
    ahead: int = 0  # guesses that each turn of a generation's loop reads in every row, in addition to a token

    def __post_init__(self) -> None:
        least_of = {
            "batch": 1,
            "length": 1,
            "rank": 0,
            "cache": 0,
            "accumulate": 1,
            "stack_rank": 0,
            "shared": 0,
            "samples": 1,
            "over_data": 1,
            "over_model": 1,
        }
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise JaxlvError(f"{name} must be at least {least}", where="flops", found=getattr(self, name))
        object.__setattr__(self, "targets", normalise_targets(self.targets) if self.rank else ())
        if self.head == "trained" and self.train == "adapters":
            object.__setattr__(self, "train", "head")

    def executed(self) -> Work:
        """Returns the work at the rank at which it is executed."""
        return replace(self, rank=max(self.rank, self.stack_rank)) if self.rank else self


def symbols(work: Work, padded: bool = False) -> dict[str, int]:
    """Returns the value of every symbol, including padding if `padded`."""
    if padded:
        work = work.executed()
    m = work.model
    H, L, N, K, D = m.hidden_size, m.num_hidden_layers, m.num_attention_heads, m.num_key_value_heads, m.head_dim
    FF, Y = m.intermediate_size, m.vocab_size
    B, S = work.batch, work.length
    V = len(SYMBOLS) if work.head == "alphabet" else Y
    Q = B + work.nested if work.last_only else B * S
    return {
        "B": B, "S": S, "C": S + work.cache, "T": B * S, "Q": Q, "R": work.rank, "H": H, "L": L, "N": N, "K": K, "D": D,
        "I": FF, "V": V, "Y": Y, "U": len(SYMBOLS), "G": chunks_of(B, S, V).number,
        "M": _padded(Q, V) if padded and work.loss == "flat" else Q,
        **_parameters(work), **_attention(work), **_reached(work), **_update(work), **_drawing(work, V),
        "half": int(work.dtype != "float32"), "alphabet": int(work.head == "alphabet"),
        "narrow": int(work.narrow), "remat": int(work.remat), "int8": int(work.weights == "int8"),
        "nf4": int(work.weights == "nf4"), "gH": group_of(H), "gN": group_of(N * D), "gI": group_of(FF),
        "summed": int(work.loss in ("summed", "flat")), "both": int(work.loss == "both"),
        "drop": int(work.dropout and bool(work.targets)),
    }  # fmt: skip


def _parameters(work: Work) -> dict[str, int]:
    """Returns the numbers and arrays that train, and which kinds do."""
    m = work.model
    H, L, N, K, D = m.hidden_size, m.num_hidden_layers, m.num_attention_heads, m.num_key_value_heads, m.head_dim
    FF, Y, untied = m.intermediate_size, m.vocab_size, int(not m.tie_word_embeddings)
    full = int(work.train == "full")
    head, bias = int(full or work.train == "head"), int(work.train == "bias")
    shapes = {
        "q": (H, N * D), "k": (H, K * D), "v": (H, K * D), "o": (N * D, H), "gate": (H, FF), "up": (H, FF), "down": (FF, H),
    }  # fmt: skip
    adapted = {name: int(f"{name}_proj" in work.targets) for name in shapes}
    vectors = (N + 2 * K) * D + 2 * H  # of a layer: three biases, two norms
    P = L * (vectors + sum(a * b for a, b in shapes.values())) + H + untied * Y * H
    A = L * work.rank * sum(sum(shapes[name]) for name, is_target in adapted.items() if is_target)
    return {
        **adapted, "full": full, "head": head, "bias": bias, "untied": untied, "P": P, "A": A,
        "W": A + bias * Y + full * (P + Y * H) + (head - full) * Y * H,
        "J": 2 * L * sum(adapted.values()) + bias + full * (12 * L + 2 + untied) + head - full,
        "E": bias * Y + full * (L * vectors + H),
        "F": bias + full * (5 * L + 1),
    }  # fmt: skip


def _attention(work: Work) -> dict[str, int]:
    """Returns the pairs of queries and keys."""
    blocks = key_blocks(work.length, work.length + work.cache, work.kernel)
    keys = work.batch * sum(keys for _, keys in blocks)
    if work.cache:  # a prompt, once for all its samples; a tail of each row; the new tokens
        keys -= (work.batch - work.batch // work.samples) * work.shared
    fused, parts = int(work.kernel == "cudnn" and not work.cache), 3 if work.cache else 1
    found = {
        "X": sum(queries * keys for queries, keys in blocks), "Z": keys, "O": parts, "blocks": len(blocks),
        "fused": fused, "dense": 1 - fused, "masked": fused * (1 - int(work.causal)),
        "stored": 0, "held": 0, "kept": 0, "joined": parts,
    }  # fmt: skip
    if work.cache and fuses(work.kernel, jnp.dtype(work.dtype)):  # only the new tokens are attended to by products
        own = work.batch * work.length
        return found | {
            "X": work.length**2, "Z": own, "O": 1, "stored": work.length * work.cache, "held": keys - own,
            "kept": work.batch + work.batch // work.samples,
        }  # fmt: skip
    return found


def _reached(work: Work) -> dict[str, int]:
    """Returns where gradients are formed: with respect to a tensor only if a trained weight comes before it. In every layer
    except the first the input depends on an adapter (t); in the first nothing does before the first adapted product.
    """
    x0 = int(work.train == "full")  # the layer's input depends only on the embedding
    q0, k0, v0 = (x0 | (f"{name}_proj" in work.targets) for name in "qkv")
    s0 = q0 | k0  # scores
    a0 = s0 | v0  # weighted sum
    m0 = a0 | ("o_proj" in work.targets)  # the MLP's input
    p0 = m0 | ("gate_proj" in work.targets) | ("up_proj" in work.targets)  # the down projection's input
    t = p0 | ("down_proj" in work.targets)
    return {"x0": x0, "q0": q0, "k0": k0, "v0": v0, "s0": s0, "a0": a0, "m0": m0, "p0": p0, "t": t}


def _update(work: Work) -> dict[str, int]:
    """Returns the symbols of the optimiser."""
    u = work.update
    return {
        "adam": int(u.name != "muon"), "muon": int(u.name == "muon"), "clip": int(u.clip), "decay": int(u.decay),
        "skip": int(u.skip), "several": int(work.accumulate > 1), "schedule": SCHEDULES[u.schedule, u.warmup],
        "onecycle": int(u.schedule == "onecycle"),
    }  # fmt: skip


def _drawing(work: Work, outputs: int) -> dict[str, int]:
    """Returns the symbols of token sampling; `turns` and `stages` are set for a generation
    (jaxlv.flops.table.generation).
    """
    d = work.drawing
    return {
        "ahead": work.ahead,
        "greedy": int(d.way == "greedy"), "drawn": int(d.way == "drawn"), "least": int(d.top_k), "nucleus": int(d.top_p),
        "penalised": int(d.penalty), "ends": d.ends, "steps": int(d.steps), "digits": max(1, (outputs - 1).bit_length()),
        "part": BLOCK, "parts": -(-outputs // BLOCK) if outputs > BLOCK else 0,
        "series": work.batch // work.samples, "finals": work.batch // work.samples - work.known, "shared": work.shared,
        "turns": 0, "stages": 0,
    }  # fmt: skip


def _padded(tokens: int, outputs: int) -> int:
    """Returns the number of tokens whose logits the loss formed when its chunks all had a power of two of tokens."""
    chunk = min(tokens, 1 << max(0, (CHUNK_LOGITS // outputs).bit_length() - 1))
    return -(-tokens // chunk) * chunk
