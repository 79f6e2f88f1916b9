"""The comparison with the four reports: a table and a figure for each part of a protocol, the bill, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from jaxlv.report.figures import evaluation as figures
from jaxlv.report.page import MISSING, Block, Cell, Figure, Group, Page, Section, Table, align, number, svg, write

Tree = Mapping[str, Any]
OF_TRUTH = ("above_top", "peak")  # measures that the truth has too
HEADLINES = ("mao-768", "rai", "xu", "liu")  # the parts that the summary speaks of
LARGER = ("r2", "success")  # measures of which more is better
Line = tuple[
    str, dict[str, tuple[float | None, float | None, Sequence[float] | None]]
]  # name, {measure: mean, median, interval}


def lines_of(part: Tree) -> list[Line]:
    """The rows of a part's table: the report's own figures first, then the models' and the baselines'."""
    found: list[Line] = [
        (f"report: {model}", {key: (value, None, None) for key, value in of_model.items()})
        for model, of_model in part["reported"].items()
    ]
    truth = {key: (f["mean"], f["median"], f["ci95"]) for key, f in part["truth"].items() if key in OF_TRUTH}
    if truth:
        found.append(("truth", truth))
    for row in part["rows"]:
        cells = {key: (f["mean"], f["median"], f["ci95"]) for key, f in row["figures"].items() if f["series"]}
        found.append((row["name"], cells))
    return found


def measures_of(part: Tree) -> dict[str, Tree]:
    """The measures that some row of a part has, by key."""
    lines = lines_of(part)
    return {key: measure for key, measure in part["protocol"]["measures"].items() if any(key in cells for _, cells in lines)}


def heading(part: Tree) -> str:
    """What a part is, in a sentence."""
    p = part["protocol"]
    samples = f"{p['samples']} sample{'s' * (p['samples'] != 1)} each"
    return f"{part['part']}: {p['words']}; {len(p['series'])} series, {samples}"


def _best(lines: Sequence[Line], key: str) -> float | None:
    """The best mean of the models and baselines: of errors the least, of R² the largest; of what the truth has too, none."""
    if key in OF_TRUTH:
        return None
    means = [cells[key][0] for name, cells in lines if key in cells and not name.startswith("report")]
    held = [mean for mean in means if mean is not None]
    return (max if key.startswith(LARGER) else min)(held) if len(held) > 1 else None


def _number(key: str, value: float | None) -> str:
    return MISSING if value is None else number(value, of_one=key.startswith(LARGER))


def _interval(key: str, interval: Sequence[float] | None) -> str:
    return " – ".join(_number(key, end) for end in interval) if interval else MISSING


def format_part(part: Tree) -> str:
    """A part's table for a terminal: mean and median over series of each measure."""
    lines, measures = lines_of(part), measures_of(part)
    columns = [["", *(name for name, _ in lines)]]
    for key, measure in measures.items():
        cells = [values.get(key, (None, None, None)) for _, values in lines]
        columns.append([measure["words"], *align([_number(key, mean) for mean, _, _ in cells])])
        columns.append(["median", *align([_number(key, median) for _, median, _ in cells])])
    widths = [max(map(len, column)) for column in columns]
    rows = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    units = dict.fromkeys(f"{m['words']} in {m['unit']}" for m in measures.values() if m["unit"] != "1")
    text = "\n".join([heading(part), rows[0], "-" * len(rows[0]), *rows[1:], "; ".join(units)])
    return text.translate({ord("–"): "-", ord("−"): "-", ord("²"): "2"})


def table_of(part: Tree) -> Table:
    """A part's table for the page, with the median and the interval over series."""
    lines, measures = lines_of(part), measures_of(part)
    rows: list[list[Cell]] = [[Cell(name)] for name, _ in lines]
    groups, columns = [Group("", "", 1)], [""]
    for key, measure in measures.items():
        cells = [values.get(key, (None, None, None)) for _, values in lines]
        best = _best(lines, key)
        means, medians = [_number(key, mean) for mean, _, _ in cells], [_number(key, median) for _, median, _ in cells]
        for row, cell, mean, median in zip(rows, cells, means, medians, strict=True):
            row.append(Cell(mean, cell[0], cell[0] is not None and cell[0] == best and not row[0].text.startswith("report")))
            row.append(Cell(median, cell[1]))
            row.append(Cell(_interval(key, cell[2]), cell[2][0] if cell[2] else None))
        groups.append(Group(measure["words"], measure["unit"], 3))
        columns += ["mean", "median", "95 % interval"]
    rule = part["protocol"]["scale"]
    scale = "is fitted on the context alone" if rule == "context" else f"is that of {rule}'s rule"
    caption = (
        "Mean over series with its median and 95 % bootstrap interval; the report prints a mean alone. Bold: the best of the"
        f" models and baselines. The scale {scale}; the point forecast is the {part['protocol']['point forecast']}."
    )
    return Table(heading(part), caption, groups, columns, rows)


