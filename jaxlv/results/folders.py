"""Folders of results with all that a page shows of them: runs, evaluations, forecasts, and papers' figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxlv.results.analyses import Analyses
from jaxlv.results.anatomy import Training
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.papers import PartResult
from jaxlv.results.runs import RunCost, RunDetails
from jaxlv.results.scores import Evaluation
from jaxlv.results.side_by_side import Entry
from jaxlv.results.sweeps import Outcome

Kind = Literal["reproduction", "sweep", "comparison", "run", "evaluation"]


class PaperFigures(NamedTuple):
    """What a paper measured and what we did in the same way, with words that say how."""

    part: PartResult
    words: str


@dataclass(frozen=True)
class Measured:
    """What `jaxlv evaluate` left in a folder; its name is the folder's, "" if that is the run's own."""

    name: str
    folder: Path
    scores: Evaluation
    panels: Sequence[ForecastPanel] = ()  # the forecasts of the model that it is about
    reason: str = ""  # why they are not drawn
    papers: Sequence[PaperFigures] = ()  # what papers measured in the same way
    settings: Mapping[str, object] = field(default_factory=dict)  # of the run; this and what follows for a page of its own
    versions: Mapping[str, str] = field(default_factory=dict)
    cost: RunCost = field(default_factory=RunCost)
    curves: Training | None = None  # of the run's training


@dataclass(frozen=True)
class Run:
    """A run: its settings by "section.key", what it reached, and how it was measured."""

    name: str
    settings: Mapping[str, object]
    figures: Outcome
    folder: Path | None = None  # None: no run folder, its figures alone are known
    evaluations: Sequence[Measured] = ()
    analyses: Mapping[str, Analyses] = field(default_factory=dict)  # by the folder's name
    details: RunDetails | None = None  # if its page is asked for

    def entry(self, name: str) -> Entry:
        """Returns it as a run among several, under a name."""
        return Entry(name, self.name, self.settings, self.figures, [measured.scores for measured in self.evaluations])


@dataclass(frozen=True)
class Folder:
    """A folder of results: what it is, its result, its runs, each once, and drawings of its forecasts."""

    path: Path
    name: str  # its own, with those above it if several have it
    kind: Kind
    result: Any  # Reproduction, Sweep, Comparison or Evaluation; None of a run
    runs: Sequence[Run]
    drawings: Mapping[str, str] = field(default_factory=dict)  # <svg> elements by part
    analyses: Analyses | None = None  # of a reproduction's final run

    @property
    def entries(self) -> list[Entry]:
        """Its runs as they stand among those of several folders: "folder", or "folder/run" if it may hold several."""
        alone = self.kind in ("run", "evaluation")
        return [one.entry(self.name if alone else f"{self.name}/{one.name}") for one in self.runs]
