"""Series as text, on the page of `jaxlv explore`: tokens, rounding errors, token ids, merges, and windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from jaxlv.report.page import Block, Figure, Section
from jaxlv.report.table import Form, Rows, Table, column, count, find, of, share, words

Tree = Mapping[str, Any]
Drawings = Mapping[str, str]  # <svg> elements by name
EXAMPLES = 2  # series whose texts the page shows
SHOWN = 2  # steps of a text that the page shows
CHECKED = 10  # steps of the step-by-step table


def figure(
    drawings: Drawings, names: Sequence[str], caption: str, layout: Literal["cell", "full", "side"] = "cell"
) -> list[Block]:
    """One figure of the drawings with these names; nothing where there is none."""
    held = [Markup(drawings[name]) for name in names if name in drawings]
    return [Figure(held, caption, layout)] if held else []


def text(result: Tree, drawings: Drawings) -> Section:
    """Tokens and rounding errors of every scheme, and the chosen series in it."""
    t, names = result["tables"], result["variables"]
    spread = (("min", "least"), ("median", "median"), ("max", "most"))
    absent = [row for row in t["tokens"] if row["not written"]]
    fault = "".join(f" {row['scheme']} cannot write {row['not written']:,} series ({row['reason']})." for row in absent)
    tokens = [
        words("top", "what is written as 10"),
        words("looks at", "fitted on"),
        count("decimals", "decimals"),
        *of([("alpha min", "least"), ("alpha max", "most")], "alpha", "raw units per written unit"),
        *of([(f"tokens {key}", head) for key, head in spread], "tokens per series", "", "count"),
        *of([("written as zero", "as 0"), ("above the top", "10 or more")], "values written", "%", "share"),
    ]
    errors = [
        column("mae", "mean", "mean absolute error", "raw units"),
        *of([(f"mae {key}", head) for key, head in spread], "mean absolute error", "raw units"),
        *of([(f"mae of {name}", name) for name in names], "mean absolute error", "raw units"),
        *of([("median half unit", "bound, median"), ("max error", "largest")], "single error", "raw units"),
    ]
    every = "Every character is one token. The reports leave the last step open; jaxlv closes it with “;”."
    trip = (
        "Values written and read again: mean absolute error over the steps and variables of a series, and its distribution"
        " over series. A single error is at most half a unit of the last decimal, alpha / 2 / 10^decimals."
    )
    return Section(
        "As text",
        [
            *figure(drawings, ["tokens"], "Tokens per series in each scheme."),
            *figure(drawings, ["round_trip"], "Errors of rounding: from values to text and back."),
            Table("Tokens", every, t["tokens"], [words("scheme"), *tokens]),
            Table("Round trip", trip, t["round trip"], [words("scheme"), count("series"), *errors]),
            *_opening_table(t["texts"]),
            *_step_table(t["steps"], names),
            *_merge_table(t.get("merges") or []),
        ],
        f"Token ids: {result['tokenizer']}.{fault}",
    )


def _opening_table(rows: Rows) -> Iterator[Table]:
    """The first steps of each text, and their ids."""
    shown = []
    ids_shown = list(dict.fromkeys(row["series"] for row in rows))[:EXAMPLES]
    for row in (row for row in rows if row["series"] in ids_shown):
        opening = ";".join(row["text"].split(";")[:SHOWN])
        ids = row["ids"].split(" ")[: len(opening)]
        name = f"series {row['series']}, {row['scheme']}"
        shown.append({**row, "name": name, "opening": opening, "ids": " ".join(ids), "of these": len(ids)})
    columns = [
        words("opening", "text"), words("ids", "token ids"), count("of these", "of these", "tokens"),
        count("tokens", "in all", "tokens"), words("alpha", "alpha (raw units per written unit)"),
    ]  # fmt: skip
    if shown:
        caption = f"The first {SHOWN} steps of series in every scheme. texts.csv has the whole texts of all chosen series."
        yield Table("Texts and token ids", caption, shown, [words("name", " "), *columns])


def _step_table(rows: Rows, names: Sequence[str]) -> Iterator[Table]:
    """The first steps of the first series as mao printed them: value, text, value read, difference."""
    if not rows:
        return
    series = rows[0]["series"]
    scheme = (find(rows, series=series, scheme="mao") or rows[0])["scheme"]
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        if (row["series"], row["scheme"]) == (series, scheme) and row["step"] < CHECKED:
            line = steps.setdefault(row["step"], {"step": row["step"]})
            line |= {f"{key} {row['variable']}": row[key] for key in ("value", "written", "read", "difference")}
    columns = []
    for name in names:
        forms: tuple[tuple[str, Form], ...] = (
            ("value", "fine"),
            ("written", "literal"),
            ("read", "fine"),
            ("difference", "signed"),
        )
        columns += [column(f"{key} {name}", key, name, "", form) for key, form in forms]
    caption = (
        f"Series {series} in the scheme {scheme}, the first {len(steps)} steps; raw units but for what is written. steps.csv"
        " has all steps of the chosen series in every scheme."
    )
    yield Table("Step by step", caption, list(steps.values()), [count("step"), *columns])


def _merge_table(rows: Rows) -> Iterator[Table]:
    """What the tokenizer does not cut into characters."""
    shown = [{**row, "name": row["text"].replace(" ", "␣")} for row in rows]
    columns = [
        words("ids", "token ids"), count("tokens"), count("characters"), words("in format", "can stand in the format"),
    ]  # fmt: skip
    if rows:
        caption = (
            "Every pair of the 13 symbols, “-” and space (␣) that is one token of this tokenizer, then some longer texts. In"
            " the format two delimiters never meet, so its text has none of the pairs."
        )
        yield Table("What the tokenizer merges", caption, shown, [words("name", "text"), *columns])


def windows(result: Tree, drawings: Drawings) -> Section:
    """Windows of tokens: padding, and what full windows leave out."""
    rows = [{**row, "name": f"{row['scheme']}: {row['part']}, {row['length']}"} for row in result["tables"]["windows"]]
    split = "of the reports' splits" if result["course"] else "all, in both parts"
    picture = "Padding of the schemes that pad short windows, and tokens that those leave out which keep full windows only."
    caption = (
        "Without their tail: series whose last token no window holds. jaxlv writes each window in a scale of its own, so"
        " that no token is left out or kept."
    )
    columns = [
        count("stride", "tokens", "stride"), words("windows kept", "windows"), count("series", "number", "series"),
        count("windows", "number", "windows"), share("padding", "positions", "padding"),
        share("tokens left out", "tokens", "left out"), count("series without their tail", "series", "without their tail"),
    ]  # fmt: skip
    return Section(
        "Windows",
        [
            *figure(drawings, ["windows"], picture, "side"),
            Table("Windows", caption, rows, [words("name", "scheme: part, length (tokens)"), *columns]),
        ],
        f"A training window starts every stride, validation windows lie end to end. Series: {split}, at most"
        f" {result['windowed']:,} of each part. A loss that counts padding is smaller than the loss per token.",
    )
