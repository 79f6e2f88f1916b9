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
from jaxlv.forecasting.origins import LEAST, by_length
from jaxlv.forecasting.request import Request

ORIGINS = 4  # within a context, at most
MEMBERS = ("analog", "VAR(3) on logs", "Lotka-Volterra, fitted", "LV + logistic, fitted", "RM, fitted")
POWER = 2.0  # weights are CRPS ** -POWER
FLOOR = 0.05  # of the mean of a context: values below it do not count as relative errors
SAMPLES = 100  # of the pool
Draw = Callable[[SeriesSet, Request], np.ndarray]  # samples (N, S, H, V) without NaN


@dataclass(frozen=True)
class Inner:
    """Windows within contexts: their series, which of the contexts each is of, and the truth behind each (M, H, V), with NaN
    where it was missing. The forecasts begin at step `context`.
    """

    windows: SeriesSet
    series_M: np.ndarray
    context: int
    truth_MHV: np.ndarray


def inner(series: SeriesSet, context: int, horizon: int, count: int = ORIGINS) -> Inner | None:
    """Returns at most `count` windows of each context, the last of which ends with it; None if a context has no room.

    The steps between origins are a quarter of the horizon. A window has at least LEAST steps before its origin.
    """
    every, longest = max(1, horizon // 4), context - horizon
    parts = []
    for turn in range(count):
        back = turn * every
        rows = np.flatnonzero(longest - back - series.first_N >= LEAST)
        if len(rows):
            parts.append((back, rows))
    if not parts or len(parts[0][1]) < len(series):
        return None
    rows_M = np.concatenate([rows for _, rows in parts])
    back_M = np.concatenate([np.full(len(rows), back) for back, rows in parts])
    index_MT = np.arange(context) - back_M[:, None]
    known_NTV = series.values_NTV
    missing_NTV = np.zeros(known_NTV.shape, bool) if series.missing_NTV is None else series.missing_NTV
    at = rows_M[:, None], np.maximum(index_MT, 0)
    values_MTV = np.where((index_MT >= 0)[..., None], known_NTV[at], np.nan)
    missing_MTV = missing_NTV[at] & (index_MT >= 0)[..., None]
    truth_MHV = np.where(missing_MTV[:, longest:], np.nan, values_MTV[:, longest:])
    chosen = series.rows(rows_M, np.arange(len(rows_M)))
    windows = replace(
        chosen, values_NTV=values_MTV, time_T=series.time_T[:context], first_N=series.first_N[rows_M] + back_M,
        clock=chosen.clock.moved(-back_M), missing_NTV=missing_MTV if missing_MTV.any() else None,
    )  # fmt: skip
    return Inner(windows, rows_M, longest, truth_MHV)


@dataclass(frozen=True)
class Pooled:
    """A pool's samples (N, S, H, V), and the weights of its members, by name, each (N,)."""

    samples_NSHV: np.ndarray
    weights: Mapping[str, np.ndarray]


def pool(series: SeriesSet, request: Request, model: Draw, name: str = "model") -> Pooled:
    """Returns the pool's forecasts of series from their first `request.context` steps.

    Without room for origins within the context, all members weigh the same. Raises JaxlvError as the model does.
    """
    here = inner(series, request.context, request.horizon)
    members, scores = {name: model(series, request)}, dict[str, np.ndarray]()
    within = request if here is None else replace(request, context=here.context, shown=0)
    if here is not None:
        scores[name] = _crps(model(here.windows, within), here.truth_MHV)
    for other, baseline in baselines_for(series).items():
        if other not in MEMBERS:
            continue
        with contextlib.suppress(JaxlvError):  # a method that cannot forecast such series is no member
            point_NHV = _point(baseline, series, request)
            if here is None:
                members[other] = point_NHV[:, None]
                continue
            past_MHV = _point(baseline, here.windows, within)
            errors = Errors.of(past_MHV, here, series, request.context)
            members[other], scores[other] = errors.ahead(point_NHV), _crps(errors.within(past_MHV), here.truth_MHV)
    weights = _weights(scores, None if here is None else here.series_M, len(series), tuple(members))
    return Pooled(_mixed(members, weights, request.seed), weights)


def _point(baseline: Baseline, series: SeriesSet, request: Request) -> np.ndarray:
    return by_length(baseline, series.values_NTV[:, : request.context], series.first_N, request.horizon)


@dataclass(frozen=True)
class Errors:
    """Errors of a method's logarithms at the windows within contexts, (M, H, V), of which `rows_M` are the series.

    `size_N1V` keeps values near 0 from making large errors of logarithms.
    """

    errors_MHV: np.ndarray
    rows_M: np.ndarray
    size_N1V: np.ndarray

    @classmethod
    def of(cls, past_MHV: np.ndarray, here: Inner, series: SeriesSet, context: int) -> Errors:
        """Returns the errors of forecasts of the windows; where the truth was missing there is none."""
        size_N1V = FLOOR * np.nanmean(series.values_NTV[:, :context], axis=1, keepdims=True) + np.finfo(float).tiny
        at_M1V = size_N1V[here.series_M]
        return cls(np.nan_to_num(np.log((here.truth_MHV + at_M1V) / (past_MHV + at_M1V))), here.series_M, size_N1V)

    def ahead(self, point_NHV: np.ndarray) -> np.ndarray:
        """Returns samples (N, S, H, V) of the forecasts behind the contexts."""
        own = [self.errors_MHV[self.rows_M == row] for row in range(len(point_NHV))]
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


def _weights(
    scores: Mapping[str, np.ndarray], series_M: np.ndarray | None, count: int, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Returns the weight of each member for each series, (N,); they add up to 1."""
    if series_M is None:
        return {name: np.full(count, 1 / len(names)) for name in names}
    size = np.bincount(series_M, minlength=count)
    mean = {}
    for name in names:
        by_series_N = np.bincount(series_M, _scaled(scores, name), minlength=count) / size
        mean[name] = np.maximum(by_series_N, 1e-9)
    power = {name: one**-POWER for name, one in mean.items()}
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
