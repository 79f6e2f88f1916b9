"""What a forecaster gives back: forecasts under the caller's names, and how good they were.

Axes: N series, S samples, H steps ahead, V variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.panels import panels
from jaxlv.results.scores import LEVELS, Evaluation

FEWEST_DRAWN = 12  # series that `plot` draws at most
Form = Literal["tidy", "wide", "nixtla"]


@dataclass(frozen=True)
class Prediction:
    """Forecasts of series, under the caller's ids, names and times, in the caller's units."""

    made: Forecast
    series: SeriesSet
    notes: tuple[str, ...] = ()
    base: str | None = None  # which of jaxlv's bases made it, if the model was "embedded"

    @property
    def samples(self) -> np.ndarray:
        """The trajectories (N, S, H, V); NaN where one broke off."""
        return self.made.raw_NSHV

    @property
    def _filled(self) -> np.ndarray:
        return self.made.raw_filled()

    @property
    def median(self) -> np.ndarray:
        """The point forecast (N, H, V)."""
        return np.median(self._filled, axis=1)

    def quantiles(self, probabilities: float | Sequence[float] = (0.1, 0.5, 0.9)) -> pd.DataFrame:
        """Returns a row for each series, time and variable, and a column for each probability.

        Raises JaxlvError if one is not between 0 and 1, or if there is none.
        """
        wanted = np.atleast_1d(np.asarray(probabilities))
        if wanted.dtype.kind not in "iuf" or not wanted.size or not ((wanted > 0) & (wanted < 1)).all():
            raise JaxlvError("not probabilities", expected="numbers between 0 and 1", found=repr(probabilities))
        each: list[float] = wanted.tolist()
        values = metrics.quantiles(self._filled, each)
        columns = {f"{p:g}": value.reshape(-1) for p, value in zip(each, values, strict=True)}
        return pd.DataFrame({**self._grid(), **columns})

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each series, time and variable: the median, and the ends of the 80 % band."""
        low, high = metrics.central_interval(self._filled, 0.8)
        ends = {"median": self.median, "low_80": low, "high_80": high}
        return pd.DataFrame({**self._grid(), **{name: value.reshape(-1) for name, value in ends.items()}})

    def to_frame(self, form: Form = "tidy") -> pd.DataFrame:
        """Returns the forecast as a table: "tidy", a row for each statistic and sample; "wide", medians with a column for
        each variable; "nixtla", unique_id, ds, and the columns jaxlv, jaxlv-lo-80 and jaxlv-hi-80.
        """
        if form == "tidy":
            return self.made.to_frame()
        grid, names = self._grid(), self.made.variables
        _, H, V = self.median.shape
        if form == "wide":
            keys = {name: values[::V] for name, values in grid.items() if name != self.made.columns[3]}
            return pd.DataFrame({**keys, **{name: self.median[..., v].reshape(-1) for v, name in enumerate(names)}})
        if form != "nixtla":
            raise JaxlvError("unknown form", expected="tidy, wide or nixtla", found=repr(form))
        low, high = metrics.central_interval(self._filled, 0.8)
        ids = np.repeat(self.made.ids_N.astype(object), H)
        times = self.made.labels_NH.reshape(-1)
        parts = []
        for v, name in enumerate(names):
            own = ids if V == 1 else np.array([f"{one}/{name}" for one in ids], object)
            values = {"jaxlv": self.median, "jaxlv-lo-80": low, "jaxlv-hi-80": high}
            parts.append(
                pd.DataFrame({"unique_id": own, "ds": times, **{k: x[..., v].reshape(-1) for k, x in values.items()}})
            )
        return pd.concat(parts, ignore_index=True)

    def _grid(self) -> dict[str, Any]:
        N, _, H, V = self.made.samples_NSHV.shape
        series, _, time, variable, *_ = self.made.columns
        ids = {
            series: np.repeat(
                self.made.ids_N.astype(object) if self.made.ids_N.dtype.kind == "U" else self.made.ids_N, H * V
            )
        }
        one = N == 1 and self.made.layout.id is None
        return {
            **({} if one else ids),
            time: np.repeat(self.made.labels_NH, V, axis=1).reshape(-1),
            variable: np.tile(np.array(self.made.variables, object), N * H),
        }

    def plot(self, path: str | Path | None = None, *, series: Any = None) -> Any:
        """Draws a series with its forecast: a matplotlib figure, which a notebook shows; written to `path` if it is given.

        `series` is the id of the series, by default the first.
        """
        from jaxlv.report.figures import evaluation as figures
        from jaxlv.report.figures import render, svg

        own = panels(self.made, self.series)
        ids = [panel.series_id for panel in own]
        place = 0 if series is None else next((i for i, one in enumerate(ids) if one in (series, str(series))), None)
        if place is None:
            raise JaxlvError("unknown series", expected=", ".join(map(str, ids[:FEWEST_DRAWN])), found=series)
        chart = figures.forecast_figure(own[place])
        if path is not None:
            svg.save_png(chart, Path(path))
        return render.drawn(chart).figure


@dataclass(frozen=True)
class Scores:
    """How forecasts compare with the truth: `metrics` has every figure, in the units of the data."""

    metrics: Evaluation
    forecasts: dict[str, Forecast]
    windows: SeriesSet
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Returns a row for each method: MAE and MASE, and of a model CRPS and the coverage of its bands."""
        rows = {}
        for row in self.metrics.rows:
            low, high = row.mae_ci95 or (None, None)
            inside = {f"inside_{level}": (row.coverage or {}).get(level) for level in LEVELS}
            rows[row.name] = {"mae": row.mae, "mae_low": low, "mae_high": high, "mase": row.mase, "crps": row.crps, **inside}
        return pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("method")

    def __str__(self) -> str:
        from jaxlv.report import evaluation

        return evaluation.format_table(self.metrics)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws each method's mean absolute error with its interval: a matplotlib figure, written to `path` if given."""
        from jaxlv.report.figures import evaluation as figures
        from jaxlv.report.figures import render, svg

        chart = figures.interval_figure(self.metrics.rows)
        if path is not None:
            svg.save_png(chart, Path(path))
        return render.drawn(chart).figure

    def page(self, path: str | Path) -> Path:
        """Writes the page of the evaluation, one HTML file, and returns its path."""
        from jaxlv.report.page import write
        from jaxlv.report.runs import page_of_evaluation
        from jaxlv.results.folders import Measured
        from jaxlv.versions import versions

        shown = self.forecasts.get("tuned") or next(iter(self.forecasts.values()))
        one = Measured("", Path(path).parent, self.metrics, panels(shown, self.windows), versions=versions())
        write(Path(path), page_of_evaluation(one, "Evaluation"))
        return Path(path)
