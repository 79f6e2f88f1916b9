"""What really runs: the matrix products, and every elementwise operation, of the project's own programs.

Rows of elementwise work are those of the jaxpr, operation by operation: XLA fuses them, and counts them in the same way.
`half` is 1 if the model computes in a type narrower than float32; then there are conversions to float32 and back.

The rows leave out: what cuDNN's attention does in addition to its products (only its own kernel knows); that each part has a
loop of its own when series are decoded in parts at once (jaxlv.steps.prompts.parallel_parts); and that runs that train side
by side compute RoPE's frequencies and a schedule's constants only once, while each run's peak learning rate is an argument
and not a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxlv.flops.rows import GROUPED, Row, row

# ------------------------------------------------------------------------------------------- matrix products


def layers(reached: str) -> str:
    """Returns in how many layers a gradient is formed, given the symbol that says whether it is formed in the first."""
    return f"((L - 1) * t + {reached})"


def _linear(name: str, fans: tuple[str, str], reached: str) -> tuple[Row, ...]:
    """Returns the rows of a projection with its adapter; `reached` says whether the gradient reaches its input in
    layer 0.
    """
    fan_in, fan_out = fans
    inputs = layers(reached)  # those in which the gradient with respect to the input is formed
    outputs = f"L * {name}"
    return (
        row(f"{name}_proj", "L", dot=f"1 | T, {fan_in}, {fan_out}"),
        row(f"{name}_proj", inputs, "backward", dot=f"1 | T, {fan_out}, {fan_in}"),
        row(f"{name}_proj", "L * full", "backward", dot=f"1 | {fan_out}, T, {fan_in}"),
        row(f"{name}_proj lora A", outputs, dot=f"1 | T, {fan_in}, R"),
        row(f"{name}_proj lora A", outputs, "backward", dot=f"1 | R, T, {fan_in}"),
        row(f"{name}_proj lora A", f"{inputs} * {name}", "backward", dot=f"1 | T, R, {fan_in}"),
        row(f"{name}_proj lora B", outputs, dot=f"1 | T, R, {fan_out}"),
        row(f"{name}_proj lora B", outputs, "backward", dot=f"1 | {fan_out}, T, R"),
        row(f"{name}_proj lora B", outputs, "backward", dot=f"1 | T, {fan_out}, R"),
    )


def _dequantised(name: str, fans: tuple[str, str], reached: str) -> tuple[Row, ...]:
    """Returns rows for the numbers that a projection's codes stand for, which its gradient forms once more, and in 8 bits
    for the scales of its outputs (jaxlv/model/quantised.py).
    """
    fan_in, fan_out = fans
    numbers, outputs, inputs = f"{fan_in} * {fan_out}", f"T * {fan_out}", layers(reached)
    casts = f"{numbers} * (1 + half) + {fan_out} * ({fan_in} // {GROUP_OF[fan_in]})"
    component = f"{name}_proj dequantised"
    return (
        row(component, "L * int8", convert=f"{numbers} + 2 * {outputs} * half", mul=outputs),
        row(component, f"{inputs} * int8", "recomputed", convert=numbers),
        row(component, f"{inputs} * int8", "backward", convert=f"2 * {outputs} * half", mul=outputs),
        row(component, "L * nf4", integer=numbers, mul=numbers, convert=casts),
        row(component, f"{inputs} * nf4", "recomputed", integer=numbers, mul=numbers, convert=casts),
    )


ORTHOGONAL = 5  # Newton-Schulz iterations of Muon (optax.contrib.muon)
MATRICES = (  # matrices that may train: how many of which (m, n)
    *((f"L * {name}", sizes) for name, (a, b) in GROUPED.items() for sizes in (("R", a), (b, "R"))),
    ("full * untied + head", ("Y", "H")),  # the embedding, or a head of its own; both if every weight trains
    *(("L * full", fans) for fans in GROUPED.values()),
)


def _orthogonalised(times: str, m: str, n: str) -> tuple[Row, ...]:
    """Returns rows of Newton-Schulz steps X <- a X + (b A + c A A) X, A = X X^T of the smaller side (Jordan et al. 2024)."""
    small, large, times = f"min({m},{n})", f"max({m},{n})", f"{ORTHOGONAL} * muon * ({times})"
    return (
        row("optimiser", times, when="step", dot=f"2 | {small}, {large}, {small}"),
        row("optimiser", times, when="step", dot=f"1 | {small}, {small}, {small}"),
    )


def formed_again(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields what a layer's forward rows cost once more in the backward pass if layers are computed again: all except what
    only leads out of the layer. The adapters' casts are outside the layers, except Muon's (jaxlv.steps.train.stacked).
    """
    for one in rows:
        inside = one.phase == "forward" and one.times.startswith("L") and one.when in ("always", "gradient")
        cast = "lora" in one.component and not any(name == "dot" for name, _ in one.operations)
        last = one.component in ("down_proj", "down_proj dequantised")
        if not inside or last or (one.component == "down_proj lora B" and not cast):
            continue
        only = " * muon" if cast else " * max(down,full)" if one.component == "activation" else ""
        times = f"t * remat * {one.times}{only}"
        yield one._replace(times=times, phase="recomputed", when="gradient")