def growth_of(part: Tree) -> Figure:
    """Error against the step ahead of every model and baseline of a part."""
    picture = figures.step_error_figure(part["rows"], unit="raw units")
    label = f"{part['part']}: mean absolute error by step ahead"
    return Figure(
        [svg(picture, label)], "Mean absolute error by step ahead, over series and both species; logarithmic axis."
    )


KINDS = ("tuning", "validation", "forecasts")


def bill_lines(result: Tree) -> list[tuple[str, str]]:
    """What each protocol cost us, what its report says it cost, and what the base cost, in words."""
    found = []
    for name, protocol in result["protocols"].items():
        spent, theirs = protocol["flops"], protocol["reported_flops"]
        again = f", of which {spent['repeated']:.3g} repeated after interruptions" if (spent or {}).get("repeated") else ""
        ours = f"{spent['total']:.3g} FLOPs{again}" if spent else "not counted (the run has no ledger)"
        found.append((name, f"{ours}; the report {theirs['total']:.3g}"))
    total = sum(protocol["flops"]["total"] for protocol in result["protocols"].values() if protocol["flops"])
    found.append(("together", f"{total:.3g} FLOPs for tuning, validation and forecasts"))
    if base := result.get("base"):
        cost = base["flops"]["coursework"] if isinstance(base.get("flops"), Mapping) else base.get("flops")
        words = f"{cost:.3g} FLOPs, {base['tokens']:,} tokens, {base['parameters']:,} parameters"
        found.append(("the base, once", words))
    return found


def bill_table(result: Tree) -> Table:
    """FLOPs by kind of work, beside the budget and what the report spent."""
    rows = []
    for name, protocol in result["protocols"].items():
        spent, theirs = protocol["flops"] or {}, protocol["reported_flops"]
        figures_of = [*(spent.get(kind) for kind in (*KINDS, "total", "budget")), theirs["total"]]
        cells = [Cell(MISSING if value is None else f"{value:.3g}", value) for value in figures_of]
        rows.append([Cell(name), *cells, Cell(theirs["words"])])
    conventions = {protocol["flops"]["convention"] for protocol in result["protocols"].values() if protocol["flops"]}
    caption = f"FLOPs under the convention {', '.join(sorted(conventions)) or MISSING}, from the ledgers of the runs."
    groups = [Group("", "", 1), Group("ours", "FLOPs", 5), Group("the report", "FLOPs", 2)]
    return Table("The bill", caption, groups, ["", *KINDS, "together", "budget", "all", ""], rows)


def format_bill(result: Tree) -> str:
    """The bill for a terminal."""
    lines = []
    for name, words in bill_lines(result):
        spent = (result["protocols"].get(name) or {}).get("flops")
        kinds = ", ".join(f"{kind} {spent[kind]:.3g}" for kind in KINDS) if spent else ""
        lines.append(f"{name}: {words}{f' ({kinds})' if kinds else ''}")
    conventions = {protocol["flops"]["convention"] for protocol in result["protocols"].values() if protocol["flops"]}
    return "\n".join([*lines, *(f"FLOPs by the convention {name}." for name in sorted(conventions))])


OVERVIEW_CAPTION = (
    "The report's best figure; the tuned model's mean over series, its 95 % bootstrap interval and its median over series;\n"
    "the untuned model's mean; the best baseline that does not know the equations; the fit of the right equations (oracle)."
)
OVERVIEW = ("", "report", "tuned", "95 % interval", "median", "untuned", "best baseline", "", "oracle")


def units_of(result: Tree) -> list[str]:
    """Of each measure that is not in raw units, its unit, in words."""
    parts = [part for protocol in result["protocols"].values() for part in protocol["parts"].values()]
    measures = [(part["part"].split("-")[0], measure) for part in parts for measure in measures_of(part).values()]
    found = dict.fromkeys((name, m["words"], m["unit"]) for name, m in measures if m["unit"][:3] not in ("raw", "1"))
    return [f"{name}: {words} in {unit}." for name, words, unit in found]


