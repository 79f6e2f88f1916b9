"""A paper's system, run again: its stages and forecasts beside the paper's figures, its errors, its bill, the analyses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxlv.report import analyses as analysed
from jaxlv.report import papers, sweeps, terminal
from jaxlv.report.format import MISSING, number, percent, plain
from jaxlv.report.page import Page, Pairs, Section, figure
from jaxlv.report.papers import NONE
from jaxlv.report.table import Table, column, words
from jaxlv.results.analyses import Analyses
from jaxlv.results.papers import BothWays, Reproduction, StageCost, StageResult
from jaxlv.results.sweeps import rule_words

TITLES = {
    "baseline": "Baseline: the untrained model", "first": "First LoRA run", "grid": "Grid", "context": "Context study",
    "final": "Final run",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- the stages


def stage_section(stage: StageResult, figure: str) -> Section:
    """Returns a stage's runs, beside the paper's figures if it printed some; of several runs what each setting does, too."""
    told = any(one.reported is not None for one in stage.runs)
    theirs = f" The paper's figure is its {figure}: in its own units, and of the real model." if told else ""
    again = ", ".join(f"{one.name} is {one.same_as}" for one in stage.runs if one.same_as is not None)
    again = f" Trained once: {again}." if again else ""
    before = ", ".join(f"{name} {plain(value)}" for name, value in stage.carried.items())
    chosen = f" Chosen before: {before}." if before else ""
    (runs,) = sweeps.sections(stage.runs, stage.rule, stage.best)
    count = len(stage.runs)
    text = f"{count} run{'s' if count > 1 else ''}.{chosen}{again}{theirs}".replace("..", ".")
    return replace(runs, title=TITLES[stage.name], text=text)


# ------------------------------------------------------------------------------------------------- the errors


def faults_table(result: Reproduction) -> Table:
    """Returns what the paper did wrong or also tried, done both ways."""
    ways = [*BothWays.columns("reported_way", "right_way"), column("ratio"), words("unit")]
    caption = "What the paper did and what is done here, on the same runs and series. Each is a setting, off by default."
    columns = [words("fault", "the paper"), words("right", "here"), words("measured"), *ways]
    return Table("Done both ways", caption, result.faults, columns)


# ------------------------------------------------------------------------------------------------- the bill


def bill_table(result: Reproduction) -> Table:
    """Returns FLOPs by stage."""
    group = f"by {result.plan.convention}'s convention"
    columns = [
        replace(one, group=group) if key in ("planned", "spent") else one for key, one in StageCost.quantities().items()
    ]
    caption = (
        "FLOPs by stage: the plan prices validations and forecasts at their longest. The allowance is the assignment's 1e17"
        f"{', in proportion to the work at this scale' if result.scale == 'small' else ''}."
    )
    return Table("FLOPs by stage", caption, result.spending, columns)


def bill_lines(result: Reproduction) -> list[tuple[str, str]]:
    """Says the bill in words."""
    total = next(row for row in result.spending if row.stage == "together")
    spent, theirs = total.spent or 0, result.plan.reported
    share, of = spent / result.plan.allowance, theirs.of_allowance or 0.0
    steps = sum(one.steps or 0 for stage in result.stages for one in stage.own)
    return [
        ("runs", f"{len(result.trained)}, {steps:,} steps"),
        ("spent", f"{number(float(spent))} FLOPs"),
        *_repeats(result, total.repeated or 0),
        ("of the allowance", f"{percent(share)} %{_excess(share)}"),
        ("the paper", f"{number(theirs.flops)} FLOPs, {percent(of)} % of 1e17{_excess(of)}"),
    ]


def _repeats(result: Reproduction, repeated: float) -> list[tuple[str, str]]:
    """Says what was executed again after interruptions, against the plan; nothing if nothing was."""
    if not repeated:
        return []
    share, margin = repeated / result.plan.total, result.plan.margin
    planned = f"{percent(margin)} % {'were planned' if share <= margin else 'are in the budget, the rest is beyond it'}"
    return [("repeated after interruptions", f"{number(float(repeated))} FLOPs, {percent(share)} % of the plan; {planned}")]


def _excess(share: float) -> str:
    return f", {percent(share - 1)} % too much" if share > 1 else ""


# ------------------------------------------------------------------------------------------------- the page


def summary(result: Reproduction) -> str:
    """Says what was run and what it reached, in a few sentences."""
    share = "one twentieth of its steps" if result.scale == "small" else "all of its steps"
    sentences = [f"The system of the paper {result.system}, run again with {share} on the model {result.model}."]
    for stage in result.stages:
        if stage.name in ("grid", "context") and stage.trains and stage.chosen:
            best = next(one for one in stage.runs if one.name == stage.best)
            sentences.append(f"The {stage.name} chose {sweeps.settings_words(best)}.")
    for part in result.parts.values():
        key, measure = next(iter(part.protocol.measures.items()))
        final, untuned = part.mean("final", key), part.mean("untuned", key)
        if final is not None and untuned is not None:
            ours = f"{number(final)} {measure.unit} ({number(untuned)} untrained)"
            sentences.append(f"{part.part}: {measure.words} {ours}.")
    return " ".join(sentences)


def part_sections(result: Reproduction, drawings: Mapping[str, str]) -> list[Section]:
    """Returns a section for each part of the protocol: the paper's rows, the models', the baselines'."""
    found = []
    for part in result.parts.values():
        several = (part.protocol.samples or 0) > 1
        drawn = "median and bands of the final model's samples" if several else "the final model's"
        blocks = papers.part_blocks(part, drawings, drawn)
        found.append(Section(f"Forecasts: {part.part}", blocks, f"{papers.heading(part)}."))
    return found


def page_of(result: Reproduction, drawings: Mapping[str, str] = NONE, analyses: Analyses | None = None) -> Page:
    """Returns the page; `drawings` are <svg> elements of parts' forecasts, `analyses` those of the final run."""
    sections = [*part_sections(result, drawings), *(stage_section(stage, result.figure) for stage in result.stages)]
    if len(result.points) > 1:
        rule = rule_words(result.rule)
        label = f"{rule} against FLOPs of every run, with Pareto front"
        caption = (
            "Every run of all stages: what it is chosen by, against its FLOPs. The line joins those that none beats in both."
        )
        drawing = sweeps.pareto_figure(result.points, f"FLOPs ({result.plan.convention})", rule)
        sections.append(Section("Error against FLOPs", [figure(drawing, label, caption)]))
    if result.faults:
        sections.append(Section("Done both ways: what the paper did wrong, or also tried", [faults_table(result)]))
    sections.append(Section("FLOPs", [bill_table(result)], f"Hours of a plan: {result.plan.hours}."))
    sections += analysed.sections(analyses) if analyses else []
    facts = [("data", result.data), ("sha256 of the data", result.data_sha256), ("model", result.model)]
    pairs = [*((name, value or MISSING) for name, value in facts), *result.versions.items()]
    sections.append(Section("Versions", [Pairs("Versions and inputs", pairs)]))
    return Page(f"{result.system}, reproduced", summary(result), bill_lines(result), sections)


def format_text(result: Reproduction) -> str:
    """Writes the parts' tables, the errors and the bill, for a terminal."""
    lines = [
        f"{one.fault}: {one.measured} {number(one.reported_way)}; right: {number(one.right_way)} {one.unit}"
        for one in result.faults
    ]
    bill = [f"{name}: {text}" for name, text in bill_lines(result)]
    blocks = [*map(papers.format_part, result.parts.values()), "\n".join(lines), "\n".join(bill)]
    return terminal.ascii("\n\n".join(filter(None, blocks)))
