"""Kinds of series that a base reads: their equations by hand, what is drawn, and the windows made of them."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxlv.config import build_config
from jaxlv.data import kinds
from jaxlv.errors import JaxlvError
from jaxlv.studies import base_windows
from jaxlv.studies.base_settings import BaseConfig
from jaxlv.studies.base_windows import Stream
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.tokens import IGNORED, Alphabet

ALPHABET = Alphabet(np.arange(13, dtype=np.int32), (13,), "test")
CONFIG = tomllib.loads((Path(__file__).parents[1] / "configs/base-field.toml").read_text())
ALL = {**kinds.TRAINED, **kinds.UNSEEN}


def config(**series: object) -> BaseConfig:
    """The config of the base for the field, with other shares of what is done to windows: nothing, unless given."""
    plain = {"noisy": 0.0, "counted": 0.0, "moved": 0.0, "gappy": 0.0, "marked": 0.0, "part": 0.0}
    return build_config(BaseConfig, {**CONFIG, "series": {**CONFIG["series"], **plain, **series}}, where="test")


# The equations


def one(value: float) -> np.ndarray:
    return np.array([[value]])


def changes(name: str, past: list[list[float]], t: float = 0.0, **p: float) -> list[float]:
    """The change of the logarithms by a kind's equations; `past` has the newest state first."""
    return ALL[name].change({key: one(v) for key, v in p.items()}, [np.array([x]) for x in past], t)[0].tolist()


def test_maps_by_hand():
    assert changes("ricker", [[0.5]], r=2.0) == pytest.approx([1.0])
    assert changes("hassell", [[1.0]], g=4.0, b=2.0) == pytest.approx([0.0])  # at rest at its capacity
    assert changes("hassell", [[2.0]], g=4.0, b=2.0) == pytest.approx([np.log(4 / 9)])
    assert changes("delayed-1", [[9.0], [0.5]], f=1.0) == pytest.approx([0.5])  # 2 cos(60 degrees) (1 - .5)
    assert changes("second-order", [[np.e], [np.e**2]], modulus=0.5, period=4.0) == pytest.approx([-1 - 0.25 * 2])
    assert changes("slatkin", [[1.0]], g=3.0, b=2.0) == pytest.approx([0.0])
    assert changes("blowflies", [[1.0]] * 5, d=0.3, c=2.0) == pytest.approx([0.0])
    x, y = changes("parasitoids", [[0.5, 1.0]], r=2.0, a=3.0, c=1.5)
    assert x == pytest.approx(1.0 - 3.0) and y == pytest.approx(np.log(1.5 * 0.5 * (1 - np.exp(-3))))
    larvae, pupae, adults = changes("beetles", [[1.0, 2.0, 4.0]], b=5.0, c=1.0, d=0.5, e=0.0, m=0.25, l=0.5)
    assert larvae == pytest.approx(np.log(20 * np.exp(-3))) and pupae == pytest.approx(np.log(0.25))
    assert adults == pytest.approx(np.log((2 + 3) / 4))


def test_flows_by_hand():
    p = {"r": 0.5, "a": 2.0, "h": 0.5, "e": 0.6, "m": 0.1, "season": 0.4, "period": 4.0}
    assert changes("rosenzweig-seasons", [[0.5, 0.2]], t=1.0, **p) == pytest.approx(
        [0.5 * 1.4 * 0.5 - 2 / 1.5 * 0.2, 0.6 * 2 / 1.5 * 0.5 - 0.1]
    )
    s, i = changes("epidemic", [[0.5, 0.1]], R=2.0, g=0.3, m=0.1, season=0.0, period=10.0)
    assert (s, i) == pytest.approx((0.1 / 0.5 - 0.8 * 0.1 - 0.1, 0.8 * 0.5 - 0.4))
    assert changes("cyclic", [[0.5, 0.25, 0.125]], a=0.5, b=2.0, speed=2.0) == pytest.approx([0.25, -0.625, 0.25])
    assert changes("four", [[0.1, 0.2, 0.3, 0.4]], less=0.0, speed=1.0)[0] == pytest.approx(
        1 - 0.1 - 1.09 * 0.2 - 1.52 * 0.3
    )


