"""A look at a set of series, stage by stage: tables, numbers, figures and a page in a folder.

Axes: N series, T time steps, V variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jaxlv.analysis import clusters, exploration, schemes
from jaxlv.analysis.drawn import drawn
from jaxlv.data import loading
from jaxlv.data.observations import USUAL, Handling, Observations
from jaxlv.data.series import COURSE_SHA256, SeriesSet
from jaxlv.errors import JaxlvError, warn
from jaxlv.forecasting import robustness
from jaxlv.model.bases import EMBEDDED_BASE
from jaxlv.report import exploration as report
from jaxlv.report.page import write
from jaxlv.results.exploration import Check, Example, Exploration, OneSeries, Tables
from jaxlv.results.record import Id
from jaxlv.storage.files import check_free, new_folder, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.studies.progress import Begin, Silent
from jaxlv.versions import versions

QUALITY = "quality.csv"  # the table of the checks
EMBEDDED = "embedded"  # the tokenizer of the embedded base
STAGES = ("quality", "cycles", "regimes", "text", "windows", "figures")
CHOICE = "The first two series of the file, and the first of every other regime by rule."


@dataclass(frozen=True)
class Look:
    """Says what is shown: series by their ids, the first two, and the first of every other regime, if None; the tokens of a
    `tokenizer`: a Hugging Face folder, "embedded", or Qwen2.5's ids of the 13 symbols if None; `lengths` of windows, tokens.
    """

    ids: Sequence[Id] | None = None
    tokenizer: str | None = None
    lengths: Sequence[int] = schemes.LENGTHS


USUALLY = Look()


def explore(
    data: Any,
    out: Path,
    look: Look = USUALLY,
    *,
    handling: Handling = USUAL,
    begin: Begin = Silent,
    overwrite: bool = False,
    **reading: Any,
) -> Exploration:
    """Explores series, and writes tables, figures, report.html and exploration.json to a new folder `out`.

    `data` and `reading` are what `load_series` takes; `handling` says what is done with missing and negative values.
    Of a file that cannot be used, quality.csv says what is wrong, and JaxlvError is raised; it is also raised if `out`
    exists (with `overwrite`, if it is not such a folder), if a series is unknown, or if the tokenizer is not there.
    """
    if look.tokenizer not in (None, EMBEDDED) and not Path(str(look.tokenizer)).is_dir():
        expected = "a Hugging Face folder, or embedded"
        raise JaxlvError("no such folder", where="--tokenizer", expected=expected, found=look.tokenizer)
    overwrite |= _is_refusal(out)
    check_free(out, overwrite, QUALITY)
    with begin("explore", len(STAGES)) as bar:
        bar.note(f"reading {data if isinstance(data, (str, os.PathLike)) else 'series'}")
        exploring = Exploring(_usable(data, out, handling, reading), look.ids, look.tokenizer)
        with new_folder(out, replace=overwrite, made_by=QUALITY) as folder:
            parts = (exploring.cycles, exploring.regimes, exploring.text, lambda: exploring.windows(look.lengths))
            for done, (stage, make) in enumerate(zip(STAGES[1:-1], parts, strict=True), 1):
                bar.note(stage)
                make()
                bar.update(done, stage)
            bar.note(STAGES[-1])
            result = exploring.result()
            _save(folder, result)
        bar.update(len(STAGES), "done")
    return result


class Usable(NamedTuple):
    """Series, the checks that were made of them, and what they are called."""

    series: SeriesSet
    quality: list[Check]
    name: str


def _of_one_length(found: SeriesSet) -> SeriesSet:
    """Returns the last steps of series of several lengths, as many as the shortest has, with a warning."""
    if not found.first_N.any():
        return found
    steps = found.values_NTV.shape[1]
    told = f"series of several lengths: the last {found.shortest} steps of each are explored"
    warn(told)
    return found.steps(steps - found.shortest, steps)


def _usable(data: Any, out: Path, handling: Handling, reading: Mapping[str, Any]) -> Usable:
    """Returns series with their checks. If there are none to use, writes the checks to `out`, unless an exploration is
    there already, and raises.
    """
    rows = exploration.inspect(data, **reading)
    try:
        found = loading.load_series(data, **reading)
        return Usable(_of_one_length(loading.told(found.ready(handling), found)), rows, _name(found))
    except JaxlvError as fault:
        told = f"{out} is as it was"
        if _is_refusal(out) or not out.exists() or not any(out.iterdir()):
            told = f"the checks are in {out / QUALITY}"
            with new_folder(out, replace=_is_refusal(out)) as work:
                write_csv(work / QUALITY, pd.DataFrame([row.tree() for row in rows]))
        hint = "; ".join(filter(None, [fault.hint, told]))
        raise JaxlvError(fault.what, where=fault.where, expected=fault.expected, found=fault.found, hint=hint) from None


def _name(found: Observations) -> str:
    """Returns what series are called: by their file, or by what they came as."""
    return "simulated series" if {*found.source} == {"simulation"} else Path(found.where).name


def _is_refusal(out: Path) -> bool:
    """Returns whether a folder holds only what `_usable` left for a file that it refused; the next one replaces it."""
    return out.is_dir() and [path.name for path in out.iterdir()] == [QUALITY]


def _save(out: Path, result: Exploration) -> None:
    """Writes tables, figures, numbers and the page."""
    tree = result.tree()
    for name, rows in tree["tables"].items():
        write_csv(out / f"{name.replace(' ', '_')}.csv", pd.DataFrame(rows))
    write_json(out / "exploration.json", tree)
    (out / "figures").mkdir()
    write(out / "report.html", report.page_of(result), out / "figures")


class Exploring:
    """The tables and numbers of a set of series, made stage by stage."""

    def __init__(self, found: Usable, ids: Sequence[Id] | None, tokenizer: str | None):
        data, quality, name = found
        self.shifted = data  # as it is written: variables below zero were shifted above it
        data = replace(data, values_NTV=data.values_NTV - data.shift_NV[:, None], shift_NV=0 * data.shift_NV)
        self.data, self.chosen, self.name = data, ids, name
        self.window = min(exploration.WINDOW, data.values_NTV.shape[1])
        self.rule_N = robustness.regimes_of(data, self.window)
        self.shown = data.select(ids or exploration.example_ids(data.ids_N, self.rule_N))
        self.ids = self.shown.ids_N.tolist()
        self.tables: dict[str, Any] = {"quality": quality, "values": exploration.value_rows(data)}
        self.found: clusters.Found | None = None
        folder = Path(tokenizer) if tokenizer else None
        self.folder = EMBEDDED_BASE if tokenizer == EMBEDDED else folder
        self.alphabet, self.encode = schemes.alphabet_of(self.folder)

    def cycles(self) -> None:
        """Makes the tables of periods, lags and rest."""
        data, step = self.data, self.step
        self.cycle = exploration.cycles(data.values_NTV)
        self.tables |= {
            "mean": exploration.mean_rows(data),
            "states": exploration.state_rows(data),
            "cycles": exploration.cycle_rows(self.cycle, data.variables, step),
            "peaks": exploration.peak_rows(self.cycle, data.variables),
            "prominence": exploration.prominence_rows(data.values_NTV),
            "rest": exploration.rest_rows(data.values_NTV, self.window),
        }

    @property
    def step(self) -> float:
        """Returns the time between two steps."""
        time_T = self.data.time_T
        return float((time_T[-1] - time_T[0]) / (len(time_T) - 1))

    def regimes(self) -> None:
        """Runs k-means, and makes a row for each series with everything that is known about it."""
        self.found = clusters.explore(self.data, self.cycle, self.rule_N)
        self.tables |= self.found.tables if self.found else {}
        features = self.found.features.drop(columns="lag").to_dict("records") if self.found else [{}] * len(self.data)
        self.tables["series"] = [self._one(n, of_one) for n, of_one in enumerate(features)]

    def _one(self, n: int, features: dict[Any, float]) -> OneSeries:
        """Returns all that is known about the series in row n."""
        own: dict[str, Any] = {}
        for v, name in enumerate(self.data.variables):
            own |= {f"peaks of {name}": self.cycle.peaks_NV[n, v], f"period of {name} (steps)": self.cycle.period_NV[n, v]}
        cluster = self.found.main.label_N[n] + 1 if self.found else None
        lag, share = self.cycle.lag_N[n], self.cycle.share_N[n]
        return OneSeries(self.data.ids_N[n], self.rule_N[n], own, lag, share, cluster, features)

    def text(self) -> None:
        """Makes the tables of every scheme's tokens and rounding errors, and of the chosen series in it."""
        self.written = [schemes.write(name, self.shifted) for name in schemes.SCHEMES]
        self.tables |= {
            "tokens": schemes.token_rows(self.written, self.shifted),
            "round_trip": schemes.round_trip_rows(self.written, self.shifted),
            "texts": schemes.text_rows(self.written, self.ids, self.alphabet),
            "steps": schemes.step_rows(self.written, self.shifted.select(self.ids)),
        }
        self.tokenizer = self.alphabet.source
        if self.encode and self.folder:
            self.tables["merges"] = schemes.merge_rows(self.encode)
            others = schemes.disagreements(self.written, self.ids, self.alphabet, self.encode)
            total = len(self.tables["texts"])
            name = "the embedded base" if self.folder == EMBEDDED_BASE else self.folder.name
            self.tokenizer = (
                f"{name}, {self.alphabet.source}; it cuts {total - others} of the {total} texts of the chosen series into"
                " one token per character"
            )

    def windows(self, lengths: Sequence[int]) -> None:
        """Makes the table of padding and tokens left out by window length."""
        self.tables["windows"] = schemes.window_rows(self.written, self.shifted, self.alphabet, list(dict.fromkeys(lengths)))

    def result(self) -> Exploration:
        """Returns everything."""
        rule_of = dict(zip(self.data.ids_N.tolist(), self.rule_N.tolist(), strict=True))
        return Exploration(
            data=self.name,
            data_sha256=self.data.source.get("sha256"),
            course=self.data.source.get("sha256") == COURSE_SHA256,
            series=len(self.data),
            steps=len(self.data.time_T),
            step=self.step,
            variables=tuple(self.data.variables),
            window=self.window,
            windowed=schemes.WINDOWED,
            examples=tuple(Example(i, rule_of[i]) for i in self.ids),
            choice="Series as asked for." if self.chosen else CHOICE,
            tokenizer=self.tokenizer,
            definitions=exploration.DEFINITIONS,
            regimes=self.found.scores if self.found else None,
            tables=Tables(**self.tables),
            versions=versions(),
            drawn=drawn(self.data, self.shown, self.cycle, self.found.main if self.found else None),
        )
