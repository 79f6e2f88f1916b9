"""What a FLOP is: each convention as data, rows of formulas over the symbols of jaxlv/flops/work.py.

A row is a component, how often it stands in the model, and its operations: primitives with their number, or one batch of
matrix products, "batch | m, n, p". A convention prices the primitives and the products, and says what the backward pass is.

The four reports priced the same training step from 1.29e12 to 8.00e12 FLOPs; their rows here reproduce the figures that
they state, errors included, each named where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Phase = Literal["forward", "backward", "recomputed"]


class Row(NamedTuple):
    """`times` and every number in `operations` are formulas; a row that only training has is not part of a forward pass."""

    component: str
    times: str
    operations: tuple[tuple[str, str], ...]
    phase: Phase = "forward"
    training: bool = False


class Convention(NamedTuple):
    """`rows` priced by `weights` per primitive and by `product`, FLOPs of an (m, n) x (n, p) product."""

    source: str
    rows: tuple[Row, ...]
    weights: Mapping[str, int]
    product: str
    backward: Literal["twice", "own rows"] = "twice"


# ------------------------------------------------------------------------------------------------- prices

PRIMITIVES = ("add", "mul", "div", "compare", "exp", "log", "sqrt", "sin", "rsqrt", "pow", "convert", "integer")
SHEET: Mapping[str, int] = {
    "add": 1, "mul": 1, "div": 1, "compare": 1, "exp": 10, "log": 10, "sqrt": 10, "sin": 10, "rsqrt": 11, "pow": 21,
    "convert": 0, "integer": 0,
}  # fmt: skip
ONE: Mapping[str, int] = dict.fromkeys(PRIMITIVES, 1)
NONE: Mapping[str, int] = dict.fromkeys(PRIMITIVES, 0)
ADDS_COUNTED = "m * p * (2 * n - 1)"  # n products and n - 1 sums per element
FUSED = "2 * m * n * p"  # as hardware executes and vendors count it

# ------------------------------------------------------------------------------------- the assignment's sheet


def row(component: str, times: str = "1", phase: Phase = "forward", training: bool = False, **operations: str) -> Row:
    """A row; the operations by name, `dot` for matrix products."""
    return Row(component, times, tuple(operations.items()), phase, training)


def norms(times: str) -> Row:
    """RMSNorm: squares, their mean, eps, inverse root, two products: 4 H + 12 a token at the sheet's prices."""
    return row("norms", times, mul="3 * T * H", add="T * H", div="2 * T", sqrt="T")