def test_flows_are_solved_to_the_fourth_order():
    """Two competitors that do not feel each other follow the logistic curve."""
    none = (1e-12, 1e-12)
    ranges = {"r": (0.7, 0.7), "s": (0.4, 0.4), "a": none, "b": none, "season": none, "period": (9.0, 9.0)}
    kind = replace(kinds.TRAINED["competition"], noise=0.0, ranges=ranges, start=(0.1, 0.1))
    found_TV = kind.draw(1, 10, np.random.default_rng(0))[0]
    time_T = np.arange(1, 11)
    for v, rate in enumerate((0.7, 0.4)):
        np.testing.assert_allclose(found_TV[:, v], 1 / (1 + 9 * np.exp(-rate * time_T)), rtol=1e-6)


# What is drawn


@pytest.mark.parametrize("name", ALL)
def test_series_of_every_kind_live_and_move(name: str):
    values_NTV = kinds.draw(name, 16, 60, 3, 1e-4)
    assert values_NTV.shape == (16, 60, ALL[name].variables) and values_NTV.dtype == np.float32
    assert (values_NTV > 0).all() and np.isfinite(values_NTV).all()
    late_NTV = values_NTV[:, 30:]
    assert (late_NTV.std(axis=1).max(axis=1) > 0).all()
    np.testing.assert_array_equal(values_NTV, kinds.draw(name, 16, 60, 3, 1e-4))
    assert (values_NTV != kinds.draw(name, 16, 60, 4, 1e-4)).any()


def test_no_kind_is_both_trained_on_and_kept_for_validation():
    assert not set(kinds.TRAINED) & set(kinds.UNSEEN)
    assert (
        {kind.variables for kind in kinds.TRAINED.values()}
        == {kind.variables for kind in kinds.UNSEEN.values()}
        == {1, 2, 3, 4}
    )
    assert not set(CONFIG["series"]["shares"]) & set(kinds.UNSEEN)


def test_an_unknown_kind_is_refused():
    with pytest.raises(JaxlvError, match="unknown kind of series"):
        kinds.draw("unicorns", 1, 10, 0, 1e-4)


# Windows


def texts(config: BaseConfig, name: str, values_NTV: np.ndarray, count: int = 40, length: int = 200) -> list[str]:
    """The texts of windows of one kind."""
    stream, random = Stream(config, {name: values_NTV}, ALPHABET, 0, {name: 1.0}), np.random.default_rng(1)
    found = [stream.one(random, length) for _ in range(count)]
    return [ALPHABET.decode(one.ids_ML[one.positions_ML >= 0]) for one in found]


def ramp(variables: int, steps: int = 400) -> np.ndarray:
    """A series that never repeats a value."""
    return np.exp(np.arange(steps * variables).reshape(1, steps, variables) / 400)


def read(text: str, variables: int) -> np.ndarray:
    return Codec().decode(text, np.ones(variables), gaps=True).values_TV


@pytest.mark.parametrize("variables", [1, 2, 3, 4])
def test_windows_have_as_many_variables_as_the_series(variables: int):
    for text in texts(config(), "ricker", ramp(variables)):
        assert {len(step.split(",")) for step in text.split(";")[:-1]} == {variables}


def test_a_part_of_the_variables_is_shown_in_any_order():
    growth_TV = np.exp(np.outer(np.arange(400), [0.001, 0.002, 0.003, 0.004]))[None]  # which tells the variables apart
    orders = []
    for text in texts(config(part=1.0), "web", growth_TV, count=60):
        values_TV = read(text, len(text.split(";")[0].split(",")))
        orders.append(np.argsort(values_TV[-1] / values_TV[0]).tolist())
    assert {len(order) for order in orders} == {1, 2, 3, 4}
    assert any(order != sorted(order) for order in orders)


def test_maps_are_read_step_by_step_and_flows_by_strides():
    long = config(strides=[4], from_start=1.0)
    of_map, of_flow = (read(texts(long, name, ramp(1), count=1)[0], 1).ravel() for name in ("ricker", "epidemic"))
    assert np.log(of_map[20] / of_map[0]) == pytest.approx(20 / 400, abs=0.01)
    assert np.log(of_flow[20] / of_flow[0]) == pytest.approx(80 / 400, abs=0.01)


