"""What is counted: a model, a batch, adapters and what trains, and the symbols that every formula is written in.

B  rows of the batch                      H  hidden size                 t       1 if anything in the layers trains
S  new tokens of a row                    L  layers                      full    1 if every weight trains
C  tokens attended to (S, or a cache)     N  query heads                 head    1 if the head's weight trains
T  = B * S                                K  key/value heads             q k v o gate up down
Q  positions that the head runs at        D  head size                           1 if that projection is adapted
G  chunks of the loss                     I  intermediate size           x0 ... p0
R  rank                                   V  tokens of the head                  1 if the gradient reaches that input
P  parameters but the embedding's         A  parameters of the adapters          of layer 0 (see `symbols`)
W  parameters that train                  X  pairs of a query and a key      fused   1 if attention is one fused kernel,
                                             whose score is formed           dense   1 if it is not
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import normalise_targets
from jaxlv.model.attention import scored_pairs
from jaxlv.model.config import ModelConfig
from jaxlv.steps.loss import chunks_of
from jaxlv.text.codec import SYMBOLS

Train = Literal["adapters", "head", "full"]
HeadKind = Literal["frozen", "trained", "alphabet"]


@dataclass(frozen=True)
class Work:
    """One forward pass or training step: `batch` rows of `length` new tokens each."""

    model: ModelConfig
    batch: int
    length: int
    rank: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    head: HeadKind = "frozen"  # "alphabet": formed over the 13 symbols of the number format alone
    train: Train = "adapters"  # "head": the adapters and the head's weight; "full": every weight
    kernel: str = "xla"  # of the attention: a key of jaxlv.model.attention.KERNELS
    cache: int = 0  # tokens attended to beside the new ones
    last_only: bool = False  # the head runs at each row's last position alone, as in a prefill

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("length", 1), ("rank", 0), ("cache", 0)):
            if getattr(self, name) < least:
                raise JaxlvError(f"{name} must be at least {least}", where="flops", found=getattr(self, name))
        object.__setattr__(self, "targets", normalise_targets(self.targets) if self.rank else ())
        if self.head == "trained" and self.train == "adapters":
            object.__setattr__(self, "train", "head")


def symbols(work: Work) -> dict[str, int]:
    """The value of every symbol."""
    m = work.model
    H, L, N, K, D = m.hidden_size, m.num_hidden_layers, m.num_attention_heads, m.num_key_value_heads, m.head_dim
    FF = m.intermediate_size
    B, S = work.batch, work.length
    V = len(SYMBOLS) if work.head == "alphabet" else m.vocab_size
    Q = B if work.last_only else B * S
    q, k, v, o, gate, up, down = (int(f"{name}_proj" in work.targets) for name in ("q", "k", "v", "o", "gate", "up", "down"))
    full = int(work.train == "full")
    head = int(full or work.train == "head")
    layer = 2 * H * N * D + 2 * H * K * D + 3 * H * FF + (N + 2 * K) * D + 2 * H
    P = L * layer + H + (0 if m.tie_word_embeddings else m.vocab_size * H)
    shapes = {
        "q": (H, N * D), "k": (H, K * D), "v": (H, K * D), "o": (N * D, H), "gate": (H, FF), "up": (H, FF), "down": (FF, H),
    }  # fmt: skip
    adapted = {"q": q, "k": k, "v": v, "o": o, "gate": gate, "up": up, "down": down}
    A = sum(L * work.rank * sum(shapes[name]) for name, is_target in adapted.items() if is_target)
    fused = int(work.kernel == "cudnn" and not work.cache)
    W = A + full * (P + m.vocab_size * H) + (head - full) * m.vocab_size * H
    # The gradient with respect to a tensor is formed only if a trained weight stands before it. In every layer but the
    # first the input depends on an adapter (t); in the first nothing does up to the first adapted product.
    x0 = full  # the layer's input: it depends on the embedding alone
    q0, k0, v0 = x0 | q, x0 | k, x0 | v
    s0 = q0 | k0  # scores
    a0 = s0 | v0  # weighted sum
    m0 = a0 | o  # what the MLP takes
    p0 = m0 | gate | up  # what the down projection takes
    t = p0 | down
    return {
        "B": B, "S": S, "C": S + work.cache, "T": B * S, "Q": Q, "G": chunks_of(B, S, V).number, "R": work.rank,
        "H": H, "L": L, "N": N, "K": K, "D": D, "I": FF, "V": V, "P": P, "A": A, "W": W,
        **adapted, "full": full, "head": head, "t": t,
        "fused": fused, "dense": 1 - fused, "X": scored_pairs(S, S + work.cache, work.kernel),
        "x0": x0, "q0": q0, "k0": k0, "v0": v0, "s0": s0, "a0": a0, "m0": m0, "p0": p0,
    }  # fmt: skip
