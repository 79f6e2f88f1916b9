"""The page of any folder of results, and of several beside one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jaxlv.report import compared, comparison, evaluation, reproductions, runs, sweeps
from jaxlv.report.format import duration, number
from jaxlv.report.page import Page, Pairs, Section
from jaxlv.results import side_by_side
from jaxlv.results.folders import Folder, Kind, Run
from jaxlv.results.side_by_side import Entry

# ---------------------------------------------------------------------------------------------- one folder


def _run(folder: Folder) -> Page:
    return runs.page_of(folder.runs[0])


def _evaluation(folder: Folder) -> Page:
    one = folder.runs[0].evaluations[0]
    found = runs.evaluation_sections(one)
    protocol = {key: runs.shortened(value) for key, value in evaluation.protocol_pairs(one.scores.protocol).items()}
    closing = evaluation.settings_section(("Protocol of the evaluation", protocol))
    return Page(f"Evaluation {folder.runs[0].name}", evaluation.summary(one.scores), (), [*found, closing])


def _sweep(folder: Folder) -> Page:
    page = sweeps.page_of(folder.result)
    return replace(page, sections=_with_budget(folder, page.sections, after="Runs"))


def _reproduction(folder: Folder) -> Page:
    page = reproductions.page_of(folder.result, folder.drawings, folder.analyses)
    return replace(page, sections=_with_budget(folder, page.sections, after="Error against FLOPs"))


def _comparison(folder: Folder) -> Page:
    return comparison.page_of(folder.result, folder.drawings)


PAGES: Mapping[Kind, Callable[[Folder], Page]] = {
    "run": _run, "evaluation": _evaluation, "sweep": _sweep, "reproduction": _reproduction, "comparison": _comparison,
}  # fmt: skip


def _with_budget(folder: Folder, sections: Sequence[Section], after: str) -> list[Section]:
    """The sections with the table of what a budget buys behind one of them, under the folder's own rule and convention."""
    entries = [entry_of(one.name, one) for one in folder.runs]
    convention = next((name for entry in entries for name in entry.priced), side_by_side.CONVENTION)
    bought = compared.budget_section(entries, folder.result.rule, convention, drawn=False)
    place = next((i + 1 for i, section in enumerate(sections) if section.title == after), len(sections))
    return [*sections[:place], *([bought] if bought else []), *sections[place:]]


def page_of(folder: Folder) -> Page:
    """The page of a folder."""
    return PAGES[folder.kind](folder)


# ------------------------------------------------------------------------------------------------ several


def entry_of(name: str, one: Run) -> Entry:
    """A run among several, under a name."""
    return Entry(name, one.name, one.settings, one.figures, [measured.scores for measured in one.evaluations])


def entries_of(folders: Sequence[Folder]) -> list[Entry]:
    """Every run of the folders, named "folder" or "folder/run"."""
    return [
        entry_of(folder.name if folder.kind in ("run", "evaluation") else f"{folder.name}/{one.name}", one)
        for folder in folders
        for one in folder.runs
    ]


def bill(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What all runs cost together; FLOPs of those that were counted."""
    steps, tokens = (sum(entry.get(key) or 0 for entry in entries) for key in ("steps", "tokens"))
    seconds = sum(entry.get("seconds") or 0 for entry in entries)
    pairs = [
        ("runs", str(len(entries))),
        ("steps", f"{steps:,}"),
        ("tokens", f"{tokens:,}"),
        ("training", duration(seconds)),
    ]
    counted = [entry.get("flops") for entry in entries if entry.get("flops")]
    for name in (side_by_side.CONVENTION, side_by_side.EXACT):
        held = [flops[name] for flops in counted if flops.get(name) is not None]
        if held:
            of = "" if len(held) == len(entries) else f" ({len(held)} runs)"
            pairs.append((f"FLOPs, {name}", f"{number(float(sum(held)))}{of}"))
    return pairs


def together(folders: Sequence[Folder], pages: Sequence[Page]) -> Page:
    """The page of several folders: all runs side by side first, then the sections of each folder's own page."""
    names, entries = [folder.name for folder in folders], entries_of(folders)
    found = [replace(section, group="Side by side") for section in compared.sections(entries)]
    for folder, page in zip(folders, pages, strict=True):
        costs = [Pairs("Bill", list(page.bill))] if page.bill else []
        own = [Section("Summary", costs, page.summary), *page.sections]
        found += [replace(section, group=f"{folder.kind.capitalize()} {folder.name}") for section in own]
    return Page(f"{', '.join(names[:-1])} and {names[-1]}", compared.summary(entries), bill(entries), found)
