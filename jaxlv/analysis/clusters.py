"""Clusters whole series by their features (K-means), and measures the agreement with rules and with a paper's regimes.

Axes: N series, T time steps, V variables, F features, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from jaxlv.analysis.exploration import Cycles
from jaxlv.data.series import SeriesSet
from jaxlv.results.exploration import (
    CLUSTERS,
    Centre,
    ClusterRules,
    FeatureSet,
    Regimes,
    ReportedRegime,
    SeedScore,
    Silhouette,
)
from jaxlv.results.record import Record

COUNTS = tuple(range(2, 9))  # numbers of clusters that are compared
SEEDS = tuple(range(10))
STARTS = 10  # of K-means; the best is kept
SILHOUETTE = 2000  # series at most that a silhouette is taken of
LEAST = 2 * max(COUNTS)  # series that clusters need

REPORTED: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "classic oscillatory": ("oscillatory", 0.146),
        "prey-dominant": ("prey-dominant", 0.693),
        "equilibrium": ("equilibrium", 0.149),
        "predator collapse": ("collapse", 0.012),
    }
)
"""The regimes that the paper xu names: (our label that means the same, the paper's share)."""


# ------------------------------------------------------------------------------------------------ features


@dataclass(frozen=True)
class Feature:
    """A number per series: its unit, what it is, and how series high and low in it look."""

    unit: str
    words: str
    high: str
    low: str


FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        "period": Feature(
            "steps",
            "mean distance of the prey's peaks; the length of the series if it has fewer than two",
            "long period",
            "short period",
        ),
        "prey amplitude": Feature(
            "raw units", "maximum minus minimum of the prey", "large prey swings", "small prey swings"
        ),
        "predator amplitude": Feature(
            "raw units", "maximum minus minimum of the predator", "large predator swings", "small predator swings"
        ),
        "correlation": Feature(
            "1",
            "of prey and predator at the same step, a phase relation that every series has; 0 if one never changes",
            "in phase",
            "out of phase",
        ),
        "lag": Feature(
            "share of the period",
            "of the predator's peaks behind the prey's; the median of the others if a series has no lag",
            "predator far behind",
            "predator close behind",
        ),
        "damping": Feature(
            "1",
            "range of the prey in the second half of the series by that in the first; 1 = sustained, 0 = died out",
            "sustained or growing",
            "damped",
        ),
        "ratio": Feature("1", "mean of the prey by mean of the predator", "far more prey", "little more prey"),
        "prey trend": Feature(
            "raw units", "mean of the prey's second half minus that of its first", "prey rises", "prey falls"
        ),
        "predator trend": Feature(
            "raw units", "the same of the predator", "predator rises", "predator falls"
        ),
    }
)  # fmt: skip
"""The features by name; "prey" is the first variable and "predator" the second."""

MAIN = "ours"
NAMED = "as the report names"
FEATURE_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        MAIN: ("period", "prey amplitude", "predator amplitude", "correlation", "damping", "ratio"),
        "ours, lag for correlation": ("period", "prey amplitude", "predator amplitude", "lag", "damping", "ratio"),
        "ours, without ratio": ("period", "prey amplitude", "predator amplitude", "correlation", "damping"),
        "ours, with trends": (
            "period", "prey amplitude", "predator amplitude", "correlation", "damping", "ratio", "prey trend",
            "predator trend",
        ),
        NAMED: ("period", "prey amplitude", "predator amplitude", "correlation"),
        "as the report names, lag": ("period", "prey amplitude", "predator amplitude", "lag"),
        "as the report names, with trends": (
            "period", "prey amplitude", "predator amplitude", "correlation", "prey trend", "predator trend",
        ),
        "amplitudes and ratio": ("prey amplitude", "predator amplitude", "ratio"),
    }
)  # fmt: skip
"""The sets of features that K-means is given, by name; the regimes are those of the first."""


def features(data: SeriesSet, found: Cycles) -> pd.DataFrame:
    """Returns a column for each of FEATURES and a row for each series; no column if there is only one variable, as most
    features relate two.
    """
    values_NTV = data.values_NTV
    _, T, V = values_NTV.shape
    if V < 2:
        return pd.DataFrame(index=data.ids_N)
    half = T // 2
    range_NV = np.ptp(values_NTV, axis=1)
    mean_NV = values_NTV.mean(axis=1)
    trend_NV = values_NTV[:, half:].mean(axis=1) - values_NTV[:, :half].mean(axis=1)
    columns = {
        "period": np.nan_to_num(found.period_NV[:, 0], nan=T),
        "prey amplitude": range_NV[:, 0],
        "predator amplitude": range_NV[:, 1],
        "correlation": _correlation(values_NTV),
        "lag": _filled(found.share_N),
        "damping": _ratio(np.ptp(values_NTV[:, half:, 0], axis=1), np.ptp(values_NTV[:, :half, 0], axis=1)),
        "ratio": _ratio(mean_NV[:, 0], mean_NV[:, 1]),
        "prey trend": trend_NV[:, 0],
        "predator trend": trend_NV[:, 1],
    }
    return pd.DataFrame(columns, index=pd.Index(data.ids_N, name="series"))


