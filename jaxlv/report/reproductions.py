"""A reported system, run again: its stages and forecasts beside the report's figures, its errors, its bill, the analyses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from markupsafe import Markup

from jaxlv.report import analyses as analysed
from jaxlv.report import comparison, sweeps
from jaxlv.report.page import MISSING, Block, Figure, Page, Pairs, Section, Table, number, percent, svg
from jaxlv.report.tables.columns import Column, table_of, words
from jaxlv.storage.door import is_there
from jaxlv.storage.files import read_json, read_text

Tree = Mapping[str, Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})
TITLES = {
    "baseline": "Baseline: the untrained model", "first": "First LoRA run", "grid": "Grid", "context": "Context study",
    "final": "Final run",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- the stages


def stage_section(stage: Tree, figure: str) -> Section:
    """A stage's runs, beside the report's figures where it printed some; of several runs what each setting does, too."""
    result = {"runs": stage["runs"], "rule": stage["rule"], "best": stage["best"]}
    told = any(one.get("reported") is not None for one in stage["runs"])
    theirs = f" The report's figure is its {figure}: in its own units, and of the real model." if told else ""
    again = ", ".join(f"{one['name']} is {one['same_as']}" for one in stage["runs"] if "same_as" in one)
    again = f" Trained once: {again}." if again else ""
    before = ", ".join(f"{name} {sweeps.setting(value)}" for name, value in stage["carried"].items())
    chosen = f" Chosen before: {before}." if before else ""
    blocks: list[Block] = []
    for section in sweeps.sections(result):
        blocks += section.blocks
    count = len(stage["runs"])
    return Section(
        TITLES[stage["name"]], blocks, f"{count} run{'s' if count > 1 else ''}.{chosen}{again}{theirs}".replace("..", ".")
    )


class Priced(NamedTuple):
    """A run, its FLOPs, and the figure that it is chosen by."""

    run: str
    flops: float
    error: float


def priced(result: Tree) -> list[Priced]:
    """Returns every run that was trained, each once."""
    found = []
    for stage in result["stages"]:
        for one in stage["runs"]:
            cost, error = sweeps.FLOPS.of(one), one.get(stage["rule"])
            if stage["trains"] and "same_as" not in one and cost and error:
                found.append(Priced(one["name"], float(cost), float(error)))
    return found


# ------------------------------------------------------------------------------------------------- the errors


def faults_table(result: Tree) -> Table:
    """What the report did wrong or also tried, done both ways."""
    rows = [
        {**line, "ratio": line["reported_way"] / line["right_way"] if line["right_way"] else None}
        for line in result["faults"]
    ]
    columns = [
        words("right", "here"),
        words("measured"),
        Column("reported_way", "its way"),
        Column("right_way", "the right way"),
        Column("ratio", "ratio"),
        Column("unit", "unit", form="text"),
    ]
    caption = "What the report did and what is done here, on the same runs and series. Each is a setting, off by default."
    return table_of("Done both ways", caption, rows, words("fault", "the report"), columns)


# ------------------------------------------------------------------------------------------------- the bill


def bill_rows(result: Tree) -> list[dict[str, Any]]:
    """FLOPs by stage: planned, spent, as executed, and as a share of the allowance."""
    plan, bill = result["plan"], result["bill"] or {"phases": {}}
    rows = []
    for row in plan["rows"]:
        spent = bill["phases"].get(row["stage"], {})
        billed = {"spent": spent.get("flops"), "repeated": spent.get("repeated"), "executed": spent.get("exact")}
        rows.append({**row, "planned": row["flops"], **billed})
    keys = ("runs", "steps", "planned", "spent", "repeated", "executed")
    rows.append({"stage": "together", **{key: sum(row[key] or 0 for row in rows) for key in keys}})
    if result["beside"]:
        of = result["beside"]["phases"].values()
        spent, again, exact = (sum(one.get(key) or 0 for one in of) for key in ("flops", "repeated", "exact"))
        rows.append({"stage": "errors and analyses, beside it", "spent": spent, "repeated": again, "executed": exact})
    for row in rows:
        row["share"] = row["spent"] / plan["allowance"] if row.get("spent") else None
    return rows


def bill_table(result: Tree) -> Table:
    """`bill_rows` as a table."""
    convention = result["plan"]["convention"]
    columns = [
        Column("runs", "runs", form="count"),
        Column("steps", "steps", form="count"),
        Column("planned", "planned", f"by {convention}'s convention", "FLOPs"),
        Column("spent", "spent", f"by {convention}'s convention", "FLOPs"),
        Column("repeated", "repeated", "of it, after interruptions", "FLOPs"),
        Column("executed", "spent", "as executed", "FLOPs"),
        Column("share", "of the allowance", form="percent", unit="%"),
    ]
    caption = (
        "FLOPs by stage: the plan prices validations and forecasts at their longest. The allowance is the assignment's 1e17"
        f"{', in proportion to the work at this scale' if result['scale'] == 'small' else ''}."
    )
    return table_of("FLOPs by stage", caption, bill_rows(result), words("stage"), columns)


def bill_lines(result: Tree) -> list[tuple[str, str]]:
    """The bill in words."""
    plan, total = result["plan"], next(row for row in bill_rows(result) if row["stage"] == "together")
    share, theirs = (total["spent"] or 0) / plan["allowance"], plan["reported"]
    steps = sum(one["steps"] for stage in result["stages"] for one in stage["runs"] if "same_as" not in one)
    runs = sum("same_as" not in one for stage in result["stages"] for one in stage["runs"] if stage["trains"])
    return [
        ("runs", f"{runs}, {steps:,} steps"),
        ("spent", f"{number(float(total['spent'] or 0))} FLOPs"),
        *_repeats(result, total["repeated"]),
        ("of the allowance", f"{percent(share)} %{_excess(share)}"),
        (
            "the report",
            f"{number(theirs['flops'])} FLOPs, {percent(theirs['of_allowance'])} % of 1e17{_excess(theirs['of_allowance'])}",
        ),
    ]


def _repeats(result: Tree, repeated: int) -> list[tuple[str, str]]:
    """What was executed again after interruptions, against the plan; nothing if there was none."""
    if not repeated:
        return []
    share, margin = repeated / result["plan"]["total"], result["plan"]["margin"]
    planned = f"{percent(margin)} % {'were planned' if share <= margin else 'are in the budget, the rest is beyond it'}"
    return [("repeated after interruptions", f"{number(float(repeated))} FLOPs, {percent(share)} % of the plan; {planned}")]


def _excess(share: float) -> str:
    return f", {percent(share - 1)} % too much" if share > 1 else ""


# ------------------------------------------------------------------------------------------------- the page


def summary(result: Tree) -> str:
    """What was run and what came of it, in a few sentences."""
    trained = [stage for stage in result["stages"] if stage["trains"]]
    share = "one twentieth of its steps" if result["scale"] == "small" else "all of its steps"
    sentences = [f"The system of the report {result['system']}, run again with {share} on the model {result['model']}."]
    for stage in trained:
        if stage["name"] in ("grid", "context") and stage["chosen"]:
            best = next(one for one in stage["runs"] if one["name"] == stage["best"])
            settings = ", ".join(
                f"{name.rpartition('.')[2].replace('_', ' ')} {sweeps.setting(v)}" for name, v in best["settings"].items()
            )
            sentences.append(f"The {stage['name']} chose {settings}.")
    for part in result["parts"].values():
        key = next(iter(part["protocol"]["measures"]))
        rows = {row["name"]: row["figures"][key]["mean"] for row in part["rows"]}
        if "final" in rows and "untuned" in rows:
            measure = part["protocol"]["measures"][key]
            ours = f"{number(rows['final'])} {measure['unit']} ({number(rows['untuned'])} untrained)"
            sentences.append(f"{part['part']}: {measure['words']} {ours}.")
    return " ".join(sentences)


def part_sections(result: Tree, drawings: Mapping[str, str]) -> list[Section]:
    """A section for each part of the protocol: the report's rows, the models', the baselines'."""
    found = []
    for part in result["parts"].values():
        blocks: list[Block] = [comparison.table_of(part), comparison.growth_of(part)]
        if part["part"] in drawings:
            drawn = (
                "median and bands of the final model's samples" if part["protocol"]["samples"] > 1 else "the final model's"
            )
            caption = f"{part['drawing']}: {drawn}, raw units."
            blocks.append(Figure([Markup(drawings[part["part"]])], caption))
        found.append(Section(f"Forecasts: {part['part']}", blocks, f"{comparison.heading(part)}."))
    return found


