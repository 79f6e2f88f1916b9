"""jaxlv as a model of Nixtla's statsforecast: `JaxlvModel`. The extra `nixtla` brings statsforecast; this module needs none
of it.

The other loop of Nixtla's guides, over frames of unique_id, ds and y, is `jaxlv.Forecaster.predict(frame, h)` with
`.to_frame("nixtla")`, which forecasts all series together.

Axes: S samples, H steps ahead, T steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.data.clock import Clock
from jaxlv.data.observations import Observations
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.integrations.opening import opened, trajectories


class JaxlvModel:
    """Forecasts one series at a time by a language model, as a model in the list of `StatsForecast`.

    Nothing is estimated: the series are the model's context, so there are no fitted values. `mean` is the point forecast,
    the median of the samples; `lo-80` and `hi-80` are the ends of the central 80 % of them.

    Args:
        model: "embedded", a run folder, a folder in Hugging Face's format, a hub id, or what `jaxlv.Forecaster` takes.
        adapter: a folder in PEFT's format, laid over the model.
        alias: the name of the columns in what StatsForecast returns.
        samples: trajectories of each forecast.
        context: steps that the model is given; all, as far as it has read such long texts, if None.
        seed: of the samples.
        sampling: temperature, top_k, top_p, repetition_penalty, grammar.
        predict_options: further keywords of `jaxlv.Forecaster.predict`, such as missing and negative.

    Example:
        >>> import numpy as np
        >>> from jaxlv.integrations.nixtla import JaxlvModel
        >>> model = JaxlvModel(samples=2, context=8)
        >>> forecast = model.forecast(y=np.array([4.0, 6.1, 9.8, 35.2, 59.4, 41.7]), h=3, level=[80])
        >>> {name: values.shape for name, values in forecast.items()}
        {'mean': (3,), 'lo-80': (3,), 'hi-80': (3,)}
    """

    uses_exog = False

    def __init__(
        self,
        model: Any = "embedded",
        adapter: str | Path | None = None,
        alias: str = "jaxlv",
        samples: int = 20,
        context: int | None = None,
        seed: int = 0,
        sampling: Mapping[str, Any] | None = None,
        predict_options: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.adapter = adapter
        self.alias = alias
        self.samples = samples
        self.context = context
        self.seed = seed
        self.sampling = sampling
        self.predict_options = predict_options

    def __repr__(self) -> str:
        """Returns the alias, by which StatsForecast calls the columns."""
        return self.alias

    def new(self) -> JaxlvModel:
        """Returns a copy, which shares what is large."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def fit(self, y: np.ndarray, X: np.ndarray | None = None) -> JaxlvModel:
        """Keeps a series (T,) as the context of `predict`; exogenous variables `X` are not used."""
        opened(self.model, self.adapter, self.sampling)
        self.y_ = np.asarray(y, np.float64)
        return self

    def predict(self, h: int, X: np.ndarray | None = None, level: Sequence[float] | None = None) -> dict[str, np.ndarray]:
        """Returns the forecast of the `h` steps behind the series that was fitted, as `forecast` does."""
        return self.forecast(self._fitted(), h, level=level)

    def predict_in_sample(self, level: Sequence[float] | None = None) -> dict[str, np.ndarray]:
        """Raises JaxlvError: there are no fitted values."""
        raise JaxlvError("no fitted values", where=self.alias, expected="forecasts of what follows the series")

    def forecast(
        self,
        y: np.ndarray,
        h: int,
        X: np.ndarray | None = None,
        X_future: np.ndarray | None = None,
        level: Sequence[float] | None = None,
        fitted: bool = False,
    ) -> dict[str, np.ndarray]:
        """Forecasts the steps behind a series.

        Args:
            y: the series (T,); NaN is missing.
            h: steps ahead.
            X: exogenous variables, which are not used, as `X_future`.
            level: the percentages of central intervals.
            fitted: must be False.

        Returns:
            `mean`, and for each level `lo-LEVEL` and `hi-LEVEL`, (H,) each.

        Raises:
            JaxlvError: if the series cannot be forecast, if a level is not between 0 and 100, or for fitted values.
        """
        if fitted:
            self.predict_in_sample()
        levels = sorted(level or ())
        if not all(0 < one < 100 for one in levels):
            raise JaxlvError("not levels", where=self.alias, expected="percentages between 0 and 100", found=levels)
        drawn_SH = self._drawn(np.asarray(y, np.float64), h, self.samples, self.seed)
        ends = [(one, *metrics.central_interval(drawn_SH[None, ..., None], one / 100)) for one in levels]
        return {
            "mean": np.median(drawn_SH, axis=0),
            **{f"lo-{one}": low[0, :, 0] for one, low, _ in reversed(ends)},
            **{f"hi-{one}": high[0, :, 0] for one, _, high in ends},
        }

    def forward(
        self,
        y: np.ndarray,
        h: int,
        X: np.ndarray | None = None,
        X_future: np.ndarray | None = None,
        level: Sequence[float] | None = None,
        fitted: bool = False,
    ) -> dict[str, np.ndarray]:
        """Returns the forecast behind another series than the fitted one: as `forecast`, since nothing was estimated."""
        return self.forecast(y, h, X, X_future, level, fitted)

    def simulate(
        self, h: int, n_paths: int, y: np.ndarray | None = None, seed: int | None = None, **ignored: Any
    ) -> np.ndarray:
        """Returns `n_paths` samples (S, H) of the steps behind a series, by default the fitted one.

        What StatsForecast says of exogenous variables and of the errors of statistical models is not used.
        """
        series = self._fitted() if y is None else np.asarray(y, np.float64)
        return self._drawn(series, h, n_paths, self.seed if seed is None else int(seed))

    def _fitted(self) -> np.ndarray:
        if not hasattr(self, "y_"):
            raise JaxlvError("not fitted", where=self.alias, hint="call fit(y) first, or forecast(y, h)")
        return self.y_

    def _drawn(self, y_T: np.ndarray, h: int, samples: int, seed: int) -> np.ndarray:
        """Returns samples (S, H) of the steps behind a series."""
        own = zlib.crc32(y_T.tobytes()) >> 8  # so that no two series have the same random numbers
        found = Observations((own,), (self.alias,), (y_T[:, None],), Clock.steps(1), where=self.alias).checked()
        options = {"context": self.context, **(self.predict_options or {})}
        forecast = opened(self.model, self.adapter, self.sampling).predict(found, h, samples=samples, seed=seed, **options)
        return trajectories(forecast)[0, :, :, 0]