_PRODUCTS = (
    *_linear("q", GROUPED["q"], "x0"),
    *_linear("k", GROUPED["k"], "x0"),
    *_linear("v", GROUPED["v"], "x0"),
    row("scores", "L * dense", dot="B * N | X, D, 1"),
    row("scores", layers("q0") + " * dense", "backward", dot="B * N | X, D, 1"),  # of the queries
    row("scores", layers("k0") + " * dense", "backward", dot="B * N | X, D, 1"),  # of the keys
    row("weighted sum", "L * dense", dot="B * N | S, X // S, D"),
    row("weighted sum", "L * dense", dot="B * N | X % S, 1, D"),  # if S does not divide the pairs of all blocks
    row("weighted sum", layers("s0") + " * dense", "backward", dot="B * N | X, D, 1"),  # of the weights
    row("weighted sum", layers("v0") + " * dense", "backward", dot="B * N | X, D, 1"),  # of the values
    row("fused attention", "L * fused", dot="2 * B * N | X, D, 1"),
    row("fused attention", "L", dot="2 * B * N | stored, D, 1"),  # earlier tokens, if cuDNN attends to them
    row("fused attention", layers("a0") + " * fused", "backward", dot="5 * B * N | X, D, 1"),  # scores are formed again
    *_linear("o", GROUPED["o"], "a0"),
    *_linear("gate", GROUPED["gate"], "m0"),
    *_linear("up", GROUPED["up"], "m0"),
    *_linear("down", GROUPED["down"], "p0"),
    row("head", dot="1 | M, H, V"),
    row("head", "t", "backward", dot="1 | M, V, H"),
    row("head", "head", "backward", dot="1 | V, M, H"),
    *(made for times, sizes in MATRICES for made in _orthogonalised(times, *sizes)),
    row("optimiser", "onecycle * (2 + muon * min(E,1))", when="step", dot="1 | 1, 2, 1"),  # optax interpolates by a product
)
EXACT = (*_PRODUCTS, *formed_again(_PRODUCTS))

# ------------------------------------------------------------------------------------------ elementwise work

NORM = row("norms", "L", mul="3 * T * H", add="T * H", div="2 * T", rsqrt="T", convert="2 * T * H * half")
NORMS = "((2 * L - 1) * t + x0 + m0)"  # the norms that a gradient passes through

