"""What a FLOP is: each convention as data, rows of formulas over the symbols of jaxlv/flops/work.py.

A row is a component, how often it occurs in the model, and its operations: primitives with their number, or one batch of
matrix products, "batch | m, n, p". A convention prices the primitives and the products, and defines the backward pass.

The four papers priced the same training step from 1.29e12 to 8.00e12 FLOPs; their rows here reproduce the figures that they
state, mistakes included, each named at its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from jaxlv.flops.counting.operations import PRIMITIVES
from jaxlv.flops.executed import ELEMENTWISE, EXACT
from jaxlv.flops.rows import FANS, Row, row


class Convention(NamedTuple):
    """`rows` priced by `weights` per primitive and by `product`, FLOPs of an (m, n) x (n, p) product."""

    source: str
    rows: tuple[Row, ...]
    weights: Mapping[str, int]
    product: str
    backward: Literal["twice", "own rows"] = "twice"


# ------------------------------------------------------------------------------------------------- prices

SHEET: Mapping[str, int] = {
    "add": 1, "mul": 1, "div": 1, "compare": 1, "exp": 10, "log": 10, "sqrt": 10, "sin": 10, "rsqrt": 11, "pow": 21,
    "convert": 0, "integer": 0,
}  # fmt: skip
ONE: Mapping[str, int] = dict.fromkeys(PRIMITIVES, 1)
NONE: Mapping[str, int] = dict.fromkeys(PRIMITIVES, 0)
ADDS_COUNTED = "m * p * (2 * n - 1)"  # n products and n - 1 sums per element
FUSED = "2 * m * n * p"  # as hardware executes and vendors count it

# ------------------------------------------------------------------------------------- the assignment's sheet


def norms(times: str) -> Row:
    """Returns RMSNorm's row: squares, mean, eps, inverse root, two products: 4 H + 12 a token at the sheet's prices."""
    return row("norms", times, mul="3 * T * H", add="T * H", div="2 * T", sqrt="T")


def replaced(rows: tuple[Row, ...], *new: Row, without: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """Returns `rows` with the components of `new` in place of their own, and without some components."""
    gone = {r.component for r in new} | set(without)
    return (*(r for r in rows if r.component not in gone), *new)


def lora(fans: Mapping[str, tuple[str, str]], scaled: bool) -> tuple[Row, ...]:
    """Returns rows of B (A x) per adapted projection; `scaled` adds the factor alpha / R and the sum with W x."""
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

# -------------------------------------------------------------------------------------------------- the papers

XU = replaced(
    COURSEWORK,
    row("q_proj", "L", dot="1 | T, H, N * D"),
    row("k_proj", "L", dot="1 | T, H, N * D"),
    row("v_proj", "L", dot="1 | T, H, N * D"),
    *lora(FANS, scaled=False),
    row("rope", "L", add="7 * T * N * D // 2"),
    row("head", mul="Q * H * V"),  # multiply-accumulates instead of FLOPs: half a product
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
    """Returns mao's rows; his head size is 128 although the model's is 64 (896 / 7 in a footnote)."""
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
        row("loss", when="loss", exp="Q * V", add="2 * Q * V + Q", log="Q"),
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

HF = (row("parameters", dot="1 | T, P + A, 1"),)

CONVENTIONS: Mapping[str, Convention] = {
    "coursework": Convention("the assignment's rule, literally", COURSEWORK, SHEET, ADDS_COUNTED),
    "xu": Convention("xu's code", XU, SHEET, ADDS_COUNTED),
    "xu-text": Convention("xu's paper, which counts the head twice as high as his code", XU_TEXT, SHEET, ADDS_COUNTED),
    "rai": Convention("rai's code, which prices exp and sqrt at 1", RAI, ONE, ADDS_COUNTED),
    "rai-table": Convention("rai's rows at the sheet's prices", RAI, SHEET, ADDS_COUNTED),
    "mao": Convention("mao's code, with a head size of 128 although the model's is 64", mao("2 * D"), SHEET, ADDS_COUNTED),
    "mao-hd64": Convention("mao's code with the model's head size", mao("D"), SHEET, ADDS_COUNTED),
    "liu": Convention("liu's code: no head, no embedding, dense RoPE", LIU, SHEET, ADDS_COUNTED),
    "exact": Convention("matrix products as executed", EXACT, NONE, FUSED, "own rows"),
    "exact-all": Convention(
        "every operation as executed, elementwise work at 1", (*EXACT, *ELEMENTWISE), ONE, FUSED, "own rows"
    ),
    "hf": Convention("6 x (parameters except the embedding's + adapters) x tokens: transformers' Trainer", HF, NONE, FUSED),
}
