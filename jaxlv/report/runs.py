"""The page of a run folder: what it reached and cost, its curves, how it was measured, what lies in it, its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxlv.report import analyses as analysed
from jaxlv.report import anatomy, evaluation, papers
from jaxlv.report.format import duration, number, shortened
from jaxlv.report.page import Page, Section
from jaxlv.report.table import Table, words
from jaxlv.results.folders import Measured, PaperFigures, Run
from jaxlv.results.quantities import Quantity
from jaxlv.results.runs import Priced, RunCost, RunDetails

NOTHING = RunDetails()

# -------------------------------------------------------------------------------------------------- the bill


def flops_table(rows: Sequence[Priced], budget: float) -> Table:
    """Returns FLOPs of a run by phase and kind of work."""
    names = list(rows[0].flops)
    columns = [Quantity(name, unit="FLOPs", group="by the convention", path=("flops", name)) for name in names]
    caption = (
        f"FLOPs by phase and kind of work, from the ledger; its budget is {number(float(budget))} by the convention"
        f" {names[0]}. “exact” counts what was executed, “coursework” is the assignment's rule."
    )
    return Table("FLOPs of the run", caption, rows, [words("work"), *columns])


def bill(details: RunDetails) -> list[tuple[str, str]]:
    """Returns steps, tokens, time, what trained, and FLOPs by every convention; what is unknown is said to be."""
    pairs = evaluation.bill_pairs(details.cost or RunCost())
    spent = details.bill[-1].flops.items() if details.bill else ()
    told = [(f"FLOPs, {name}", number(float(value))) for name, value in spent]
    return pairs + (told or [("FLOPs", "not counted (no budget)")])


# ----------------------------------------------------------------------------------------------- evaluations


def evaluation_sections(one: Measured) -> list[Section]:
    """Returns an evaluation's tables and figures, and papers' own figures if it is measured as they measured."""
    found = evaluation.result_sections(one.scores, one.panels)
    if one.reason:
        found.insert(1, Section("Forecasts", [], one.reason))
    found = [Section(_titled(section.title, one.name), section.blocks, section.text) for section in found]
    return [*found, *map(paper_section, one.papers)]


def paper_section(found: PaperFigures) -> Section:
    """Returns a paper's figures beside those of an evaluation."""
    return Section(f"Beside the paper: {found.part.part}", [papers.table_of(found.part)], found.words)


def _titled(title: str, name: str) -> str:
    return f"{title} ({name})" if name and name != "evaluation" else title


# -------------------------------------------------------------------------------------------------- the page


def reached(one: Run) -> str:
    """Says what the training reached, in a few sentences."""
    figures, steps = one.figures, one.figures.steps or 0
    if not steps:
        return "Not a step was logged."
    spent = f", {duration(figures.seconds)} of training" if figures.seconds else ""
    told = [f"{steps:,} step{'s' if steps > 1 else ''}, {figures.tokens:,} tokens{spent}."]
    if one.details and not one.details.ended:
        told.append(f"The run has not ended: {one.details.steps:,} steps are planned.")
    if figures.validation_loss is None:
        return " ".join([*told, "It was not validated."])
    mae = "" if figures.forecast_mae is None else f", forecast MAE {number(figures.forecast_mae)} raw units"
    loss, perplexity = number(figures.validation_loss), number(figures.validation_perplexity)
    best = f"Best validation, at step {figures.best_step:,}: loss {loss} nats per token, a perplexity of {perplexity}{mae}."
    return " ".join([*told, best])


def sections(one: Run) -> list[Section]:
    """Returns the parts of a run's page."""
    details = one.details or NOTHING
    found = [anatomy.training(details.curves)] if details.curves else []
    for measured in one.evaluations:
        found += evaluation_sections(measured)
    for name, looked in one.analyses.items():
        own = "" if name == "analyses" else name
        shown = analysed.sections(replace(looked, training=None))  # the curves stand above
        found += [replace(section, title=_titled(section.title, own)) for section in shown]
    if details.bill:
        found.append(Section("FLOPs", [flops_table(details.bill, details.budget)]))
    return [*found, settings(one)]


def settings(one: Run) -> Section:
    """Returns settings, the protocols of the evaluations, the split, hashes and versions."""
    details = one.details or NOTHING
    protocols = [(f"Protocol of {m.name or 'the evaluation'}", m.scores.protocol.known()) for m in one.evaluations]
    counts = {f"{share} series": len(ids) for share, ids in details.split.items()}
    made_of = details.manifest.tree() if details.manifest else {}
    versions = made_of.pop("versions", {})
    lists = [("Settings", one.settings), *protocols, ("Data, base and seeds", {**counts, **made_of})]
    return evaluation.settings_section(*lists, ("Versions", versions), written=shortened)


def page_of(one: Run) -> Page:
    """Returns the page of a run."""
    told = [evaluation.summary(measured.scores) for measured in one.evaluations[:1]]
    return Page(f"Run {one.name}", " ".join([reached(one), *told]), bill(one.details or NOTHING), sections(one))


def page_of_evaluation(one: Measured, title: str) -> Page:
    """Returns the page of an evaluation, with the run's curves, settings and bill as far as they are known."""
    closing = evaluation.settings_section(
        ("Settings of the run", one.settings),
        ("Protocol of the evaluation", one.scores.protocol.known()),
        ("Versions", one.versions),
    )
    curves = [anatomy.training(one.curves)] if one.curves else []
    bill = evaluation.bill_pairs(one.cost)
    return Page(title, evaluation.summary(one.scores), bill, [*evaluation_sections(one), *curves, closing])