_MODEL = (
    row("embedding", integer="T", add="T", compare="T"),
    *(NORM, NORM, NORM._replace(times="1")),
    row("norms", f"{NORMS} * (1 - remat) + t * remat", when="gradient", mul="T * H + T", div="T"),
    row("norms", f"({NORMS} - t) * remat", "recomputed", mul="T * H + T", div="T"),
    row("norms", NORMS, "backward", mul="4 * T * H + T", add="T * (2 * H - 1)", div="T",
        convert="2 * T * H * half"),
    row("norms", f"{NORMS} - t", "backward", add="T * H"),  # added to the residual's gradient
    row("norms", "(2 * L + 1) * full", "backward", mul="T * H", add="(T - 1) * H"),
    row("rope", mul="T * D // 2 + D // 2", add="D", div="D // 2", pow="D // 2", sin="T * D", convert="T"),
    row("rope", "L", mul="2 * T * (N + K) * D", add="T * (N + K) * D", convert="2 * T * (N + K) * D * half"),
    *(
        row("rope", layers(reached), "backward", mul=f"2 * T * {heads} * D", add=f"3 * T * {heads} * D // 2",
            convert=f"2 * T * {heads} * D * half")
        for reached, heads in (("q0", "N"), ("k0", "K"))
    ),
    row("residuals", "L", add="T * H"),  # of the attention
    row("residuals", "1 * L", add="T * H"),  # of the MLP
    row("activation", "L", mul="2 * T * I", add="2 * T * I", exp="T * I", div="T * I"),
    row("activation", layers("p0"), "recomputed", add="2 * T * I", exp="T * I", div="T * I"),
    row("activation", layers("max(m0,gate)"), "recomputed", mul="T * I", add="T * I"),
    row("activation", layers("max(m0,up)"), "recomputed", mul="T * I"),
    row("activation", layers("max(m0,gate)"), "backward", mul="4 * T * I", add="T * I"),
    row("activation", layers("max(m0,up)"), "backward", mul="T * I"),
)  # fmt: skip


def _projection(name: str, fans: tuple[str, str], biased: bool) -> tuple[Row, ...]:
    """Returns rows for the bias, the sum with the adapter's path, its scale, and A and B converted to the model's type."""
    (fan_in, fan_out), adapted = fans, f"L * {name}"
    a, b = f"R * {fan_in} * half", f"R * {fan_out} * half"
    return (
        row(f"{name}_proj", "L", add=f"T * {fan_out} * ({int(biased)} + {name})"),
        row(f"{name}_proj lora A", adapted, convert=a),
        row(f"{name}_proj lora A", adapted, "backward", convert=a),
        row(f"{name}_proj lora B", adapted, mul=f"{fan_out} * R", convert=b),
        row(f"{name}_proj lora B", adapted, "backward", mul=f"{fan_out} * R", convert=b),
    )


GROUP_OF = {"H": "gH", "N * D": "gN", "I": "gI"}  # inputs that share a scale in 4 bits
_REACHED = dict(zip(GROUPED, ("x0", "x0", "x0", "a0", "m0", "m0", "p0"), strict=True))  # the input of each

_PROJECTIONS = (
    *(made for name, fans in GROUPED.items() for made in _projection(name, fans, name in "qkv")),
    *(made for name, fans in GROUPED.items() for made in _dequantised(name, fans, _REACHED[name])),
    # Gradients of one input by several paths, added at the second of them.
    *(row(name, layers("x0"), "backward", add="T * H") for name in ("q_proj", "k_proj")),
    *(
        row(component, f"{layers(reached)} * {name} * {dropped}", "backward", add="T * H")
        for name, reached in (("q", "x0"), ("k", "x0"), ("gate", "m0"))
        for component, dropped in ((f"{name}_proj lora A", "(1 - drop)"), ("dropout", "drop"))
    ),
    row("v_proj", layers("x0") + " * v", "backward", add="T * H"),
    row("o_proj", layers("a0"), "backward", add="T * N * D * o"),
    row("gate_proj", layers("m0"), "backward", add="T * H"),
    row("up_proj", layers("m0"), "backward", add="T * H * up"),
    row("down_proj", layers("p0"), "backward", add="T * I * down"),
    *(row(f"{n}_proj", "L * full", "backward", add=f"(T - 1) * {heads} * D") for n, heads in ("qN", "kK", "vK")),
    row("embedding", "full", "backward", add="T * H + (1 - untied) * Y * H"),  # added to the head's
)

