"""Measures what the charts of an exploration show beside its tables: traces, histograms and dots.

Axes: N series, T time steps, V variables, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxlv.analysis.clusters import Clusters, plane
from jaxlv.analysis.exploration import Cycles
from jaxlv.data.series import SeriesSet
from jaxlv.results.exploration import Dots, Drawn, Histogram, Plane, Trace
from jaxlv.results.record import Id

MOST = 2000  # dots of a chart
BINS = 60  # of values, on a logarithmic axis
BAND = (10, 90)  # percentiles between which a band lies


def drawn(data: SeriesSet, shown: SeriesSet, found: Cycles, clusters: Clusters | None) -> Drawn:
    """Returns what charts show of all series, of each one in `shown`, and of clusters if there are any."""
    pair, names = len(data.variables) > 1, data.variables
    return Drawn(
        time=tuple(data.time_T),
        shown=tuple(_trace(i, values_TV, names) for i, values_TV in zip(shown.ids_N, shown.values_NTV, strict=True)),
        clusters=tuple(_typical(data, clusters)) if clusters else (),
        values=value_histogram(data),
        periods=counts(found.period_NV, 1.0, names),
        lags=tuple(filter(None, lag_histograms(found))) if pair else (),
        first=_dots(data.values_NTV[:, 0]) if pair else None,
        last=_dots(data.values_NTV[:, -1]) if pair else None,
        plane=_plane(clusters) if clusters else None,
    )


def thinned(count: int) -> np.ndarray:
    """Returns at most MOST of so many places, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))


def _dots(values_NV: np.ndarray) -> Dots:
    return Dots(*values_NV[thinned(len(values_NV)), :2].T)


def _by_name(values_TV: np.ndarray, names: Sequence[str]) -> Mapping[str, tuple[float, ...]]:
    return dict(zip(names, map(tuple, values_TV.T), strict=True))


def _trace(i: Id, values_TV: np.ndarray, names: Sequence[str]) -> Trace:
    return Trace(i, _by_name(values_TV, names))


def _typical(data: SeriesSet, found: Clusters) -> Iterator[Trace]:
    """Yields the typical series of each cluster in the band of its series."""
    for k in range(len(found.share_K)):
        n = found.typical(k)
        low_TV, high_TV = np.percentile(data.values_NTV[found.label_N == k], BAND, axis=0)
        bands = (_by_name(ends_TV, data.variables) for ends_TV in (data.values_NTV[n], low_TV, high_TV))
        yield Trace(data.ids_N[n], *bands)


def _plane(found: Clusters) -> Plane:
    """Places at most MOST of the series, by cluster."""
    place_N2, variance = plane(found)
    held_N = np.isin(np.arange(len(place_N2)), thinned(len(place_N2)))
    clusters = [Dots(*place_N2[held_N & (found.label_N == k)].T) for k in range(len(found.share_K))]
    return Plane(tuple(variance), tuple(clusters))


def value_histogram(data: SeriesSet) -> Histogram:
    """Returns the shares of each variable's values, in percent, in bins of equal ratio; values of 0 are left out."""
    held = data.values_NTV[data.values_NTV > 0]
    low, high = (held.min(), held.max()) if len(held) else (0.1, 1.0)
    edges = np.geomspace(low, high * 1.0001, BINS + 1)
    shares = [100 * np.histogram(all_NT, edges)[0] / max(all_NT.size, 1) for all_NT in np.moveaxis(data.values_NTV, 2, 0)]
    return Histogram(tuple(edges), dict(zip(data.variables, map(tuple, shares), strict=True)), data.values_NTV.mean())


def lag_histograms(found: Cycles) -> list[Histogram | None]:
    """Counts the series by the second variable's lag, in steps and in percent of the period."""
    return [counts(values_N[:, None], width, [""]) for values_N, width in ((found.lag_N, 0.5), (100 * found.share_N, 2.0))]


def counts(values_NV: np.ndarray, width: float, names: Sequence[str]) -> Histogram | None:
    """Counts series in bins of that width, or wider if there would be more than a hundred; None without a value."""
    held = values_NV[np.isfinite(values_NV)]
    if not len(held):
        return None
    width *= max(1, int(np.ceil(np.ptp(held) / width / 100)))
    edges = np.arange(np.floor(held.min() / width), np.ceil(held.max() / width) + 1.5) * width
    heights = {name: tuple(np.histogram(values_NV[:, v], edges)[0]) for v, name in enumerate(names)}
    return Histogram(tuple(edges), heights, held.mean())
