"""Features and K-means regimes: groups that are there are found, and the course's beside the report's shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from jaxlv.analysis import clusters
from jaxlv.analysis.clusters import FEATURE_SETS, FEATURES, MAIN, REPORTED, Clusters
from jaxlv.analysis.exploration import Cycles, cycles
from jaxlv.data import series
from jaxlv.forecasting import robustness

T = np.arange(80.0)


def group(kind: str, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 80, 2) series of one kind, alike but for a little."""
    size_N = random.uniform(0.95, 1.05, (count, 1))
    wave_NT = np.sin(2 * np.pi * T / (16 * size_N))
    lagged_NT = np.sin(2 * np.pi * (T / (16 * size_N) - 0.25))
    prey, predator = {
        "sustained": (6 + 4 * wave_NT, 3 + 2 * lagged_NT),
        "damped": (2 + np.exp(-T / 15) * wave_NT, 1 + 0.5 * np.exp(-T / 15) * lagged_NT),
        "small": (2 + 0.4 * wave_NT, 1.8 + 0.4 * lagged_NT),
        "collapse": (8 - 7 * np.exp(-T / 6) + 0 * wave_NT, np.exp(-T / 8) + 0 * wave_NT),
    }[kind]
    return np.stack([prey * size_N, predator * size_N], axis=2)


@pytest.fixture(scope="module")
def made() -> tuple[series.SeriesSet, np.ndarray]:
    """Series of four kinds in proportions 20, 12, 8 and 4, and their kinds."""
    random, sizes = np.random.default_rng(0), {"small": 20, "damped": 12, "sustained": 8, "collapse": 4}
    values_NTV = np.concatenate([group(kind, count, random) for kind, count in sizes.items()])
    kind_N = np.repeat(list(sizes), list(sizes.values()))
    order = random.permutation(len(kind_N))
    return series.from_arrays(values_NTV[order], T, ids=100 + np.arange(len(order))), kind_N[order]


@pytest.fixture(scope="module")
def table(made) -> pd.DataFrame:
    return clusters.features(made[0], cycles(made[0].values_NTV))


def test_features_are_what_they_say(made, table):
    data, kind_N = made
    assert list(table) == list(FEATURES) and list(table.index) == data.ids_N.tolist()
    assert np.isfinite(table.to_numpy()).all()
    n = int(np.flatnonzero(kind_N == "sustained")[0])
    row, (prey_T, predator_T) = table.iloc[n], data.values_NTV[n].T
    assert row["prey amplitude"] == prey_T.max() - prey_T.min()
    assert row["ratio"] == pytest.approx(prey_T.mean() / predator_T.mean())
    assert row["correlation"] == pytest.approx(np.corrcoef(prey_T, predator_T)[0, 1])
    assert row["damping"] == pytest.approx(1, abs=0.02) and row["lag"] == pytest.approx(0.25, abs=0.01)
    assert row["prey trend"] == pytest.approx(prey_T[40:].mean() - prey_T[:40].mean())
    collapse = table[kind_N == "collapse"]
    assert (collapse["period"] == len(T)).all() and (collapse["lag"] == np.median(table["lag"])).all()
    assert (collapse["ratio"] > 10).all() and (table[kind_N == "damped"]["damping"] < 0.3).all()


def test_features_by_hand():
    """Five steps, of which two are the first half; cycles as a peak search might find them."""
    values_NTV = np.zeros((4, 5, 2))
    values_NTV[0] = np.transpose([[1.0, 2, 3, 4, 10], [5.0, 4, 3, 2, 1]])
    values_NTV[1] = np.transpose([[2.0, 8, 2, 5, 3], [1.0, 3, 1, 1, 4]])
    values_NTV[2] = np.transpose([[7.0, 7, 1, 3, 2], [1.0, 2, 1, 1, 0]])  # prey that do not change at first
    values_NTV[3] = np.transpose([[6.0, 5, 4, 4, 4], [0.0, 0, 0, 0, 0]])  # no predators
    period_NV = np.array([[2.5, 9], [4, 1], [np.nan, 3], [6, np.nan]])
    found = Cycles(np.zeros((4, 2), int), period_NV, np.array([0.5, 1.2, np.nan, 5.4]))
    table = clusters.features(series.from_arrays(values_NTV, ids=[3, 5, 8, 9]), found)
    expected = {
        "period": [2.5, 4, 5, 6],
        "prey amplitude": [9, 6, 6, 2],
        "predator amplitude": [4, 3, 2, 0],
        "correlation": [*(np.corrcoef(v_TV.T)[0, 1] for v_TV in values_NTV[:3]), 0],
        "lag": [0.2, 0.3, 0.3, 0.9],  # the third has no period: the median of the others
        "damping": [7 / 1, 3 / 6, 7, 0 / 1],  # the third has nothing to compare: the largest of the others
        "ratio": [4 / 3, 4 / 2, 4 / 1, 4],
        "prey trend": [17 / 3 - 1.5, 10 / 3 - 5, 2 - 7, 4 - 5.5],
        "predator trend": [2 - 4.5, 2 - 2, 2 / 3 - 1.5, 0],
    }
    assert list(table) == list(expected) == list(FEATURES) and list(table.index) == [3, 5, 8, 9]
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, err_msg=name)


