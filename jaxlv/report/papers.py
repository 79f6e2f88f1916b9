"""The comparison with the four papers: a table and a figure for each part of a protocol, the bill, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from markupsafe import Markup

from jaxlv.report import terminal
from jaxlv.report.evaluation import step_errors
from jaxlv.report.format import MISSING, number
from jaxlv.report.page import Block, Figure, Page, Section
from jaxlv.report.table import NAME, Table, column, of
from jaxlv.results.papers import Comparison, Headline, Line, PartResult
from jaxlv.results.quantities import RAW, Quantity

HEADLINES = ("mao-768", "rai", "xu", "liu")  # the parts that the summary speaks of
KINDS = ("tuning", "validation", "forecasts")
NONE: Mapping[str, str] = MappingProxyType({})


# -------------------------------------------------------------------------------------------------- a part


def heading(part: PartResult) -> str:
    """Says what a part is, in a sentence."""
    p = part.protocol
    return f"{part.part}: {p.words}; {p.count} series, {p.samples} sample{'s' * (p.samples != 1)} each"


def table_of(part: PartResult, places: slice = slice(None)) -> Table:
    """Returns a part's table: mean, median and interval over series of each measure, or some of these."""
    columns = [one for key, measure in part.measures.items() for one in measure.statistics(key)[places]]
    top, rule = {key: part.best(key) for key in part.measures}, part.protocol.scale
    scale = "is fitted on the context alone" if rule == "context" else f"is that of {rule}'s rule"
    caption = (
        "Mean over series with its median and 95 % bootstrap interval; the paper prints a mean alone. Bold: the best of the"
        f" models and baselines. The scale {scale}; the point forecast is the {part.protocol.point_forecast}."
    )

    def is_best(line: Line, one: Quantity) -> bool:
        return line.ours and one.path[-1] == "mean" and one.of(line) is not None and one.of(line) == top[one.key]

    return Table(heading(part), caption, part.lines, [NAME, *columns], is_best)


def format_part(part: PartResult) -> str:
    """Writes a part's table for a terminal: mean and median over series of each measure."""
    units = dict.fromkeys(f"{m.words} in {m.unit}" for m in part.measures.values() if m.unit != "1")
    text = terminal.table(table_of(part, slice(2)), width=1000, units=False)
    return terminal.ascii("\n".join(filter(None, [heading(part), text, "; ".join(units)])))


def part_blocks(part: PartResult, drawings: Mapping[str, str], drawn: str) -> list[Block]:
    """Returns what a page shows of a part: its errors by step, its table, and a forecast, if there is a drawing."""
    blocks: list[Block] = [*step_errors(part.rows, RAW, part.part), table_of(part)]
    if part.part in drawings:
        blocks.append(Figure([Markup(drawings[part.part])], f"{part.drawing}: {drawn}, raw units."))
    return blocks


# -------------------------------------------------------------------------------------------------- the bill


def bill_lines(result: Comparison) -> list[tuple[str, str]]:
    """Says what each protocol cost us, what its paper says that it cost, and what the base cost."""
    found = []
    for name, protocol in result.protocols.items():
        spent = protocol.flops
        again = f", of which {number(spent.repeated)} repeated after interruptions" if spent and spent.repeated else ""
        ours = f"{number(spent.total)} FLOPs{again}" if spent else "not counted (the run has no ledger)"
        found.append((name, f"{ours}; the paper {number(protocol.reported_flops.total)}"))
    total = sum(protocol.flops.total for protocol in result.protocols.values() if protocol.flops)
    found.append(("together", f"{number(float(total))} FLOPs for tuning, validation and forecasts"))
    if base := result.base:
        cost = base.flops["coursework"] if isinstance(base.flops, Mapping) else base.flops
        told = f"{number(cost)} FLOPs, {base.tokens:,} tokens, {base.parameters:,} parameters"
        found.append(("the base, once", told))
    return found