def _correlation(values_NTV: np.ndarray) -> np.ndarray:
    centred_NTV = values_NTV - values_NTV.mean(axis=1, keepdims=True)
    product_N = (centred_NTV[..., 0] * centred_NTV[..., 1]).mean(axis=1)
    deviation_N = centred_NTV[..., :2].std(axis=1).prod(axis=1)
    return np.divide(product_N, deviation_N, out=np.zeros(len(values_NTV)), where=deviation_N > 0)


def _ratio(above_N: np.ndarray, below_N: np.ndarray) -> np.ndarray:
    """Returns the ratio; if it would divide by zero, the largest of the others (1 without others)."""
    ratio_N = np.divide(above_N, below_N, out=np.full(len(above_N), np.nan), where=below_N > 0)
    return np.nan_to_num(ratio_N, nan=np.nanmax(ratio_N) if np.isfinite(ratio_N).any() else 1.0)


def _filled(values_N: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values_N, nan=np.nanmedian(values_N) if np.isfinite(values_N).any() else 0.0)


# ---------------------------------------------------------------------------------------------- clusters


@dataclass(frozen=True)
class Clusters:
    """K-means of one set of features: clusters by size, the largest is 0."""

    names_F: tuple[str, ...]
    scaled_NF: np.ndarray  # each feature less its mean, by its standard deviation
    label_N: np.ndarray

    @property
    def share_K(self) -> np.ndarray:
        return np.bincount(self.label_N) / len(self.label_N)

    @property
    def centre_KF(self) -> np.ndarray:
        """The means of the scaled features, by cluster."""
        return np.stack([self.scaled_NF[self.label_N == k].mean(axis=0) for k in range(self.label_N.max() + 1)])

    def typical(self, k: int) -> int:
        """Returns the row of the series that lies nearest to the centre of a cluster."""
        rows = np.flatnonzero(self.label_N == k)
        return int(rows[np.argmin(((self.scaled_NF[rows] - self.centre_KF[k]) ** 2).sum(axis=1))])

    def look(self, k: int, most: int = 3) -> str:
        """Says what sets a cluster apart: the features whose mean is half a standard deviation or more off."""
        centre_F = self.centre_KF[k]
        order = np.argsort(-np.abs(centre_F))[:most]
        words = [
            FEATURES[self.names_F[f]].high if centre_F[f] > 0 else FEATURES[self.names_F[f]].low
            for f in order
            if abs(centre_F[f]) >= 0.5
        ]
        return ", ".join(words) or "near the average"


def cluster(table: pd.DataFrame, names: Sequence[str], count: int = CLUSTERS, seed: int = 0) -> Clusters:
    """Clusters these columns, standardised, by K-means (scikit-learn, k-means++, the best of STARTS starts)."""
    scaled_NF = StandardScaler().fit_transform(table[list(names)].to_numpy())
    return Clusters(tuple(names), scaled_NF, _labels(scaled_NF, count, seed))


def _labels(scaled_NF: np.ndarray, count: int, seed: int) -> np.ndarray:
    with threadpool_limits(1):  # threads that wait for each other on a busy machine cost more than such a fit
        label_N = KMeans(count, n_init=STARTS, random_state=seed).fit_predict(scaled_NF)
    order_K = np.argsort(-np.bincount(label_N, minlength=count), kind="stable")
    return np.argsort(order_K)[label_N]


def stability(found: Clusters, seeds: Sequence[int] = SEEDS[1:]) -> list[float]:
    """Returns the adjusted Rand index of the clusters with those of every other seed."""
    labels = [_labels(found.scaled_NF, CLUSTERS, seed) for seed in seeds]
    return [float(adjusted_rand_score(found.label_N, label_N)) for label_N in labels]


def silhouettes(found: Clusters) -> list[Silhouette]:
    """Returns the mean silhouette, from -1 to 1, of K-means with each number of clusters."""
    return [Silhouette(k, _silhouette(found.scaled_NF, _labels(found.scaled_NF, k, 0))) for k in COUNTS]


def _silhouette(scaled_NF: np.ndarray, label_N: np.ndarray) -> float:
    size = min(SILHOUETTE, len(scaled_NF))
    return float(silhouette_score(scaled_NF, label_N, sample_size=size, random_state=0))


