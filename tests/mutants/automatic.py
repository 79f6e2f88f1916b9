"""Mutants made by rule from the syntax tree, drawn evenly from the folders of the library.

Left alone is what no test could tell: type hints, docstrings, texts of errors and warnings, decorators, `__all__`, sizes of
caches, arguments that may stand either way, and in figures the looks of a mark (colours, widths, sizes of letters).
"""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from .mutant import TOP, Mutant, misplaced

FOLDERS = (
    "model", "lora", "text", "steps", "forecasting", "flops", "runs", "storage", "report", "published", "data", "analysis",
    "results", TOP,
)  # fmt: skip
COMPARED: dict[type, str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
COMPUTED: dict[type, str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|",
    ast.BitOr: "&",
}  # fmt: skip
SWAPPED = {
    "min": "max", "max": "min", "any": "all", "all": "any", "mean": "median", "median": "mean", "floor": "ceil",
    "ceil": "floor", "argmin": "argmax", "argmax": "argmin", "sorted": "list", "std": "var", "minimum": "maximum",
    "maximum": "minimum", "cumsum": "asarray", "abs": "float",
}  # fmt: skip
EITHER_WAY = {"min", "max", "minimum", "maximum", "array_equal", "intersect1d", "isinstance", "getattr", "hasattr"}
SILENT = {"JaxlvError", "BudgetExceeded", "warn", "note", "debug", "info", "warning", "lru_cache", "cache"}
LOOKS = {
    "alpha", "bbox", "bottom", "capsize", "clip_on", "color", "colors", "dashes", "edgecolor", "facecolor", "fontsize",
    "ha", "handlelength", "hspace", "labelpad", "left", "length", "linestyle", "linewidth", "linewidths", "loc", "lw",
    "markeredgewidth", "markersize", "ncols", "pad", "right", "rotation", "s", "size", "top", "va", "width_ratios",
    "wspace", "zorder", "height_ratios", "figsize", "maxsize", "timeout", "hint", "expected", "found", "where",
    "encoding", "strict", "unsafe_hash", "frozen", "repr",
}  # fmt: skip


def candidates(root: Path, folder: str) -> list[Mutant]:
    """Every mutant of a folder of the library, in a fixed order; a few may not be Python."""
    found = []
    library = root / "jaxlv"
    for path in sorted(library.glob("*.py") if folder == TOP else (library / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        file = path.relative_to(root).as_posix()
        for at, old, new, words in sorted(set(_changes(text))):
            line = text[:at].count("\n") + 1
            found.append(Mutant(f"{file[6:]}:{line}:{at}:{words}", file, old, new, f"line {line}: {words}", at))
    return found


def sample(root: Path, number: int, seed: int, folders: Sequence[str] = FOLDERS) -> list[Mutant]:
    """Returns so many mutants, equally many from each folder (or all that it has); seed and code determine them."""
    chosen: list[Mutant] = []
    pools = {folder: candidates(root, folder) for folder in folders}
    for left, folder in zip(range(len(folders), 0, -1), sorted(folders, key=lambda one: len(pools[one])), strict=True):
        drawn = random.Random(f"{seed} {folder}").sample(pools[folder], len(pools[folder]))
        share = round((number - len(chosen)) / left)
        chosen += itertools.islice((one for one in drawn if not misplaced([one], root)), share)
    return chosen


def _changes(text: str) -> Iterator[tuple[int, str, str, str]]:
    """(place, old, new, words) of every change that the rules allow."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = text.splitlines(keepends=True)

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    for node in _living(tree):
        for begin, end, new, words in _of_node(node, span, text):
            if text[begin:end] != new:
                yield begin, text[begin:end], new, words


def _living(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """The nodes that a change of may be noticed: all but those the module's docstring names."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"):
        if isinstance(node, ast.Raise) and inside:
            yield node
        return
    if isinstance(node, ast.Call) and _name(node.func) in SILENT:
        return
    if isinstance(node, ast.keyword) and node.arg in LOOKS:
        return
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)):
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                inner = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                yield from _living(child, inner)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _of_node(node: ast.AST, span, text: str) -> Iterator[tuple[int, int, str, str]]:
    """(begin, end, new text, words) of the changes of one node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        new = COMPARED[type(node.ops[0])]
        begin, end = span(node.left)[1], span(node.comparators[0])[0]
        yield from _operator(text, begin, end, new)
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in COMPUTED:
        first, second = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        if not any(isinstance(side, (ast.Constant, ast.JoinedStr)) and not _number(side) for side in (first, second)):
            after = "=" if isinstance(node, ast.AugAssign) else ""
            yield from _operator(text, span(first)[1], span(second)[0], COMPUTED[type(node.op)] + after)
    elif isinstance(node, ast.BoolOp):
        new = "or" if isinstance(node.op, ast.And) else "and"
        for first, second in zip(node.values, node.values[1:], strict=False):
            yield from _operator(text, span(first)[1], span(second)[0], new)
    elif (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, (ast.Not, ast.USub))
        and not isinstance(node.operand, ast.Constant)
    ):
        yield span(node)[0], span(node.operand)[0], "", "a sign or a not left out"
    elif isinstance(node, ast.Constant) and _number(node):
        begin, end = span(node)
        new = str(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
        yield begin, end, new, f"{text[begin:end]} -> {new}"
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        begin, end = span(node.test)
        if not isinstance(node.test, (ast.Compare, ast.Constant)):
            yield begin, end, f"(not ({text[begin:end]}))", "a condition turned round"
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield *span(node), "return None", "returns None"
    elif isinstance(node, ast.Raise):
        yield *span(node), "pass", "an error not raised"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield *span(node), "pass", f"{ast.unparse(node.value.func)[:40]}(...) not called"
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Subscript, ast.Attribute)):
        yield *span(node), "pass", f"{ast.unparse(node.targets[0])[:40]} not set"
    elif isinstance(node, ast.Call):
        yield from _of_call(node, span, text)


def _operator(text: str, begin: int, end: int, new: str) -> Iterator[tuple[int, int, str, str]]:
    """The change of the operator between two operands, if nothing but brackets and spaces stands beside it."""
    between = text[begin:end]
    old = between.strip(" ()\n\\")
    if old and "#" not in old and "\n" not in old and len(old) <= 6:
        at = begin + between.index(old)
        yield at, at + len(old), new, f"{old} -> {new}"


def _of_call(node: ast.Call, span, text: str) -> Iterator[tuple[int, int, str, str]]:
    name = _name(node.func)
    if name in SWAPPED:
        begin, end = span(node.func)
        yield begin, end, text[begin : end - len(name)] + SWAPPED[name], f"{name} -> {SWAPPED[name]}"
    plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
    if len(plain) == len(node.args) >= 2 and name not in EITHER_WAY:
        (a, b), (c, d) = span(node.args[0]), span(node.args[1])
        if text[a:b] != text[c:d]:
            yield a, d, text[c:d] + text[b:c] + text[a:b], f"arguments of {name} exchanged"
    for i, keyword in enumerate(node.keywords):
        if keyword.arg and keyword.arg not in LOOKS:
            begin, end = span(keyword)
            before = node.keywords[i - 1] if i else node.args[-1] if node.args else None
            begin = span(before)[1] if before is not None else begin
            yield begin, end, "", f"{keyword.arg}= left out"


def _number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