def bill_table(result: Comparison) -> Table:
    """Returns FLOPs by kind of work, beside the budget and what the paper spent."""
    caption = f"FLOPs under the convention {', '.join(result.conventions) or MISSING}, from the ledgers of the runs."
    keys = [*((kind, kind) for kind in KINDS), ("total", "together"), ("budget", "budget")]
    ours = [one.within("flops") for one in of(keys, "ours", "FLOPs")]
    theirs = [column("total", "all", "the paper", "FLOPs"), column("words", " ", "the paper", "FLOPs", "words")]
    columns = [NAME, *ours, *(one.within("reported_flops") for one in theirs)]
    return Table("The bill", caption, result.protocols, columns)


def format_bill(result: Comparison) -> str:
    """Writes the bill for a terminal."""
    lines = []
    for name, told in bill_lines(result):
        spent = result.protocols[name].flops if name in result.protocols else None
        kinds = ", ".join(f"{kind} {number(getattr(spent, kind))}" for kind in KINDS) if spent else ""
        lines.append(f"{name}: {told}{f' ({kinds})' if kinds else ''}")
    return terminal.ascii("\n".join([*lines, *(f"FLOPs by the convention {name}." for name in result.conventions)]))


# ---------------------------------------------------------------------------------------------- the overview

OVERVIEW_CAPTION = (
    "The paper's best figure; the tuned model's mean over series, its 95 % bootstrap interval and its median over series;"
    " the untuned model's mean; the best baseline that does not know the equations; the fit of the right equations (oracle)."
)


def units_of(result: Comparison) -> list[str]:
    """Says the unit of each measure that is not in raw units."""
    measures = [(part.part.split("-")[0], measure) for part in result.parts for measure in part.measures.values()]
    found = dict.fromkeys((name, m.words, m.unit) for name, m in measures if m.unit[:3] not in ("raw", "1"))
    return [f"{name}: {told} in {unit}." for name, told, unit in found]


def overview(result: Comparison) -> Table:
    """Returns every part and measure in a row."""
    caption = " ".join([OVERVIEW_CAPTION, *units_of(result)])
    return Table("All protocols", caption, result.headlines, list(Headline.quantities().values()))


def format_overview(result: Comparison) -> str:
    """Writes the overview for a terminal."""
    told = "\n".join([OVERVIEW_CAPTION.replace("; the untuned", ";\nthe untuned"), *units_of(result)])
    return f"{terminal.table(overview(result), width=1000)}\n{terminal.ascii(told)}"


def format_text(result: Comparison) -> str:
    """Writes the whole comparison as plain text: overview, bill, and each part's table."""
    return "\n\n".join([format_overview(result), format_bill(result), *map(format_part, result.parts)]) + "\n"


# -------------------------------------------------------------------------------------------------- the page


def summary(result: Comparison) -> str:
    """Says in a few sentences how the tuned model's first measure of each headline part compares with the paper's best."""
    sentences = []
    for part in result.parts:
        key, measure = next(iter(part.protocol.measures.items()), ("", None))
        ours, theirs = part.mean("tuned", key), part.reported_means(key)
        if part.part in HEADLINES and measure and ours is not None:
            against = f", against {number(min(theirs))} in the paper" if theirs else ""
            sentences.append(f"{part.part}: {measure.words} {number(ours)} {measure.unit}{against}.")
    return " ".join(sentences) or "Nothing was measured."


def page_of(result: Comparison, drawings: Mapping[str, str] = NONE) -> Page:
    """Returns the page of a comparison; `drawings` are <svg> elements of a part's forecast."""
    sections = [Section("Overview", [overview(result), bill_table(result)])]
    for protocol in result.protocols.values():
        split = f"Split: {', '.join(f'{count} {share}' for share, count in protocol.split.items())} series."
        for part in protocol.parts.values():
            blocks = part_blocks(part, drawings, "median and bands of the tuned model's samples")
            sections.append(Section(part.part, blocks, f"{heading(part)}. {split}"))
    return Page("Comparison with four papers", summary(result), bill_lines(result), sections)
