"""The page of a run folder: what it reached and cost, its curves, how it was measured, what lies in it, its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlv.analysis import anatomy
from jaxlv.data.series import COURSE_SHA256, SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.forecaster import Forecast, read_csv
from jaxlv.forecasting.panels import panels
from jaxlv.lora import adapters
from jaxlv.published.protocols import matching
from jaxlv.report import analyses as analysed
from jaxlv.report import evaluation, reported
from jaxlv.report.anatomy import training_part
from jaxlv.report.folders import Evaluation, Run, Tree
from jaxlv.report.page import MISSING, Page, Section, Table, duration, number, plain
from jaxlv.report.tables.columns import Column, table_of, words
from jaxlv.runs import run, sweep
from jaxlv.storage import tensors
from jaxlv.storage.door import is_there

KINDS: Mapping[str, str] = {"train_step": "training", "validation": "validation", "generation": "forecasts"}
"""Events of a ledger, in words."""


# -------------------------------------------------------------------------------------------------- the bill


def trained_parameters(folder: Path) -> int | None:
    """How many numbers the adapter of a run has; None where there is no adapter yet."""
    files = [folder / run.ADAPTER / name for name in (adapters.TENSORS, adapters.HEAD)]
    count = 0
    for path in files:
        if is_there(path):
            count += sum(map(math.prod, tensors.shapes(path).values()))
    return count or None


def flops_rows(one: Run) -> list[dict[str, Any]]:
    """FLOPs of a run by phase and kind of work under every convention of its ledger, and all together; none without one."""
    found = sweep.entries_of(one.config, one.folder) if one.config and one.folder else None
    if found is None:
        return []
    terms, own = found
    rows = []
    for phase, kind in dict.fromkeys((entry.phase, entry.event.kind) for entry in own):
        chosen = [entry for entry in own if (entry.phase, entry.event.kind) == (phase, kind)]
        rows.append({"work": f"{phase}: {KINDS[kind]}", **sweep.priced(terms, chosen)})
    if any((repeated := sweep.priced(terms, own, "repeated")).values()):
        rows.append({"work": "of these repeated after interruptions", **repeated})
    return [*rows, {"work": "together", **sweep.priced(terms, own)}]


def flops_table(rows: list[dict[str, Any]], budget: float) -> Table:
    """`flops_rows` as a table."""
    columns = [Column(name, name, "by the convention", "FLOPs") for name in rows[0] if name != "work"]
    caption = (
        f"FLOPs by phase and kind of work, from the ledger; its budget is {number(float(budget))} by the convention"
        f" {columns[0].key}. “exact” counts what was executed, “coursework” is the assignment's rule."
    )
    return table_of("FLOPs of the run", caption, rows, words("work"), columns)


def bill(one: Run, manifest: Tree) -> list[tuple[str, str]]:
    """Steps, tokens, time, what trained, and FLOPs by every convention, with what is unknown said to be."""
    figures = one.figures
    pairs = evaluation.bill_pairs(
        {
            "steps": figures.get("steps"),
            "tokens": figures.get("tokens"),
            "seconds": figures.get("seconds"),
            "trainable_parameters": trained_parameters(one.folder) if one.folder else None,
            "device": manifest.get("versions", {}).get("device"),
        }
    )
    rows = flops_rows(one)
    spent = [
        (f"FLOPs, {name}", number(float(value))) for name, value in (rows[-1] if rows else {}).items() if name != "work"
    ]
    return pairs + (spent or [("FLOPs", "not counted (no budget)")])


# ----------------------------------------------------------------------------------------------- evaluations


@dataclass(frozen=True)
class Drawn:
    """The forecasts of an evaluation by model, and their series; none, with the reason, where either is not at hand."""

    forecasts: Mapping[str, Forecast]
    data: SeriesSet | None
    reason: str = ""


def forecasts_of(one: Evaluation, data: SeriesSet | None) -> Drawn:
    """What an evaluation's CSV files hold, where `data` are the series that it measured."""
    paths = {path.stem.partition("_")[2]: path for path in sorted(one.folder.glob("forecast_*.csv"))}
    if not paths:
        return Drawn({}, None)
    measured = one.metrics["protocol"].get("data_sha256")
    if data is None or data.source.get("sha256") != measured:
        name = one.metrics["protocol"].get("data") or "the series"
        return Drawn({}, None, f"Forecasts are not drawn: {name} is not at hand (name it by --data).")
    try:
        found = {name: read_csv(path, data) for name, path in paths.items()}
    except JaxlvError as fault:
        return Drawn({}, None, f"Forecasts are not drawn: {fault}.")
    return Drawn({name: found[name] for name in (*evaluation.MODELS, *found) if name in found}, data)