def test_noise_lies_between_its_bounds():
    flat = np.full((1, 400, 1), 1.0)
    spread = []
    for text in texts(config(noisy=1.0), "ricker", flat, count=60, length=1000):
        spread.append(np.log(np.maximum(read(text, 1), 0.01)).std())
    assert min(spread) < 0.02 and 0.2 < max(spread) < 0.5


def test_counts_are_whole_and_follow_the_values():
    random = np.random.default_rng(0)
    counts = base_windows._counts(random, ramp(2)[0])
    np.testing.assert_array_equal(counts, np.round(counts))
    assert counts.min() >= 0 and counts[300:].mean() > counts[:100].mean()


def test_trends_and_jumps_leave_the_first_step():
    random, found = np.random.default_rng(0), []
    for _ in range(40):
        drift_TV = base_windows._drift(random, (50, 2))
        assert (drift_TV[0] == 0).all() and np.abs(drift_TV).max() <= 1.0
        found.append(len(np.unique(drift_TV[:, 0])))
    assert set(found) == {2, 50}


def test_gaps_are_marked_but_not_asked_for():
    stream, random = Stream(config(marked=1.0), {"web": ramp(2)}, ALPHABET, 0, {"web": 1.0}), np.random.default_rng(2)
    ends, gaps = [SYMBOLS.index(mark) for mark in ",;"], 0
    for _ in range(30):
        found = stream.one(random, 300)
        for now, then in itertools.pairwise(found.ids_ML[found.positions_ML >= 0]):
            gaps += now in ends and then in ends
        asked = (found.labels_ML != IGNORED) & np.isin(found.labels_ML, ends)
        assert not np.isin(found.ids_ML[asked], ends).any()
    assert gaps > 100


def test_a_variable_that_is_zero_in_its_context_is_still_written():
    values_NTV = np.concatenate([np.zeros((1, 200, 1)), np.ones((1, 200, 1))], axis=1) + 0 * ramp(1)
    for text in texts(config(from_start=1.0), "ricker", values_NTV, count=3, length=100):
        assert set(text) == {"0", ".", ";"}


def test_validation_has_its_share_of_unseen_kinds():
    small = config(unseen=0.5)
    held = {name: ramp(1) for name in small.series.shares}
    found = base_windows.validation_windows(replace(small, phases=(replace(small.phases[0], length=64),)), held, ALPHABET)
    assert {name: sum(one.number * one.ids_ML.shape[1] for one in batches) for name, batches in found.items()} == {
        "seen": 8 * 16, "unseen": 8 * 16,
    }  # fmt: skip


def test_windows_follow_the_seed_and_the_step():
    stream = Stream(config(noisy=0.5, marked=0.5), {"web": ramp(2)}, ALPHABET, 7, {"web": 1.0})
    again = Stream(config(noisy=0.5, marked=0.5), {"web": ramp(2)}, ALPHABET, 7, {"web": 1.0})
    np.testing.assert_array_equal(stream(3).ids_ML, again(3).ids_ML)
    assert (stream(3).ids_ML != stream(4).ids_ML).any()


def test_half_of_the_series_begin_on_the_attractor(monkeypatch: pytest.MonkeyPatch):
    burnt, own = [], kinds.Kind.draw
    monkeypatch.setattr(
        kinds.Kind, "draw", lambda self, n, T, random, burn=0: burnt.append(burn) or own(self, n, T, random, burn)
    )
    kinds.draw("ricker", 200, 40, 0, 1e-4)
    assert burnt[:2] == [0, 200]


def test_steps_before_the_attractor_are_left_out():
    kind = replace(kinds.TRAINED["ricker"], noise=0.0, ranges={"r": (1.0, 1.0)}, start=(0.2, 0.2))
    random = np.random.default_rng(0)
    fresh, settled = (kind.draw(1, 5, random, burn)[0, 0, 0] for burn in (0, 200))
    assert fresh == pytest.approx(0.2 * np.exp(0.8)) and settled == pytest.approx(1.0)


def test_a_window_begins_with_a_known_step():
    random = np.random.default_rng(0)
    for _ in range(100):
        given_TV = base_windows._with_gaps(random, ramp(2)[0, :20], 1.0)
        assert np.isfinite(given_TV[0]).all()