def plane(found: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scaled features in two principal components, (N, 2), and the shares of the variance that these hold."""
    reduced = PCA(2, svd_solver="full").fit(found.scaled_NF)
    return reduced.transform(found.scaled_NF), reduced.explained_variance_ratio_


def contingency(found: Clusters, rule_N: np.ndarray) -> pd.DataFrame:
    """Counts the series of each cluster (rows, from 1) by the label that rules give them (columns, most frequent first)."""
    table = pd.crosstab(pd.Series(found.label_N + 1, name="cluster"), pd.Series(rule_N, name="rule"))
    return table[table.sum().sort_values(ascending=False, kind="stable").index]


def matches(found: Clusters, rule_N: np.ndarray) -> dict[str, tuple[int, float]]:
    """Returns for each of the paper's regimes the cluster that stands for it, and their Jaccard index.

    The overlap is of a cluster with the series that bear the regime's label; the assignment, each cluster at most once, has
    the largest sum of them (Hungarian algorithm).
    """
    label_K = range(found.label_N.max() + 1)
    overlap_RK = np.array(
        [[_jaccard(rule_N == label, found.label_N == k) for k in label_K] for label, _ in REPORTED.values()]
    )
    rows, columns = linear_sum_assignment(-overlap_RK)
    return {list(REPORTED)[r]: (int(k), float(overlap_RK[r, k])) for r, k in zip(rows, columns, strict=True)}


def _jaccard(one_N: np.ndarray, other_N: np.ndarray) -> float:
    union = (one_N | other_N).sum()
    return float((one_N & other_N).sum() / union) if union else 0.0


# ------------------------------------------------------------------------------------------------ tables


def regime_rows(found: Clusters, rule_N: np.ndarray) -> list[ReportedRegime]:
    """Returns the paper's regimes: their share there, by our rules, and in the cluster that stands for them."""
    matched = matches(found, rule_N)
    rows = []
    for name, (label, reported) in REPORTED.items():
        by_rule = (rule_N == label).mean()
        if name in matched:
            k, overlap = matched[name]
            rows.append(ReportedRegime(name, reported, by_rule, k + 1, found.share_K[k], overlap, found.look(k)))
        else:
            rows.append(ReportedRegime(name, reported, by_rule, looks=""))
    return rows


def centre_rows(found: Clusters, table: pd.DataFrame) -> list[Centre]:
    """Returns for each cluster its size, the medians of its features in their units, and what sets it apart."""
    medians = table[list(found.names_F)].groupby(found.label_N).median()
    size_K = np.bincount(found.label_N)
    return [Centre(k + 1, size_K[k], share, dict(medians.loc[k]), found.look(k)) for k, share in enumerate(found.share_K)]


def rule_rows(found: Clusters, rule_N: np.ndarray) -> list[ClusterRules]:
    """Counts the series of each cluster by the label that rules give them."""
    return [ClusterRules(k, dict(counts)) for k, counts in contingency(found, rule_N).iterrows()]


def set_rows(table: pd.DataFrame, rule_N: np.ndarray) -> list[FeatureSet]:
    """Measures every set of features: shares by size, distance to the paper's, agreement with rules, stability, silhouette.

    The distance is the sum of the absolute differences of the shares, both sorted by size: 0 is the same, 2 the most.
    """
    reported = sorted((share for _, share in REPORTED.values()), reverse=True)
    rows = []
    for name, names in FEATURE_SETS.items():
        found = cluster(table, names)
        share_K = np.pad(found.share_K, (0, CLUSTERS - len(found.share_K)))
        row = FeatureSet(
            name,
            ", ".join(names),
            **{f"share_{k + 1}": share for k, share in enumerate(share_K)},
            distance=np.abs(share_K - reported).sum(),
            rand_with_rules=adjusted_rand_score(rule_N, found.label_N),
            least_rand=min(stability(found, SEEDS[1:5])),
            silhouette=_silhouette(found.scaled_NF, found.label_N),
        )
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Found:
    """The regimes of a set of series: features, clusters, what scores these, and the tables by their names."""

    features: pd.DataFrame
    main: Clusters
    scores: Regimes
    tables: Mapping[str, Sequence[Record]]


def explore(data: SeriesSet, found: Cycles, rule_N: np.ndarray) -> Found | None:
    """Returns the clusters and what is known about them; None if there is one variable, or too few different series."""
    table = features(data, found)
    if len(table.drop_duplicates()) < LEAST or table.empty:
        return None
    main = cluster(table, FEATURE_SETS[MAIN])
    seeds = stability(main)
    scores = Regimes(
        silhouette=_silhouette(main.scaled_NF, main.label_N),
        rand_with_rules=adjusted_rand_score(rule_N, main.label_N),
        least_rand=min(seeds),
        features=main.names_F,
        words=tuple((name, one.unit, one.words) for name, one in FEATURES.items()),
    )
    tables: dict[str, Sequence[Record]] = {
        "regimes": regime_rows(main, rule_N),
        "centres": centre_rows(main, table),
        "contingency": rule_rows(main, rule_N),
        "feature_sets": set_rows(table, rule_N),
        "silhouettes": silhouettes(main),
        "stability": list(map(SeedScore, SEEDS[1:], seeds)),
    }
    return Found(table, main, scores, tables)