_ATTENTION = (
    row("scores", "L * dense", mul="O * T * N * D"),
    row("scores", layers("q0") + " * dense", "backward", mul="T * N * D", convert="T * N * D * half"),
    row("scores", layers("k0") + " * dense", "backward", convert="Z * K * D * half"),
    row("mask", "L * dense", integer="Z + 2 * B * X", compare="B * N * X"),
    row("mask", layers("s0") + " * dense", "backward", compare="B * N * X"),
    # First each part by itself; then the factor that scales a part's sums before they are added; then the quotient.
    row("softmax", "L * dense", compare="B * N * (X - O * S)", exp="B * N * X", add="B * N * (2 * X - O * S)"),
    row("softmax", "L * dense", exp="joined * T * N", mul="joined * T * N * (D + 1)", div="T * N * D",
        compare="(joined - 1) * T * N", add="joined * T * N + (joined - 1) * T * N * (D + 1)",
        convert="(joined + 1) * T * N * D * half"),
    row("softmax", layers("s0") + " * dense * (1 - remat)", when="gradient", mul="T * N", div="T * N"),
    row("softmax", layers("s0") + " * dense * remat", "recomputed", mul="T * N", div="T * N"),
    row("softmax", layers("s0") + " * dense", "backward", mul="B * N * X + T * N * (2 * D + 1)", add="T * N * D"),
    row("softmax", layers("a0") + " * dense", "backward", mul="T * N * D", div="T * N * D", convert="2 * T * N * D * half"),
    *(row("softmax", layers(reached) + " * (blocks - 1)", "backward", add=f"T * {heads} * D")  # what blocks share
      for reached, heads in (("q0", "N"), ("k0", "K"), ("v0", "K"))),
    row("weighted sum", "L * dense", convert="B * N * X * half"),
    row("weighted sum", layers("s0") + " * dense", "backward", add="B * N * X", convert="B * N * X * half"),
    # cuDNN's kernel takes float16 or bfloat16; only the kernel knows what it does in addition to its products, and which of
    # them it skips behind its own mask. In a turn of the decode loop it attends to prompt and tail, after their tokens are
    # counted.
    row("fused attention", "L * min(stored,1)", integer="held + kept", add="held - kept", convert="held + 2",
        compare="2 * T * N * (D + 1)"),
    row("fused attention", "L * masked", integer="Z + 2 * B * X", compare="B * X"),
    row("fused attention", "L * fused", convert="2 * T * (N + K) * D * (1 - half)"),
    *(row("fused attention", layers(reached) + " * fused * (1 - half)", "backward", convert=f"T * {heads} * D")
      for reached, heads in (("a0", "N"), ("q0", "N"), ("k0", "K"), ("v0", "K"))),
)  # fmt: skip

# A block of Threefry-2x32 (Salmon et al. 2011) as jax.random writes it: 80 operations on integers and 37 additions; its
# counter takes 3 more. Its two words form a key, or 32 random bits by an exclusive or.
_KEY_INTEGER, _KEY_ADD = "83", "37"


def _dropout(name: str, fan_in: str, reached: str) -> tuple[Row, ...]:
    """Returns rows for a key, a number in [0, 1) for each element, and what remains of it; likewise for the gradient."""
    n = f"T * {fan_in}"
    return (
        row("dropout", f"L * {name} * drop", when="gradient", integer=f"87 * {n} + 83", add=f"39 * {n} + 39", mul=n,
            compare=f"2 * {n}", div=n, convert="1 + half"),
        row("dropout", f"{layers(reached)} * {name} * drop", "backward", compare=n, div=n),
    )  # fmt: skip


