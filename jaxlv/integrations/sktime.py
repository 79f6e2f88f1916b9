"""jaxlv as a forecaster of sktime: `JaxlvForecaster`. It needs the extra `sktime`.

Axes: N series (sktime's instances), S samples, H steps ahead, T steps, V variables, Q probabilities.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from sktime.datatypes import get_cutoff, update_data
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon

from jaxlv.data.clock import Clock, read_clock
from jaxlv.data.columns import in_order
from jaxlv.data.contents import default_names
from jaxlv.data.limits import clean_names
from jaxlv.data.observations import Observations
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.front import Forecaster
from jaxlv.integrations.opening import opened, trajectories
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.model.weights import save_pretrained

WHERE = "y"
WHOLE = ("data.fractions=[1.0, 0.0, 0.0]", "train.validate_every=0")  # all series are trained on, none is kept for a test


class JaxlvForecaster(BaseForecaster):
    """Forecasts series by a language model that writes them as text: `jaxlv.Forecaster` in sktime.

    `fit` and `update` keep the series, which are the model's context; nothing is estimated. The point forecast is the median
    of the samples; quantiles, intervals and variances are those of the samples. Panels and hierarchies are forecast
    together, several series at a time. Variables are taken by their names, prey before predator. Missing values and gaps in
    the index are interpolated, and negative values shifted, as `predict_options` say; warnings tell it. If a series of a
    panel cannot be forecast, it is missing in the result; if a single one cannot, JaxlvError says why.

    `pretrain` tunes the model on a panel by LoRA, and the tuned model then forecasts; a second `pretrain` goes on from it.
    The run folder is in `run_`.

    It passes all of `sktime.utils.estimator_checks.check_estimator`.

    Args:
        model: "embedded", a run folder, a folder in Hugging Face's format, a hub id, or what `jaxlv.Forecaster` takes.
        adapter: a folder in PEFT's format, laid over the model.
        samples: trajectories of each series.
        context: steps that the model is given; all, as far as it has read such long texts, if None.
        seed: of the samples, and of `pretrain`.
        sampling: temperature, top_k, top_p, repetition_penalty, grammar.
        predict_options: further keywords of `jaxlv.Forecaster.predict`, such as missing, negative and batch_series.
        fit_options: keywords of `jaxlv.Forecaster.fit`, with which `pretrain` tunes: steps, out, settings.

    Example:
        >>> from sktime.datasets import load_airline
        >>> from jaxlv.integrations.sktime import JaxlvForecaster
        >>> forecaster = JaxlvForecaster(samples=2, context=8)
        >>> forecaster.fit(load_airline())
        JaxlvForecaster(context=8, samples=2)
        >>> [str(month) for month in forecaster.predict(fh=[1, 3]).index]
        ['1961-01', '1961-03']
    """

    _tags = {  # noqa: RUF012 - as sktime declares it
        "authors": ["jaxlv"],
        "capability:multivariate": True,
        "capability:exogenous": False,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:missing_values": True,
        "capability:update": True,
        "capability:pretrain": True,
        "pretrain:fitted_params": ["run_"],
        "requires-fh-in-fit": False,
        "X-y-must-have-same-index": False,
        "y_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
    }
    _config = {"remember_data": False}  # noqa: RUF012 - the series are in _cur_y
    _y = _X = None  # what sktime would remember
    run_: str

    def __init__(
        self,
        model: Any = "embedded",
        adapter: str | Path | None = None,
        samples: int = 20,
        context: int | None = None,
        seed: int = 0,
        sampling: Mapping[str, Any] | None = None,
        predict_options: Mapping[str, Any] | None = None,
        fit_options: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.adapter = adapter
        self.samples = samples
        self.context = context
        self.seed = seed
        self.sampling = sampling
        self.predict_options = predict_options
        self.fit_options = fit_options
        super().__init__()

    # ------------------------------------------------------------------------------------- what sktime calls

    def _fit(self, y: pd.DataFrame, X: Any, fh: Any) -> JaxlvForecaster:
        self._opened()
        self._cur_y = y
        return self

    def _update(self, y: pd.DataFrame, X: Any = None, update_params: bool = True) -> JaxlvForecaster:
        self._cur_y = update_data(self._cur_y, y)
        return self

    def _predict(self, fh: ForecastingHorizon, X: Any) -> pd.DataFrame:
        values_NQHV, asked = self._quantiles(fh, [0.5])
        return asked.framed(values_NQHV[:, 0], self._cur_y.columns)

    def _predict_quantiles(self, fh: ForecastingHorizon, X: Any, alpha: list[float]) -> pd.DataFrame:
        values_NQHV, asked = self._quantiles(fh, alpha)
        values_NHVQ = np.moveaxis(values_NQHV, 1, -1)
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return asked.framed(values_NHVQ.reshape(*values_NHVQ.shape[:2], -1), columns)

    def _predict_var(self, fh: ForecastingHorizon, X: Any = None, cov: bool = False) -> pd.DataFrame:
        drawn_NSHV, asked = self._drawn(fh)
        return asked.framed(drawn_NSHV.var(axis=1), self._cur_y.columns)

    def _pretrain(self, y: pd.DataFrame, X: Any = None, fh: Any = None) -> JaxlvForecaster:
        options = {"seed": self.seed, **(self.fit_options or {})}
        begun = (f"lora.init={self.run_}/adapter",) if hasattr(self, "run_") else ()
        options["settings"] = (*WHOLE, *begun, *options.get("settings", ()))
        tuned = Forecaster(self.model, adapter=self.adapter, progress=False, **dict(self.sampling or {}))
        tuned.fit(_observed(y).observations, holdout=0, **options)
        self.run_ = str(tuned.model)
        return self

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Returns parameters for sktime's tests: a random model of one layer, with little to read and to write."""
        settings = ("windows.length=64", "train.batch_size=1", "lora.rank=2", "optimizer.warmup_steps=0")
        training = {"steps": 1, "settings": settings}
        small = {"model": f"{_tiny().name}/model", "samples": 2, "context": 8, "fit_options": training}
        return [small, {**small, "seed": 1, "predict_options": {"missing": "drop"}}]

    # --------------------------------------------------------------------------------------------- forecasts

    def _opened(self) -> Forecaster:
        if hasattr(self, "run_"):
            return opened(self.run_, None, self.sampling)
        return opened(self.model, self.adapter, self.sampling)

    def _quantiles(self, fh: ForecastingHorizon, probabilities: Sequence[float]) -> tuple[np.ndarray, _Asked]:
        drawn_NSHV, asked = self._drawn(fh)
        return np.moveaxis(np.asarray(metrics.quantiles(drawn_NSHV, list(probabilities))), 0, 1), asked

    def _drawn(self, fh: ForecastingHorizon) -> tuple[np.ndarray, _Asked]:
        """Returns samples (N, S, H, V) in the order of the variables of y, NaN for a series that cannot be forecast."""
        panel = _observed(self._cur_y)
        asked = panel.asked(fh)
        options = {"samples": self.samples, "context": self.context, "seed": self.seed, **(self.predict_options or {})}
        forecast = self._opened().predict(panel.observations, asked.horizon, **options)
        found_NSHV = trajectories(forecast)
        drawn_NSHV = np.full((len(panel.keys), *found_NSHV.shape[1:]), np.nan)
        drawn_NSHV[forecast.made.ids_N] = found_NSHV
        place = {name: v for v, name in enumerate(forecast.made.variables)}
        return drawn_NSHV[..., [place[name] for name in panel.names]], asked