def overview_rows(result: Tree) -> list[list[str]]:
    """A row for each part and measure that the tuned model has: as `OVERVIEW` heads them."""
    parts = [part for protocol in result["protocols"].values() for part in protocol["parts"].values()]
    return [
        row for part in parts for key, measure in measures_of(part).items() if (row := _overview_row(part, key, measure))
    ]


def _overview_row(part: Tree, key: str, measure: Tree) -> list[str]:
    """The report's best figure; ours; the best baseline that does not know the equations; the fit of the right equations."""
    lines = {name: cells[key] for name, cells in lines_of(part) if key in cells}
    if "tuned" not in lines:
        return []
    means = {name: mean for name, (mean, _, _) in lines.items() if mean is not None}
    better = max if key.startswith(LARGER) else min
    theirs = [mean for name, mean in means.items() if name.startswith("report")]
    oracle = next((mean for name, mean in means.items() if "oracle" in name), None)
    others = ("truth", "tuned", "untuned")
    rivals = [(m, n) for n, m in means.items() if n not in others and "oracle" not in n and not n.startswith("report")]
    best, name = better(rivals) if rivals and key not in OF_TRUTH else (None, "")
    _, median, interval = lines["tuned"]
    unit = f", {measure['unit']}" if measure["unit"].startswith("raw") else ""
    return [
        f"{part['part']}: {measure['words']}{unit}",
        _number(key, better(theirs) if theirs else None),
        _number(key, means.get("tuned")),
        _interval(key, interval),
        _number(key, median),
        _number(key, means.get("untuned")),
        _number(key, best),
        name,
        _number(key, oracle),
    ]


def format_overview(result: Tree) -> str:
    """`overview_rows` for a terminal."""
    rows = [list(OVERVIEW), *overview_rows(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, OVERVIEW.index("best baseline") + 1)
    lines = [
        "  ".join(t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
    text = "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], OVERVIEW_CAPTION, *units_of(result)])
    return text.translate({ord("–"): "-", ord("−"): "-", ord("²"): "2"})


def format_text(result: Tree) -> str:
    """The whole comparison as plain text: overview, bill, and each part's table."""
    parts = [format_part(part) for protocol in result["protocols"].values() for part in protocol["parts"].values()]
    return "\n\n".join([format_overview(result), format_bill(result), *parts]) + "\n"


def summary(result: Tree) -> str:
    """The comparison in a few sentences: the tuned model's first measure of each headline part against the report's best."""
    sentences = []
    for protocol in result["protocols"].values():
        for part in protocol["parts"].values():
            if part["part"] not in HEADLINES:
                continue
            key = next(iter(part["protocol"]["measures"]))
            tuned = next((row["figures"][key] for row in part["rows"] if row["name"] == "tuned"), None)
            if tuned is None or tuned["mean"] is None:
                continue
            measure = part["protocol"]["measures"][key]
            theirs = [values[key] for values in part["reported"].values() if key in values]
            against = f", against {number(min(theirs))} in the report" if theirs else ""
            sentences.append(f"{part['part']}: {measure['words']} {number(tuned['mean'])} {measure['unit']}{against}.")
    return " ".join(sentences) or "Nothing was measured."


def page_of(result: Tree, drawings: Mapping[str, str] = MappingProxyType({})) -> Page:
    """The page of a comparison; `drawings` are <svg> elements of a part's forecast."""
    sections = []
    for protocol in result["protocols"].values():
        counts = ", ".join(f"{count} {share}" for share, count in protocol["split"].items())
        words = f"Split: {counts} series."
        for part in protocol["parts"].values():
            blocks: list[Block] = [table_of(part), growth_of(part)]
            if part["part"] in drawings:
                caption = f"{part['drawing']}: median and bands of the tuned model's samples, raw units."
                blocks.append(Figure([Markup(drawings[part["part"]])], caption))
            sections.append(Section(part["part"], blocks, f"{heading(part)}. {words}"))
    rows = [[Cell(text) for text in row] for row in overview_rows(result)]
    caption = " ".join([OVERVIEW_CAPTION, *units_of(result)])
    overview = Section(
        "Overview",
        [Table("All protocols", caption, [Group("", "", len(OVERVIEW))], list(OVERVIEW), rows), bill_table(result)],
    )
    return Page("Comparison with four reports", summary(result), bill_lines(result), [overview, *sections])


def write_page(path: Path, result: Tree, drawings: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the page, whole or not at all."""
    write(path, page_of(result, drawings))
