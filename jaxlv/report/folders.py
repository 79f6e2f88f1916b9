"""The page of any folder of results, and of several beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxlv.report import papers, reproduced, runs, side_by_side, sweeps
from jaxlv.report.format import duration, number
from jaxlv.report.page import Page, Pairs, Section
from jaxlv.results.folders import Folder
from jaxlv.results.side_by_side import CONVENTION, EXACT, Entry


def page_of(folder: Folder) -> Page:
    """Returns the page of a folder."""
    first, result = next(iter(folder.runs), None), folder.result
    if folder.kind == "comparison":
        return papers.page_of(result, folder.drawings)
    if folder.kind == "sweep":
        return _with_budget(folder, sweeps.page_of(result), after="Runs")
    if folder.kind == "reproduction":
        page = reproduced.page_of(result, folder.drawings, folder.analyses)
        return _with_budget(folder, page, after="Error against FLOPs")
    assert first is not None
    if folder.kind == "run":
        return runs.page_of(first)
    return runs.page_of_evaluation(first.evaluations[0], f"Evaluation {first.name}")


def _with_budget(folder: Folder, page: Page, after: str) -> Page:
    """Returns the page with what a budget buys behind a section, under the folder's own rule and convention."""
    entries, sections = [one.entry(one.name) for one in folder.runs], page.sections
    convention = next((name for entry in entries for name in entry.priced), CONVENTION)
    bought = side_by_side.budget_section(entries, folder.result.rule, convention, drawn=False)
    place = next((i + 1 for i, section in enumerate(sections) if section.title == after), len(sections))
    return replace(page, sections=[*sections[:place], *([bought] if bought else []), *sections[place:]])


def bill(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Returns what all runs cost together; FLOPs of those that were counted."""
    steps, tokens, seconds = (sum(entry.get(key) or 0 for entry in entries) for key in ("steps", "tokens", "seconds"))
    counts = {"runs": len(entries), "steps": steps, "tokens": tokens}
    pairs = [*((name, f"{count:,}") for name, count in counts.items()), ("training", duration(seconds))]
    for name in (CONVENTION, EXACT):
        counted = [flops for entry in entries if (flops := (entry.figures.flops or {}).get(name)) is not None]
        of = "" if len(counted) == len(entries) else f" ({len(counted)} of them)"
        pairs += [(f"FLOPs, {name}", f"{number(float(sum(counted)))}{of}")] if counted else []
    return pairs


def together(folders: Sequence[Folder], pages: Sequence[Page]) -> Page:
    """Returns the page of several folders: all runs side by side first, then the sections of each folder's own page."""
    names, entries = [folder.name for folder in folders], [entry for folder in folders for entry in folder.entries]
    found = [replace(section, group="Side by side") for section in side_by_side.sections(entries)]
    for folder, page in zip(folders, pages, strict=True):
        costs = [Pairs("Bill", list(page.bill))] if page.bill else []
        own = [Section("Summary", costs, page.summary), *page.sections]
        found += [replace(section, group=f"{folder.kind.capitalize()} {folder.name}") for section in own]
    return Page(f"{', '.join(names[:-1])} and {names[-1]}", side_by_side.summary(entries), bill(entries), found)
