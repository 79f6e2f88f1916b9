"""A pool of methods: the model, VAR, analogs and fitted equations, weighted by how well each forecast the context itself.

The weights come from rolling origins within the context: no step behind it is seen. A method without samples of its own gets
them from its errors at these origins.

Axes: N series, K origins within a context, M windows (series and origins), S samples, C context steps, H steps, V variables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import metrics
from jaxlv.forecasting.baselines import Baseline, baselines_for
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.origins import Within, by_length, within
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.forecasting.stretching import ORIGINS, Draw, Stretching, calibrated, sizes

MEMBERS = ("analog", "VAR(3) on logs", "Lotka-Volterra, fitted", "LV + logistic, fitted", "RM, fitted")
MODEL = "model"  # the name of the model among the members
POWER = 2.0  # weights are CRPS ** -POWER
SAMPLES = 100  # of the pool


Done = Callable[[int], None]


def _silent(done: int) -> None:
    """Hears how many series are done."""


@dataclass(frozen=True)
class Pooled:
    """A pool's samples (N, S, H, V), the model's as they are in it, stretched, and the weights of the pool's members, by
    name, each (N,); they add up to 1.
    """

    samples_NSHV: np.ndarray
    calibrated_NSHV: np.ndarray
    weights: Mapping[str, np.ndarray]


def pool(series: SeriesSet, request: Request, model: Draw) -> Pooled:
    """Returns the pool's forecasts of series from their first `request.context` steps; the model's samples are stretched
    (see jaxlv.forecasting.stretching).

    Without room for origins within a context, the model is the pool. Raises JaxlvError as the model does.
    """
    here = within(series, request.context, request.horizon, ORIGINS)
    drawn_NSHV = model(series, request)
    if here is None:
        return Pooled(drawn_NSHV, drawn_NSHV, {MODEL: np.ones(len(series))})
    inner = here.asked(request)
    stretching = Stretching.fitted(model(here.windows, inner), here, series, request.context)
    members = {MODEL: stretching.ahead(drawn_NSHV)}
    scores = {MODEL: _crps(stretching.within(here), here.truth_MHV)}
    for other, baseline in baselines_for(series).items():
        if other in MEMBERS:
            with contextlib.suppress(JaxlvError):  # a method that cannot forecast such series is no member
                past_MHV = _point(baseline, here.windows, inner)
                errors = Errors.of(past_MHV, here, series, request.context)
                members[other] = errors.ahead(_point(baseline, series, request))
                scores[other] = _crps(errors.within(past_MHV), here.truth_MHV)
    weights = _weights(scores, here.series_M, len(series))
    return Pooled(_mixed(members, weights, request.seed), members[MODEL], weights)


METHODS = (MODEL, "calibrated", "pool")
"""What forecasts series: a model as it draws, with its samples stretched (see jaxlv.forecasting.stretching), or the pool."""


def forecast(method: str, model: Sampler, series: SeriesSet, request: Request, on_batch: Done = _silent) -> Forecast:
    """Returns forecasts by one of METHODS; raises JaxlvError for another word. Calls `on_batch(series done)`."""
    if method not in METHODS:
        raise JaxlvError("unknown method", expected=", ".join(METHODS), found=method)
    made = model(series, request, on_batch=on_batch)
    if method == MODEL:
        return made
    draw = _drawing(model, made, series)
    samples_NSHV = pool(series, request, draw).samples_NSHV if method == "pool" else calibrated(series, request, draw)
    return replace(made, samples_NSHV=samples_NSHV)


def pool_of(model: Sampler, made: Forecast, series: SeriesSet, request: Request, on_batch: Done = _silent) -> Pooled:
    """Returns the pool, given what the model has drawn already. Calls `on_batch(windows within the contexts done)`."""
    return pool(series, request, _drawing(model, made, series, on_batch))


def _drawing(model: Sampler, made: Forecast, series: SeriesSet, on_batch: Done = _silent) -> Draw:
    """Returns the model as it draws series, except those that it has drawn already."""
    return lambda other, request: made.filled() if other is series else model(other, request, on_batch=on_batch).filled()


def _point(baseline: Baseline, series: SeriesSet, request: Request) -> np.ndarray:
    """Returns a baseline's forecasts; it sees whole steps alone: if the text shows part of one, that one is skipped."""
    ahead, context_NCV = request.horizon + request.skipped, series.values_NTV[:, : request.context]
    return by_length(baseline, context_NCV, series.first_N, ahead)[:, request.skipped :]