def page_of(result: Tree, drawings: Mapping[str, str] = NOTHING, analyses: Tree = NOTHING) -> Page:
    """The page of a reproduction; `drawings` are <svg> elements of a part's forecast, `analyses` those of the final run."""
    sections = [*part_sections(result, drawings), *(stage_section(stage, result["figure"]) for stage in result["stages"])]
    entries = priced(result)
    if len(entries) > 1:
        rule = sweeps.RULES[result["rule"]]
        label = f"{rule} against FLOPs of every run, with Pareto front"
        caption = (
            "Every run of all stages: what it is chosen by, against its FLOPs. The line joins those that none beats in both."
        )
        pareto = Figure(
            [svg(sweeps.pareto_figure(entries, f"FLOPs ({result['plan']['convention']})", rule), label)], caption
        )
        sections.append(Section("Error against FLOPs", [pareto]))
    if result["faults"]:
        sections.append(Section("Done both ways: what the report did wrong, or also tried", [faults_table(result)]))
    sections.append(Section("FLOPs", [bill_table(result)], f"Hours of a plan: {result['plan']['hours']}."))
    sections += analysed.blocks(analyses) if analyses else []
    facts = [("data", result["data"]), ("sha256 of the data", result["data_sha256"] or MISSING), ("model", result["model"])]
    sections.append(Section("Versions", [Pairs("Versions and inputs", [*facts, *result["versions"].items()])]))
    return Page(f"{result['system']}, reproduced", summary(result), bill_lines(result), sections)


def page_of_folder(folder: Path) -> Page:
    """The page of a folder that `jaxlv reproduce` has written."""
    result = read_json(folder / "reproduce.json")
    drawings = {path.stem: read_text(path) for path in (folder / "parts").glob("*.svg")}
    path = folder / "analyses" / "analyses.json"
    return page_of(result, drawings, read_json(path) if is_there(path) else NOTHING)


def format_text(result: Tree) -> str:
    """The parts' tables, the errors and the bill, for a terminal."""
    blocks = [comparison.format_part(part) for part in result["parts"].values()]
    lines = [
        f"{line['fault']}: {line['measured']} {line['reported_way']:.4g}; right: {line['right_way']:.4g} {line['unit']}"
        for line in result["faults"]
    ]
    bill = [f"{name}: {text}" for name, text in bill_lines(result)]
    text = "\n\n".join([*blocks, *(["\n".join(lines)] if lines else []), "\n".join(bill)])
    return text.translate({ord("–"): "-", ord("−"): "-", ord("²"): "2"})