def test_agreement_of_clusters_with_rules_by_hand():
    """Ten series in three clusters; a cluster overlaps with a rule by what both hold, of what either holds."""
    rule_N = np.array(["oscillatory"] * 3 + ["prey-dominant"] * 5 + ["collapse"] * 2)
    label_N = np.array([1, 1, 0, 0, 0, 0, 1, 2, 2, 2])
    found = Clusters(("ratio",), np.arange(10.0)[:, None], label_N)
    assert clusters.matches(found, rule_N) == {
        "prey-dominant": (0, 3 / 6), "classic oscillatory": (1, 2 / 4), "predator collapse": (2, 2 / 3),
    }  # fmt: skip
    rows = {row.name: row for row in clusters.regime_rows(found, rule_N)}
    assert {name: row.reported for name, row in rows.items()} == {
        "classic oscillatory": 0.146, "prey-dominant": 0.693, "equilibrium": 0.149, "predator collapse": 0.012,
    }  # fmt: skip
    dominant, rest = rows["prey-dominant"], rows["equilibrium"]
    assert (dominant.by_rule, dominant.clustered, dominant.cluster) == (0.5, 0.4, 1)
    assert (rest.by_rule, rest.cluster, rest.clustered) == (0, None, None)
    counts = clusters.contingency(found, rule_N)
    assert list(counts) == ["prey-dominant", "oscillatory", "collapse"] and counts.to_numpy().tolist() == [
        [3, 1, 0], [1, 2, 0], [1, 0, 2],
    ]  # fmt: skip


def test_centres_are_medians_and_typical_series_the_nearest():
    label_N = np.array([0, 0, 0, 1, 1])
    scaled_NF = np.array([[0.9, 0.1], [0.1, 0.1], [0.8, -0.2], [-2.0, 0.4], [0.2, -0.4]])
    found = Clusters(("period", "ratio"), scaled_NF, label_N)
    table = pd.DataFrame({"period": [1.0, 2, 9, 4, 5], "ratio": [3.0, 3, 3, 8, 1], "lag": 0.0})
    first, second = clusters.centre_rows(found, table)
    assert (first.cluster, first.series, first.share) == (1, 3, 0.6)
    assert (first.features, second.features["period"]) == ({"period": 2, "ratio": 3}, 4.5)
    assert found.typical(0) == 2  # (.6, 0) is the centre
    assert (first.looks, second.looks) == ("long period", "short period")  # centres of .6 and -.9
    mild = Clusters(("period", "ratio"), scaled_NF * [0.8, 1], label_N)
    assert (mild.look(0), mild.look(1)) == ("near the average", "short period")  # .48 is too little


def test_scores_of_clusters_that_do_not_hold_together():
    """Noise: every seed cuts it otherwise, and the least agreement is told."""
    random = np.random.default_rng(3)
    data = series.from_arrays(random.uniform(0.5, 2, (30, 24, 2)))
    rule_N = np.array(["oscillatory", "collapse", "equilibrium"])[np.arange(30) % 3]
    found = clusters.explore(data, cycles(data.values_NTV), rule_N)
    scores = [row.rand for row in found.tables["stability"]]
    assert found.scores.least_rand == min(scores) < max(scores)
    assert found.scores.rand_with_rules == adjusted_rand_score(rule_N, found.main.label_N)
    for row in found.tables["feature_sets"]:
        shares = [row.share_1, row.share_2, row.share_3, row.share_4]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
        distance = sum(abs(a - b) for a, b in zip(shares, (0.693, 0.149, 0.146, 0.012), strict=True))
        assert row.distance == pytest.approx(distance)
    assert found.tables["regimes"] == clusters.regime_rows(found.main, rule_N)