@dataclass(frozen=True)
class Errors:
    """Errors of a method's logarithms at the windows within contexts, (M, H, V), of which `rows_M` are the series.

    `size_N1V` keeps values near 0 from making large errors of logarithms.
    """

    errors_MHV: np.ndarray
    rows_M: np.ndarray
    size_N1V: np.ndarray

    @classmethod
    def of(cls, past_MHV: np.ndarray, here: Within, series: SeriesSet, context: int) -> Errors:
        """Returns the errors of forecasts of the windows; where the truth was missing there is none."""
        size_N1V = sizes(series, context)
        at_M1V = size_N1V[here.series_M]
        return cls(np.nan_to_num(np.log((here.truth_MHV + at_M1V) / (past_MHV + at_M1V))), here.series_M, size_N1V)

    def ahead(self, point_NHV: np.ndarray) -> np.ndarray:
        """Returns samples (N, S, H, V) of the forecasts behind the contexts; beyond the windows' horizon the errors are
        those of its last step.
        """
        missing = point_NHV.shape[1] - self.errors_MHV.shape[1]
        longer_MHV = np.pad(self.errors_MHV, ((0, 0), (0, missing), (0, 0)), mode="edge")
        own = [longer_MHV[self.rows_M == row] for row in range(len(point_NHV))]
        return self._spread(point_NHV, own, np.arange(len(point_NHV)))

    def within(self, past_MHV: np.ndarray) -> np.ndarray:
        """Returns samples (M, S, H, V) of the forecasts of the windows; the errors of each are those of the others."""
        place_M = np.arange(len(past_MHV))
        others = [self.errors_MHV[(self.rows_M == row) & (place_M != place)] for place, row in enumerate(self.rows_M)]
        return self._spread(past_MHV, others, self.rows_M)

    def _spread(self, point_NHV: np.ndarray, errors: Sequence[np.ndarray], rows_N: np.ndarray) -> np.ndarray:
        found = []
        for point_HV, own_KHV, size_1V in zip(point_NHV, errors, self.size_N1V[rows_N], strict=True):
            both_KHV = np.concatenate([own_KHV, -own_KHV]) if len(own_KHV) else np.zeros((1, *point_HV.shape))
            drawn_SHV = both_KHV[np.resize(np.arange(len(both_KHV)), SAMPLES)]
            found.append(np.maximum((point_HV + size_1V) * np.exp(drawn_SHV) - size_1V, 0))
        return np.stack(found)


def _crps(samples_MSHV: np.ndarray, truth_MHV: np.ndarray) -> np.ndarray:
    """Returns (M, V): the mean CRPS over the steps whose truth is known."""
    known_MHV = np.isfinite(truth_MHV)
    at_MHV = metrics.crps_by_step(samples_MSHV, np.where(known_MHV, truth_MHV, 0))
    return (at_MHV * known_MHV).sum(axis=1) / np.maximum(known_MHV.sum(axis=1), 1)


def _weights(scores: Mapping[str, np.ndarray], series_M: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Returns the weight of each member for each series, (N,); they add up to 1."""
    size, power = np.bincount(series_M, minlength=count), {}
    for name in scores:
        mean_N = np.bincount(series_M, _scaled(scores, name), minlength=count) / size
        power[name] = np.maximum(mean_N, 1e-9) ** -POWER
    total_N = sum(power.values())
    return {name: one / total_N for name, one in power.items()}


def _scaled(scores: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns a member's CRPS in each window, each variable by the mean of all members: (M,)."""
    mean_MV = np.mean(list(scores.values()), axis=0)
    return (scores[name] / np.maximum(mean_MV, np.finfo(float).tiny)).mean(axis=1)


def _mixed(members: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    """Returns samples of the mixture, (N, SAMPLES, H, V): of each member its share, drawn without replacement as far as its
    samples go.
    """
    random, found = np.random.default_rng(seed), []
    for row in range(len(next(iter(members.values())))):
        edges = np.round(SAMPLES * np.cumsum([0, *(weights[name][row] for name in members)])).astype(int)
        parts = []
        for samples_NSHV, share in zip(members.values(), np.diff(edges), strict=True):
            own_SHV = samples_NSHV[row]
            parts.append(own_SHV[np.resize(random.permutation(len(own_SHV)), share)])
        found.append(np.concatenate(parts))
    return np.stack(found)