_DROPOUT = (
    row("dropout", "drop", when="step", integer=_KEY_INTEGER, add=_KEY_ADD, convert="1"),
    row("dropout", "drop", when="gradient", integer=_KEY_INTEGER, add=_KEY_ADD, convert="several"),
    *(made for name, reached in _REACHED.items() for made in _dropout(name, GROUPED[name][0], reached)),
)

_LOSS = (
    row("loss", when="loss", compare="Q * V + 2 * Q", add="2 * Q * V + 2 * Q", exp="Q * V", log="Q", integer="2 * Q"),
    row("head", "narrow", when="loss", convert="Q * V"),
    row("loss", "summed", when="loss", add="2 * Q - 1", integer="Q", convert="Q + 1"),  # and the number of tokens
    row("loss", "both", when="loss", compare="Q * U + 4 * Q + G * U", add="2 * Q * U + 2 * Q + G * U", exp="Q * U", log="Q",
        integer="2 * Q * U + Q + G * U"),  # the softmax over the alphabet in addition to that over the vocabulary
    row("loss", "alphabet", when="loss", integer="2 * Q * V - Q", compare="Q * V"),  # the labels as indices into its tokens
    row("loss", "max(head,bias)", "backward", add="2 * Q * V", exp="Q * V", integer="Q * V + Q", compare="Q * V",
        convert="Q * V"),
    row("loss", "max(t,head,bias)", "backward", mul="T * H * t + V * H * head + V * bias"),
    # With a frozen head: the mean of its rows by the loss's exponentials, less the label's row.
    row("head", "t * (1 - max(head,bias))", "backward", div="Q * H", add="Q * H", compare="Q * H",
        convert="2 * Q * H * half"),
    row("loss", "t", "backward", convert="2 * T * H * half"),
    row("loss", "head", "backward", convert="3 * V * H * half"),  # the gradient's sum, rounded and scaled
    row("head", "max(t,head,bias)", "backward", convert="Q * V * half"),
    row("head", "head", "backward", add="G * V * H"),
    row("head", "head - full", convert="Y * H * half"),
    row("head", "head - full", "backward", convert="Y * H * half"),
    row("head", "alphabet * (1 + bias)", integer="V", add="V", compare="V"),  # the rows of its tokens
    row("head", "alphabet", "backward", add="V * H * head + V * bias"),
    row("head", "bias", add="Q * V"),
    row("head", "bias", "backward", add="Q * V"),
)  # fmt: skip

_OPTIMISER = (
    row("optimiser", "several", when="gradient", add="W + 2"),  # the sum over micro-batches: loss, tokens, gradients
    row("optimiser", when="step", div="W", mul="W", add="W", sqrt="1", compare="1"),  # division by the tokens; the norm
    row("optimiser", "clip", when="step", div="W", mul="2 * W", add="W", sqrt="1", compare="W + 1", integer="1"),
    row("optimiser", "adam", when="step", mul="6 * W", add="5 * W + 4", div="3 * W", sqrt="W", pow="2", integer="2",
        compare="2"),
    # Weights that train in a narrow type: their gradients, moments and sums.
    row("optimiser", "full * half", when="step",
        convert="(6 * adam + 4 * muon + skip) * (W - A) + 2 * muon * E + decay * (W - A - E)"),
    row("optimiser", "decay", when="step", mul="W - E", add="W - E"),
    row("optimiser", "muon", when="step", mul="12 * (W - E) + J - F", add="9 * (W - E) + 7", div="3 * (W - E)",
        sqrt="2 * (J - F)", pow="2", integer="5", compare="5 + J - F", convert="J - F"),
    *(
        row("optimiser", f"{ORTHOGONAL} * muon * ({times})", when="step", mul=f"2 * min({m},{n})**2", add=f"min({m},{n})**2")
        for times, (m, n) in MATRICES
    ),
    row("optimiser", "adam * skip", when="step", integer="3", compare="3 * W + 2"),
    row("optimiser", "muon * skip", when="step", integer="3", compare="2 * W + E + 7"),
    # Vectors, by Adam with Nesterov's momentum and a learning rate of their own.
    row("optimiser", "muon * min(E,1)", when="step", mul="8 * E + schedule + 2 * min(schedule,1)", add="6 * E + 4",
        div="4 * E", sqrt="E", pow="3", integer="1", compare="1"),
    # The number of the step, and the learning rate: once for the update, once to be logged.
    row("optimiser", when="step", add="1", mul="2 * schedule + min(schedule,1)"),
)  # fmt: skip