def evaluation_sections(one: Evaluation, data: SeriesSet | None, split: Tree, scale: str) -> list[Section]:
    """An evaluation's tables and figures, and the report's own figures where it is measured as a report measured."""
    drawn = forecasts_of(one, data)
    subject = evaluation.subject(one.metrics) or {}
    shown = drawn.forecasts.get(str(subject.get("name")))
    found = evaluation.result_sections(one.metrics, panels(shown, drawn.data) if shown and drawn.data else ())
    if drawn.reason:
        found.insert(1, Section("Forecasts", [], drawn.reason))
    found = [Section(_titled(section.title, one.name), section.blocks, section.text) for section in found]
    return [*found, *reported_sections(one, drawn, split, scale)]


def _titled(title: str, name: str) -> str:
    return f"{title} ({name})" if name and name != "evaluation" else title


def reported_sections(one: Evaluation, drawn: Drawn, split: Tree, scale: str) -> list[Section]:
    """A report's figures beside those of an evaluation with its data set, split, series, context and horizon."""
    protocol = one.metrics["protocol"]
    if protocol.get("data_sha256") != COURSE_SHA256 or not drawn.forecasts or drawn.data is None:
        return []
    ids = {share: {int(i) for i in marks} for share, marks in split.items()}
    series = protocol.get("series")
    pairs = matching(ids, series if isinstance(series, list) else (), protocol.get("context", 0), protocol.get("horizon", 0))
    chosen = drawn.data.select(next(iter(drawn.forecasts.values())).ids_N)
    return [reported.section(report, part, drawn.forecasts, chosen, scale) for report, part in pairs]


# -------------------------------------------------------------------------------------------------- the page


def reached(one: Run) -> str:
    """What the training reached, in a few sentences."""
    figures = one.figures
    steps, planned = figures.get("steps") or 0, one.config.train.steps if one.config else 0
    if not steps:
        return "Not a step was logged."
    cost = f"{steps:,} step{'s' if steps > 1 else ''}, {figures['tokens']:,} tokens"
    cost += f", {duration(figures['seconds'])} of training." if figures.get("seconds") else "."
    if one.folder and not (one.folder / run.ADAPTER).is_dir():
        cost += f" The run has not ended: {planned:,} steps are planned."
    loss, mae = figures.get("validation_loss"), figures.get("forecast_mae")
    if loss is None:
        return f"{cost} It was not validated."
    best = (
        f" Best validation, at step {figures['best_step']:,}: loss {number(loss)} nats per token, a perplexity of"
        f" {number(figures.get('validation_perplexity'))}"
    )
    return f"{cost}{best}{'' if mae is None else f', forecast MAE {number(mae)} raw units'}."


def sections(one: Run, manifest: Tree, data: SeriesSet | None = None) -> list[Section]:
    """The parts of a run's page; `data` are its series, where they are at hand."""
    split = run.read_split(one.folder) if one.folder else {}
    found: list[Section] = []
    clip = one.config.optimizer.clip_norm if one.config else 0.0
    if any("loss" in record for record in one.figures.get("history") or ()):
        found.append(training_part(anatomy.training_curves(one.figures["history"], clip)).section())
    scale = one.config.codec.scale if one.config else ""
    for measured in one.evaluations:
        found += evaluation_sections(measured, data, split, scale)
    for name, tree in one.analyses.items():
        told = {key: value for key, value in tree.items() if key != "training"}  # the curves stand above
        found += [
            Section(_titled(s.title, "" if name == "analyses" else name), s.blocks, s.text) for s in analysed.blocks(told)
        ]
    rows = flops_rows(one)
    if rows and one.config:
        found.append(Section("FLOPs", [flops_table(rows, one.config.budget.flops or 0.0)]))
    return [*found, settings(one, manifest, split)]


def settings(one: Run, manifest: Tree, split: Tree) -> Section:
    """Settings, the protocols of the evaluations, the split, hashes and versions."""
    shown = {name: shortened(value) for name, value in one.settings.items()}
    protocols = [(f"Protocol of {m.name or 'the evaluation'}", m.metrics["protocol"]) for m in one.evaluations]
    counts = {f"{share} series": len(ids) for share, ids in split.items()}
    made_of = {key: value for key, value in manifest.items() if key != "versions"}
    return evaluation.settings_section(
        ("Settings", shown),
        *((label, {key: shortened(value) for key, value in tree.items()}) for label, tree in protocols),
        ("Data, base and seeds", {**counts, **made_of}),
        ("Versions", manifest.get("versions", {})),
    )


def shortened(value: Any) -> Any:
    """A long list by its length and ends; anything else as it is."""
    if isinstance(value, (list, tuple)) and len(value) > 12:
        return f"{len(value)}: {plain(value[:4])}, …, {plain(value[-1])}"
    return MISSING if isinstance(value, dict) and not value else value


def page_of(one: Run, manifest: Tree, data: SeriesSet | None = None) -> Page:
    """The page of a run."""
    told = [evaluation.summary(measured.metrics) for measured in one.evaluations[:1]]
    return Page(f"Run {one.name}", " ".join([reached(one), *told]), bill(one, manifest), sections(one, manifest, data))