def replaced(rows: tuple[Row, ...], *new: Row, without: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """`rows` with the components of `new` in their place, and without some components."""
    gone = {r.component for r in new} | set(without)
    return (*(r for r in rows if r.component not in gone), *new)


FANS = {  # (in, out) of the projections, every head with keys and values of its own: GQA priced as multi-head attention
    "q": ("H", "N * D"),
    "k": ("H", "N * D"),
    "v": ("H", "N * D"),
    "o": ("N * D", "H"),
    "gate": ("H", "I"),
    "up": ("H", "I"),
    "down": ("I", "H"),
}
GROUPED = FANS | {"k": ("H", "K * D"), "v": ("H", "K * D")}


def lora(fans: Mapping[str, tuple[str, str]], scaled: bool) -> tuple[Row, ...]:
    """B (A x) for each adapted projection; with `scaled`, the factor alpha / R and the sum with W x are counted."""
    made = []
    for name, (fan_in, fan_out) in fans.items():
        extra = f"T * {fan_out}" if scaled else "0"
        made.append(row(f"{name}_proj lora A", f"L * {name}", dot=f"1 | T, {fan_in}, R"))
        made.append(row(f"{name}_proj lora B", f"L * {name}", dot=f"1 | T, R, {fan_out}", mul=extra, add=extra))
    return tuple(made)


COURSEWORK = (
    row("embedding", add="T * H"),
    norms("2 * L + 1"),
    row("q_proj", "L", dot="1 | T, H, N * D", add="T * N * D"),
    row("k_proj", "L", dot="1 | T, H, N * D", add="T * N * D"),
    row("v_proj", "L", dot="1 | T, H, N * D", add="T * N * D"),
    *lora(FANS, scaled=True),
    row("scores", "L", dot="B * N | S, D, C"),
    row("scale", "L", div="B * N * S * C", sqrt="1"),
    row("mask", "L", add="B * N * S * C"),
    row("softmax", "L", exp="B * N * S * C", add="B * N * S * (C - 1)", div="B * N * S * C"),
    row("weighted sum", "L", dot="B * N | S, C, D"),
    row("o_proj", "L", dot="1 | T, N * D, H"),
    row("gate_proj", "L", dot="1 | T, H, I"),
    row("up_proj", "L", dot="1 | T, H, I"),
    row("activation", "L", mul="2 * T * I", add="2 * T * I", exp="T * I", div="T * I"),  # SiLU 14, product 1
    row("down_proj", "L", dot="1 | T, I, H"),
    row("residuals", "L", add="2 * T * H"),
    row("head", dot="1 | Q, H, V", add="Q * V"),  # with its trained bias
)

# ------------------------------------------------------------------------------------------------- the reports

XU = replaced(
    COURSEWORK,
    row("q_proj", "L", dot="1 | T, H, N * D"),
    row("k_proj", "L", dot="1 | T, H, N * D"),
    row("v_proj", "L", dot="1 | T, H, N * D"),
    *lora(FANS, scaled=False),
    row("rope", "L", add="7 * T * N * D // 2"),
    row("head", mul="Q * H * V"),  # multiply-accumulates where FLOPs are meant: half a product
    without=("scale",),
)
XU_TEXT = replaced(XU, row("head", mul="2 * Q * H * V"))

RAI = replaced(
    COURSEWORK,
    row("norms", "2 * L + 1", add="T * (H - 1)", mul="2 * T * H", div="T * H + T", sqrt="T"),
    row("q_proj", "L", mul="T * H * H", add="T * H * H"),
    row("k_proj", "L", mul="T * H * H", add="T * H * H"),  # two heads of 448: grouped attention cancels out
    row("v_proj", "L", mul="T * H * H", add="T * H * H"),
    row("activation", "L", add="T * I", div="T * I", mul="T * I", exp="T * I"),
    without=("mask", "residuals"),
)


def mao(head_size: str) -> tuple[Row, ...]:
    """mao's rows; his head size is 128 where the model's is 64 (896 / 7 in a footnote)."""
    E, W = head_size, f"N * {head_size}"
    per_head = {"q": ("H", E), "k": ("H", E), "v": ("H", E), "o": (E, "H"), "gate": ("H", "I"), "up": ("H", "I")}
    per_head["down"] = ("I", "H")
    adapters = tuple(
        made
        for name, (fan_in, fan_out) in per_head.items()
        for made in (
            row(f"{name}_proj lora A", f"N * {name}", dot=f"1 | T, {fan_in}, R"),
            row(f"{name}_proj lora B", f"N * {name}", dot=f"1 | T, R, {fan_out}", add=f"2 * T * {fan_out} + 1"),
        )
    )
    return replaced(
        COURSEWORK,
        norms("2 * L"),  # no final norm
        row("q_proj", "L", dot=f"1 | T, H, {W}", add=f"T * {W}"),
        row("k_proj", "L", dot=f"1 | T, H, {W}", add=f"T * {W}"),
        row("v_proj", "L", dot=f"1 | T, H, {W}", add=f"T * {W}"),
        *adapters,
        row("rope", "L", add=f"2 * T * {W}"),
        row("scores", "L", dot=f"B * N | S, {E}, C"),
        row("scale", "L", div="B * N * S * C", sqrt="B * N"),
        row("weighted sum", "L", dot=f"B * N | S, C, {E}", add="-1"),
        row("o_proj", "L", dot=f"1 | T, {W}, H"),
        row("loss", training=True, exp="Q * V", add="2 * Q * V + Q", log="Q"),
        without=("embedding",),
    )


LIU = replaced(
    COURSEWORK,
    row("norms", "L", mul="2 * T * H", add="T * H", div="2 * T", sqrt="T"),  # one a layer
    row("rope", "L", dot="3 * N | T, D, D"),  # a dense matrix for each head of q, k and v
    row("softmax", "B * L * N", exp="2 * S * C", add="2 * S * C - S", div="S * C", sqrt="1"),  # exp counted twice
    row("gate_proj", "L", dot="1 | T, H, I", add="T * I"),  # biases that the model does not have
    row("up_proj", "L", dot="1 | T, H, I", add="T * I"),
    row("down_proj", "L", dot="1 | T, I, H", add="T * H"),
    row("activation", "L", add="T * I", div="T * I", mul="T * I", exp="T * I"),
    *(row(f"{name}_proj lora", f"L * {name}", mul=f"2 * R * {a} * {b}") for name, (a, b) in FANS.items()),  # W + B A
    without=("embedding", "scale", "mask", "head", *(f"{name}_proj lora {part}" for name in FANS for part in "AB")),
)

# ------------------------------------------------------------------------------------------ what really runs


def _linear(name: str, fans: tuple[str, str], reached: str) -> tuple[Row, ...]:
    """A projection with its adapter; `reached` says whether the gradient reaches its input in layer 0."""
    fan_in, fan_out = fans
    inputs = f"(L - 1) * t + {reached}"  # layers in which the gradient with respect to the input is formed
    outputs = f"L * {name}"
    return (
        row(f"{name}_proj", "L", dot=f"1 | T, {fan_in}, {fan_out}"),
        row(f"{name}_proj", inputs, "backward", dot=f"1 | T, {fan_out}, {fan_in}"),
        row(f"{name}_proj", "L * full", "backward", dot=f"1 | {fan_out}, T, {fan_in}"),
        row(f"{name}_proj lora A", outputs, dot=f"1 | T, {fan_in}, R"),
        row(f"{name}_proj lora A", outputs, "backward", dot=f"1 | R, T, {fan_in}"),
        row(f"{name}_proj lora A", f"({inputs}) * {name}", "backward", dot=f"1 | T, R, {fan_in}"),
        row(f"{name}_proj lora B", outputs, dot=f"1 | T, R, {fan_out}"),
        row(f"{name}_proj lora B", outputs, "backward", dot=f"1 | {fan_out}, T, R"),
        row(f"{name}_proj lora B", outputs, "backward", dot=f"1 | T, {fan_out}, R"),
    )


EXACT = (
    *_linear("q", GROUPED["q"], "x0"),
    *_linear("k", GROUPED["k"], "x0"),
    *_linear("v", GROUPED["v"], "x0"),
    row("scores", "L * dense", dot="B * N | X, D, 1"),
    row("scores", "((L - 1) * t + q0) * dense", "backward", dot="B * N | X, D, 1"),  # of the queries
    row("scores", "((L - 1) * t + k0) * dense", "backward", dot="B * N | X, D, 1"),  # of the keys
    row("weighted sum", "L * dense", dot="B * N | S, X // S, D"),
    row("weighted sum", "L * dense", dot="B * N | X % S, 1, D"),  # where S does not divide the pairs of all blocks
    row("weighted sum", "((L - 1) * t + s0) * dense", "backward", dot="B * N | X, D, 1"),  # of the weights
    row("weighted sum", "((L - 1) * t + v0) * dense", "backward", dot="B * N | X, D, 1"),  # of the values
    row("fused attention", "L * fused", dot="2 * B * N | X, D, 1"),
    row("fused attention", "((L - 1) * t + a0) * fused", "backward", dot="5 * B * N | X, D, 1"),  # scores formed again
    *_linear("o", GROUPED["o"], "a0"),
    *_linear("gate", GROUPED["gate"], "m0"),
    *_linear("up", GROUPED["up"], "m0"),
    *_linear("down", GROUPED["down"], "p0"),
    row("head", dot="1 | Q, H, V"),
    row("head", "t", "backward", dot="1 | Q, V, H"),
    row("head", "head", "backward", dot="1 | V, Q, H"),
)

# Elementwise work of the float32 step with Adam, as XLA counts it: each operation on each element once. Forward rows are
# exact; those that only training has leave out what does not grow with the batch, and a few operations per token.
REACHED = {
    name: f"((L - 1) * t + {flag})" for name, flag in (("q", "q0"), ("k", "k0"), ("a", "a0"), ("m", "m0"), ("p", "p0"))
}
ATTENTION_INPUT = "(L - 1) * t + x0"
NORMS_REACHED = "(2 * L - 1) * t + x0 + m0"

ELEMENTWISE = (
    row("embedding", integer="T", add="T", compare="T"),
    row("norms", "2 * L + 1", mul="3 * T * H", add="T * H", div="T", rsqrt="T", compare="2 * T"),
    row("norms", NORMS_REACHED, training=True, mul="T * H + T", div="T"),
    row("norms", NORMS_REACHED, "backward", mul="4 * T * H + T", add="2 * T * H", compare="T"),
    row("norms", f"{NORMS_REACHED} - t", "backward", add="T * H"),  # joined by the residual's gradient
    row("norms", "(2 * L + 1) * full", "backward", mul="T * H", add="(T - 1) * H"),
    row("rope", "L", mul="2 * T * (N + K) * D", add="T * (N + K) * D"),
    row("rope", mul="T * D // 2 + D // 2", add="D", div="D // 2", pow="D // 2", sin="T * D", convert="T"),
    row("rope", REACHED["q"], "backward", mul="2 * T * N * D", add="3 * T * N * D // 2"),
    row("rope", REACHED["k"], "backward", mul="2 * T * K * D", add="3 * T * K * D // 2"),
    row("q_proj", "L", add="T * N * D * (1 + q)"),
    row("k_proj", "L", add="T * K * D * (1 + k)"),
    row("v_proj", "L", add="T * K * D * (1 + v)"),
    row("o_proj", "L", add="T * H * o"),
    row("gate_proj", "L", add="T * I * gate"),
    row("up_proj", "L", add="T * I * up"),
    row("down_proj", "L", add="T * H * down"),
    *(row(f"{name}_proj lora B", f"L * {name}", mul=f"T * {fan_out}") for name, (_, fan_out) in GROUPED.items()),
    *(
        row(f"{name}_proj lora B", f"L * {name}", "backward", mul=f"T * {fan_out}")
        for name, (_, fan_out) in GROUPED.items()
    ),
    *(row(name, ATTENTION_INPUT, "backward", add="T * H") for name in ("q_proj", "k_proj")),  # the inputs' gradients, added
    *(row(f"{n}_proj lora A", f"({ATTENTION_INPUT}) * {n}", "backward", add="T * H") for n in "qk"),
    row("v_proj", f"({ATTENTION_INPUT}) * v", "backward", add="T * H"),
    row("o_proj", REACHED["a"], "backward", add="T * N * D * o"),
    row("gate_proj", REACHED["m"], "backward", add="T * H"),
    row("gate_proj lora A", REACHED["m"], "backward", add="T * H * gate"),
    row("up_proj", REACHED["m"], "backward", add="T * H * up"),
    row("down_proj", REACHED["p"], "backward", add="T * I * down"),
    *(row(f"{n}_proj", "L * full", "backward", add=f"(T - 1) * {heads} * D") for n, heads in ("qN", "kK", "vK")),
    row("embedding", "full", "backward", add="T * H + V * H"),
    row("head", "head", "backward", add="G * V * H"),
    row("scores", "L * dense", mul="T * N * D"),
    row("scores", REACHED["q"] + " * dense", "backward", mul="T * N * D"),
    row("mask", "L * dense", integer="B * C + 2 * B * X", compare="B * N * X"),
    row("mask", REACHED["a"] + " * dense", "backward", compare="B * N * X"),
    row("softmax", "L * dense", compare="B * N * (X - S)", exp="B * N * X + T * N", mul="T * N * (D + 1)", div="T * N * D",
        add="B * N * (2 * X - S) + T * N"),
    row("softmax", REACHED["a"] + " * dense", training=True, mul="T * N", div="T * N"),
    row("softmax", REACHED["a"] + " * dense", "backward", mul="B * N * X + T * N * (3 * D + 1)", div="T * N * D",
        add="T * N * D"),
    row("weighted sum", REACHED["a"] + " * dense", "backward", add="B * N * X"),
    row("activation", "L", mul="2 * T * I", add="2 * T * I", exp="T * I", div="T * I"),
    row("activation", REACHED["p"], "recomputed", mul="2 * T * I", add="3 * T * I", exp="T * I", div="T * I"),
    row("activation", REACHED["p"], "backward", mul="5 * T * I", add="T * I"),
    row("residuals", "L", add="2 * T * H"),
    row("loss", training=True, compare="Q * V + 5 * Q", add="2 * Q * V + 3 * Q", exp="Q * V", log="Q", integer="3 * Q"),
    row("loss", "1 if t + head else 0", "backward", add="2 * Q * V", exp="Q * V", integer="Q * V + Q", convert="Q * V",
        compare="Q * V", mul="T * H + V * H * head"),
    row("optimiser", training=True, div="4 * W", mul="8 * W", add="7 * W", sqrt="W"),
)  # fmt: skip

HF = (row("parameters", dot="1 | T, P + A, 1"),)

CONVENTIONS: Mapping[str, Convention] = {
    "coursework": Convention("the assignment's rule, literally", COURSEWORK, SHEET, ADDS_COUNTED),
    "xu": Convention("xu's code", XU, SHEET, ADDS_COUNTED),
    "xu-text": Convention("xu's report, which counts the head twice as high as his code", XU_TEXT, SHEET, ADDS_COUNTED),
    "rai": Convention("rai's code, which prices exp and sqrt at 1", RAI, ONE, ADDS_COUNTED),
    "rai-table": Convention("rai's rows at the sheet's prices", RAI, SHEET, ADDS_COUNTED),
    "mao": Convention("mao's code, with a head size of 128 where the model has 64", mao("2 * D"), SHEET, ADDS_COUNTED),
    "mao-hd64": Convention("mao's code with the model's head size", mao("D"), SHEET, ADDS_COUNTED),
    "liu": Convention("liu's code: no head, no embedding, dense RoPE", LIU, SHEET, ADDS_COUNTED),
    "exact": Convention("matrix products as executed", EXACT, NONE, FUSED, "own rows"),
    "exact-all": Convention(
        "every operation as executed, elementwise work at 1", (*EXACT, *ELEMENTWISE), ONE, FUSED, "own rows"
    ),
    "hf": Convention("6 x (parameters but the embedding's + adapters) x tokens: transformers' Trainer", HF, NONE, FUSED),
}
