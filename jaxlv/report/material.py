"""What pages are made of: folders of results, their runs and evaluations, with all that a page shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxlv.config import RunConfig
from jaxlv.forecasting.panels import ForecastPanel
from jaxlv.results.analyses import Analyses
from jaxlv.results.papers import PartResult
from jaxlv.results.runs import RunDetails
from jaxlv.results.scores import Evaluation
from jaxlv.results.sweeps import Outcome

Kind = Literal["reproduction", "sweep", "comparison", "run", "evaluation"]


class Beside(NamedTuple):
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
    reason: str = ""  # why there are none
    papers: Sequence[Beside] = ()  # what papers measured in the same way


@dataclass(frozen=True)
class Run:
    """A run: its settings by "section.key", its figures as `sweep.outcome` has them, and how it was measured."""

    name: str
    settings: Mapping[str, Any]
    figures: Outcome
    folder: Path | None = None  # None: no run folder, its figures alone are known
    config: RunConfig | None = None
    evaluations: Sequence[Measured] = ()
    analyses: Mapping[str, Analyses] = field(default_factory=dict)  # by the folder's name
    details: RunDetails | None = None  # if its page is asked for


@dataclass(frozen=True)
class Folder:
    """A folder of results: what it is, what came of it, its runs, each once, and drawings of its forecasts."""

    path: Path
    kind: Kind
    result: Any  # Reproduction, Sweep, Comparison or Evaluation; None of a run
    runs: Sequence[Run]
    drawings: Mapping[str, str] = field(default_factory=dict)  # <svg> elements by part
    analyses: Analyses | None = None  # of a reproduction's final run