@functools.cache
def _tiny() -> tempfile.TemporaryDirectory[str]:
    """Returns a folder, there as long as this process, with a random model that is opened and tuned in a moment."""
    config = ModelConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, max_position_embeddings=512,
    )  # fmt: skip
    model, folder = Qwen2(config), tempfile.TemporaryDirectory(prefix="jaxlv-")
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    save_pretrained(Path(folder.name) / "model", model, params)
    return folder


class _Asked(NamedTuple):
    """Which steps of each series are forecast: from 1 on, and their times."""

    keys: list[Any]
    names: list[Any]  # of the levels of the index
    steps: list[np.ndarray]
    times: list[pd.Index]

    @property
    def horizon(self) -> int:
        return max(int(one.max()) for one in self.steps)

    def framed(self, values_NHC: np.ndarray, columns: Any) -> pd.DataFrame:
        """Returns the steps of each series that were asked for as a frame of C columns."""
        frames = [
            pd.DataFrame(values_HC[steps - 1], index=times, columns=columns)
            for values_HC, steps, times in zip(values_NHC, self.steps, self.times, strict=True)
        ]
        if len(self.names) == 1:
            return frames[0].rename_axis(self.names[0])
        return pd.concat(frames, keys=self.keys, names=self.names)


class _Axis(NamedTuple):
    """The times of a series: its last, as sktime has it, and how its steps are counted."""

    cutoff: pd.Index
    whole: pd.Index  # the times of all steps, those that the index leaves out included
    stride: int = 1  # how far an index of whole numbers grows in a step
    clock: Clock | None = None  # of dates with gaps, of which pandas does not find the frequency

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Axis:
        """Returns the axis of a series; raises JaxlvError if its times are not regular."""
        index, cutoff = frame.index, get_cutoff(frame, return_index=True)
        if pd.api.types.is_integer_dtype(index.dtype):
            stride = int(np.gcd.reduce(np.diff(index.to_numpy(np.int64)))) if len(index) > 1 else 1
            return cls(cutoff, pd.RangeIndex(index[0], index[-1] + 1, stride), stride)
        if isinstance(index, pd.PeriodIndex):
            return cls(cutoff, pd.period_range(index[0], index[-1], freq=index.freq))
        freq = getattr(cutoff, "freq", None)
        if not isinstance(index, pd.DatetimeIndex) or len(index) < 2:
            return cls(cutoff, index)
        if freq is not None and index.isin(whole := pd.date_range(index[0], index[-1], freq=freq)).all():
            return cls(cutoff, whole)
        timed = read_clock(index, np.zeros(len(index), int), WHERE)
        whole = _dates(timed.clock, np.arange(timed.step_R.max() + 1), index)
        return cls(cutoff, whole, clock=timed.clock)

    def ahead(self, fh: ForecastingHorizon) -> tuple[np.ndarray, pd.Index]:
        """Returns the steps behind the series that are asked for, from 1 on, and their times; raises JaxlvError if a time is
        not a step, and NotImplementedError if it lies in the sample.
        """
        if self.clock is not None:
            return self._by_clock(self.clock, fh)
        steps = np.asarray(fh.to_relative(self.cutoff).to_pandas(), np.int64)
        self._check(steps, steps % self.stride == 0)
        return steps // self.stride, fh.to_absolute_index(self.cutoff)

    def _by_clock(self, clock: Clock, fh: ForecastingHorizon) -> tuple[np.ndarray, pd.Index]:
        last = len(self.whole) - 1
        if fh.is_relative:
            steps = np.asarray(fh.to_pandas(), np.int64)
            self._check(steps)
            return steps, _dates(clock, last + steps, self.whole)
        times, known = pd.DatetimeIndex(fh.to_pandas()), self.whole[-1:]
        while known[-1] < times.max():
            known = _dates(clock, last + np.arange(2 * len(known)), self.whole)
        steps = known.get_indexer(times)
        self._check(np.where(times <= self.whole[-1], 0, 1), steps >= 0)
        return steps, times

    def _check(self, steps: np.ndarray, are_steps: Any = True) -> None:
        if (steps < 1).any():
            raise NotImplementedError("JaxlvForecaster makes no in-sample forecasts")
        if not np.all(are_steps):
            raise JaxlvError(
                "no step of the series", where="fh", expected="times in its steps", found=f"after {self.cutoff[0]}"
            )