def test_groups_that_are_there_are_found(made, table):
    kind_N = made[1]
    found = clusters.cluster(table, FEATURE_SETS[MAIN])
    assert adjusted_rand_score(kind_N, found.label_N) == 1
    np.testing.assert_allclose(found.share_K, np.array([20, 12, 8, 4]) / 44)
    assert kind_N[found.typical(3)] == "collapse" and "far more prey" in found.look(3)
    assert clusters.stability(found) == [1.0] * (len(clusters.SEEDS) - 1)
    best = max(clusters.silhouettes(found), key=lambda row: row.silhouette)
    assert best.clusters == 4 and best.silhouette > 0.8


def test_scales_of_features_do_not_count(table):
    one, other = (clusters.cluster(t, FEATURE_SETS[MAIN]) for t in (table, table * 1000.0))
    np.testing.assert_array_equal(one.label_N, other.label_N)


def test_the_report_s_regimes_go_to_the_clusters_that_overlap_most(made, table):
    names = {"small": "prey-dominant", "damped": "equilibrium", "sustained": "oscillatory", "collapse": "collapse"}
    rule_N = np.array([names[kind] for kind in made[1]])
    found = clusters.cluster(table, FEATURE_SETS[MAIN])
    matched = clusters.matches(found, rule_N)
    assert {name: k for name, (k, _) in matched.items()} == {
        "prey-dominant": 0, "equilibrium": 1, "classic oscillatory": 2, "predator collapse": 3,
    }  # fmt: skip
    assert all(overlap == 1 for _, overlap in matched.values())
    rows = clusters.regime_rows(found, rule_N)
    assert [row.reported for row in rows] == [share for _, share in REPORTED.values()]
    assert all(row.by_rule == row.clustered for row in rows)
    counts = clusters.contingency(found, rule_N)
    assert counts.to_numpy().sum() == 44 and (counts.to_numpy() > 0).sum() == 4


def test_the_look_of_a_cluster_names_what_is_far_off():
    scaled_NF = np.array([[2.0, 0.1], [2.0, -0.1], [-2.0, 0.0], [-2.0, 0.0]])
    found = Clusters(("period", "ratio"), scaled_NF, np.array([0, 0, 1, 1]))
    assert (found.look(0), found.look(1)) == ("long period", "short period")
    assert Clusters(("ratio",), np.zeros((2, 1)), np.array([0, 0])).look(0) == "near the average"


def test_too_few_series_or_one_variable_have_no_regimes(made):
    data, _ = made
    few = data.select(data.ids_N[:6])
    assert clusters.explore(few, cycles(few.values_NTV), robustness.regimes_of(few)) is None
    alike = series.from_arrays(np.repeat(data.values_NTV[:1], 30, axis=0))
    assert clusters.explore(alike, cycles(alike.values_NTV), robustness.regimes_of(alike)) is None
    alone = series.from_arrays(data.values_NTV[..., :1], variables=["fox"])
    assert clusters.features(alone, cycles(alone.values_NTV)).empty
    assert clusters.explore(alone, cycles(alone.values_NTV), robustness.regimes_of(alone)) is None


def test_still_and_empty_series_have_features(made):
    values_NTV = made[0].values_NTV.copy()
    values_NTV[0], values_NTV[1], values_NTV[2, :, 1] = 1.0, 0.0, 0.0
    data = series.from_arrays(values_NTV)
    table = clusters.features(data, cycles(values_NTV))
    assert np.isfinite(table.to_numpy()).all() and (table["correlation"].iloc[:3] == 0).all()


def test_the_regimes_of_the_course(shared: Path):
    """The report's rarest regime, 1.2 %, is a cluster of the same size, of series whose predators die out."""
    data = series.load(shared / "data" / "lotka_volterra_data.h5")
    found, rule_N = cycles(data.values_NTV), robustness.regimes_of(data)
    main = clusters.cluster(clusters.features(data, found), FEATURE_SETS[MAIN])
    np.testing.assert_allclose(main.share_K, [0.616, 0.213, 0.159, 0.012], atol=0.02)
    rows = {row.name: row for row in clusters.regime_rows(main, rule_N)}
    collapse = rows["predator collapse"]
    assert collapse.clustered == pytest.approx(0.012) and "far more prey" in collapse.looks
    final_N = data.values_NTV[:, -1, 1][main.label_N == collapse.cluster - 1]
    assert (final_N < 0.3).all() and np.median(final_N) < 0.02
    assert rows["prey-dominant"].cluster == 1 and rows["prey-dominant"].by_rule == pytest.approx(0.726)
    assert min(clusters.stability(main, (1, 2))) > 0.9