def _categorical(rows: str, times: str, outcomes: str) -> tuple[Row, ...]:
    """Returns rows that draw one outcome as the largest sum of a logit and a Gumbel-distributed number
    (jax.random.categorical).
    """
    n = f"{rows} * {outcomes}"
    return (
        row("sampling", times, when="token", integer=f"86 * {n}", add=f"42 * {n} + 1", mul=n, log=f"2 * {n}",
            compare=f"2 * {n} - {rows}"),
    )  # fmt: skip


# One iteration of the loop draws one token in each of B rows, and as many more as it reads guesses (`ahead`); `turns` and
# `stages` are those of a generation, `series` its prompts.
CHOICES = "(1 + ahead)"
_SAMPLING = (
    row("sampling", when="token", integer="B * (2 * V + 2 * ends + 8 + steps) + 2 * L + 2", add="4 * B + 2 * L + 4",
        compare="4 * B + 2 * L + 3", convert="B", mul="2"),
    row("sampling", "alphabet", when="token", integer="3 * B", add="3 * B", compare="3 * B + B * V"),  # the grammar
    row("sampling", f"penalised * {CHOICES}", when="token", integer="3 * B * V + 2 * B", mul="B * V", div="B * V",
        add="2 * B", compare="2 * B * V + 2 * B"),
    row("sampling", f"greedy * {CHOICES}", when="token", compare="B * V - B"),
    row("sampling", f"drawn * {CHOICES}", when="token", convert="B", integer="83 * B + B * V", add="37 * B", div="B * V",
        compare="B * V"),
    row("sampling", f"drawn * least * {CHOICES}", when="token", compare="B * V * (digits + 1)", integer="B * V"),  # top-k
    row("sampling", f"drawn * nucleus * {CHOICES}", when="token", compare="B * V * (digits + 4) - B", exp="B * V",
        div="B * V", add="4 * B * V - 2 * B", integer="2 * B * V"),  # top-p
    *_categorical("B", f"drawn * (1 - min(parts,1)) * {CHOICES}", "V"),
    # The guess, whether its row draws it, and what then changes in the row.
    row("sampling", "ahead", when="token", integer="B * (2 * V + 2 * ends + 18 + 2 * steps)", add="9 * B",
        compare="2 * B * V + 20 * B", convert="B"),
    row("sampling", "ahead * penalised", when="token", compare="B * V - B"),
    # For a long vocabulary, first a part is drawn by the sums of its exponentials, then a token within it.
    *_categorical("B", "drawn * min(parts,1)", "parts"),
    *_categorical("B", "drawn * min(parts,1)", "part"),
    row("sampling", "drawn * min(parts,1)", when="token", integer="167 * B + B * parts + 1", exp="B * parts * part",
        add="76 * B + 2 * B * parts * part + 1", compare="B * parts * part + B + 1", mul="B",
        log="B * parts"),
    row("sampling", when="generation", add="series", convert="2 * L * stages", integer="(turns + stages) * (B + 2)",
        compare="(series + finals) * max(shared - 1, 0)"),
    row("sampling", "penalised", when="generation", compare="series * shared",
        integer="series * shared + series * V * (2 * shared - 1)"),
)  # fmt: skip

_LAYERS = (*_MODEL, *_PROJECTIONS, *_ATTENTION, *_DROPOUT)
ELEMENTWISE = (*_LAYERS, *formed_again(_LAYERS), *_LOSS, *_OPTIMISER, *_SAMPLING)