def _dates(clock: Clock, steps: np.ndarray, like: pd.DatetimeIndex) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(clock.labels(0, steps)).as_unit(like.unit)


class _Panel(NamedTuple):
    """Series of sktime as jaxlv reads them; their ids are their places."""

    keys: list[Any]
    levels: list[Any]  # the names of the index
    axes: list[_Axis]
    names: tuple[str, ...]  # the variables in the order of the columns
    observations: Observations

    def asked(self, fh: ForecastingHorizon) -> _Asked:
        """Returns the steps of each series; raises what `_Axis.ahead` raises."""
        steps, times = zip(*[axis.ahead(fh) for axis in self.axes], strict=True)
        return _Asked(self.keys, self.levels, list(steps), list(times))


def _observed(y: pd.DataFrame) -> _Panel:
    """Returns series of sktime, a frame or one with several levels of index; gaps in a regular index are missing values."""
    if isinstance(y.index, pd.MultiIndex):
        outer = list(range(y.index.nlevels - 1))
        groups = list(y.groupby(level=outer if len(outer) > 1 else 0, sort=False))
        keys, frames = [key for key, _ in groups], [frame.droplevel(outer) for _, frame in groups]
    else:
        keys, frames = [0], [y]
    axes = [_Axis.of(frame) for frame in frames]
    values = [frame.reindex(axis.whole).to_numpy(np.float64) for frame, axis in zip(frames, axes, strict=True)]
    unnamed = all(isinstance(name, (int, np.integer)) for name in y.columns)
    names = default_names(len(y.columns)) if unnamed else clean_names([str(name) for name in y.columns], WHERE)
    notes: list[str] = []
    found = Observations(tuple(range(len(keys))), tuple(names), tuple(values), Clock.steps(len(keys)), where=WHERE)
    found = found.ordered(in_order(names, names, notes)[0]).noted(*notes).checked()
    return _Panel(keys, list(y.index.names), axes, tuple(names), found)
