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


def test_other_maps_by_hand():
    p = {"period": 4.0, "size": 0.5, "second": 0.4, "phase": 0.3, "back": 0.5}
    wanted = 0.5 * (1 + 0.4 * np.sin(np.pi + 0.3))  # a quarter of the period after its start
    assert changes("harmonic", [[np.exp(0.2)]], t=1.0, **p) == pytest.approx([0.5 * (wanted - 0.2)])
    assert changes("drifting", [[np.e]], drift=0.03, drift2=0.01, back=0.1) == pytest.approx([0.03 - 0.01 - 0.1])
    assert changes("slatkin", [[2.0]], g=3.0, b=2.0) == pytest.approx([np.log(3 / 9)])
    assert changes("blowflies", [[2.0], *[[9.0]] * 3, [0.5]], d=0.25, c=2.0) == pytest.approx(
        [np.log(0.75 + 0.25 * 0.25 * np.e)]
    )
    x, y = changes("negative-binomial", [[0.5, 2.0]], r=1.0, a=3.0, c=1.5, k=0.5)
    escape = (1 + 3 * 2 / 0.5) ** -0.5
    assert (x, y) == pytest.approx((0.5 + np.log(escape), np.log(1.5 * 0.5 * (1 - escape) / 2)))


def test_other_flows_by_hand():
    two, three, four = [[0.5, 0.25]], [[0.5, 0.25, 0.2]], [[0.5, 0.25, 0.2, 0.1]]
    both = {"r": 0.4, "s": 0.3, "e": 0.5, "m": 0.1}
    found = changes("deangelis", two, r=0.4, a=2.0, h=0.5, i=3.0, e=0.5, m=0.1)
    assert found == pytest.approx([0.4 * 0.5 - 2 / 2.25 * 0.25, 0.5 * 2 / 2.25 * 0.5 - 0.1])
    found = changes("competition", two, t=1.0, r=0.4, s=0.3, a=0.6, b=1.2, season=0.5, period=4.0)
    assert found == pytest.approx([0.4 * 1.5 * (1 - 0.5 - 0.15), 0.3 * (1 - 0.25 - 0.6)])  # a season of the first alone
    found = changes("chain", three, a=4.0, b=2.0, c=0.2, d=2.0, m=0.3, n=0.01, speed=2.0)
    assert found == pytest.approx(
        [2 * (1 - 0.5 - 2 * 0.25), 2 * (2 * 0.5 - 0.2 / 1.5 * 0.2 - 0.3), 2 * (0.2 / 1.5 * 0.25 - 0.01)]
    )
    found = changes("two-resources", three, o=0.2, a=2.0, b=3.0, h=0.5, **both)
    eaten = 1 + 0.5 * (2 * 0.5 + 3 * 0.25)
    assert found == pytest.approx(
        [0.4 * (1 - 0.5 - 0.05) - 2 * 0.2 / eaten, 0.3 * (1 - 0.25 - 0.1) - 3 * 0.2 / eaten, 0.5 * 1.75 / eaten - 0.1]
    )
    u, v = 1 + 0.5 * 2 * (0.5 + 0.2 * 0.25), 1 + 0.5 * 3 * (0.25 + 0.2 * 0.5)  # the second prefers the second
    assert changes("web", four, o=0.2, a=2.0, b=3.0, h=0.5, n=0.05, **both) == pytest.approx([
        0.4 * (1 - 0.5 - 0.05) - 2 * 0.2 / u - 0.2 * 3 * 0.1 / v, 0.3 * (1 - 0.25 - 0.1) - 3 * 0.1 / v - 0.2 * 2 * 0.2 / u,
        0.5 * 2 * 0.55 / u - 0.1, 0.5 * 3 * 0.35 / v - 0.05,
    ])  # fmt: skip
    one, two = 2 / (1 + 0.5 * 2 * 0.5), 2 / (1 + 0.5 * 2 * 0.2)  # prey of 0.5 and 0.2, predators of 0.25 and 0.1
    assert changes("patches", four, a=2.0, h=0.5, d=0.1, **both) == pytest.approx([
        0.4 * 0.5 - one * 0.25, 0.5 * one * 0.5 - 0.1 + 0.1 * (0.1 / 0.25 - 1),
        0.3 * 0.8 - two * 0.1, 0.5 * two * 0.2 - 0.1 + 0.1 * (0.25 / 0.1 - 1),
    ])  # fmt: skip
    felt = [0.5 + 1.09 * 0.25 + 1.52 * 0.2, 0.25 + 0.44 * 0.2 + 1.36 * 0.1, 2.33 * 0.5 + 0.2 + 0.47 * 0.1,
            1.21 * 0.5 + 0.51 * 0.25 + 0.35 * 0.2 + 0.1]  # fmt: skip
    rates, less = [1, 0.72, 1.53, 1.27], [0.5, 0.25, 0.2, 0.1]
    assert changes("four", four, less=0.25, speed=2.0) == pytest.approx(
        [2 * rate * (1 - 0.75 * all_of_it - 0.25 * own) for rate, all_of_it, own in zip(rates, felt, less, strict=True)]
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


def logs_of(kind: kinds.Kind, number: int, steps: int, burn: int = 0) -> np.ndarray:
    return np.log(kind.draw(number, steps, np.random.default_rng(0), burn))


def test_noise_falls_on_its_share_of_series_and_on_each_species_by_itself():
    still = kinds.Kind("still", 2, {}, lambda p, past, t: 0 * past[0], noise=0.4, noisy=0.3)
    moved_NTV = np.diff(logs_of(still, 4000, 4), axis=1)
    share = (np.abs(moved_NTV).max(axis=(1, 2)) > 1e-12).mean()
    assert share == pytest.approx(0.3, abs=0.03)
    one, two = moved_NTV[..., 0].ravel(), moved_NTV[..., 1].ravel()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1 and 0 < moved_NTV.std() < 0.4


def test_parameters_are_drawn_by_their_logarithm_and_some_change_once():
    growing = kinds.Kind("growing", 1, {"r": (0.001, 0.1)}, lambda p, past, t: p["r"] + 0 * past[0], noise=0.0)
    rates_NT = np.diff(logs_of(growing, 4000, 20)[..., 0], axis=1)
    assert np.median(rates_NT[:, 0]) == pytest.approx(0.01, rel=0.15)
    turns_N = (np.abs(np.diff(rates_NT, axis=1)) > 1e-9).sum(axis=1)
    assert set(turns_N) == {0, 1} and (turns_N == 1).mean() == pytest.approx(kinds.SWITCHED * 18 / 20, abs=0.02)
    flow = replace(growing, flows=True)
    assert np.abs(np.diff(logs_of(flow, 400, 20)[..., 0], axis=1, n=2)).max() < 1e-9


def test_a_lag_reaches_back_so_many_steps():
    """ln x(t + 1) = ln x(t - 2) + 1, from three equal states."""
    late = kinds.Kind("late", 1, {}, lambda p, past, t: np.log(past[2] / past[0]) + 1, lags=3, noise=0.0, start=(1.0, 1.0))
    assert logs_of(late, 1, 7)[0, :, 0] == pytest.approx([1, 1, 1, 2, 2, 2, 3])


def test_series_that_die_out_late_or_rest_are_left_out(monkeypatch: pytest.MonkeyPatch):
    wave_T = 2 + np.sin(np.arange(8.0))
    early_T, late_T = (np.where(np.arange(8) == at, 1e-6, wave_T) for at in (1, 6))
    drawn = [
        (wave_T, wave_T),
        (wave_T, late_T),
        (early_T, wave_T),
        (1 + 0 * wave_T, 1 + 0 * wave_T),
        (wave_T, 1 + 0 * wave_T),
    ]
    stub = type("Stub", (), {"draw": lambda *_, **__: np.stack([np.stack(pair, axis=1) for pair in drawn])})()
    monkeypatch.setattr(kinds, "TRAINED", {"stub": stub})
    found = kinds.draw("stub", 3, 8, 0, 1e-2)
    np.testing.assert_allclose(found, np.stack([np.stack(drawn[i], axis=1) for i in (0, 2, 4)]), rtol=1e-6)


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
    means = [base_windows._counts(random, np.ones((400, 1))).mean() for _ in range(100)]
    assert 2 < min(means) < 10 and 1000 < max(means) < 1.3 * base_windows.LEVELS[1]


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
    small = config(unseen=0.25)
    held = {name: ramp(1) for name in small.series.shares}
    found = base_windows.validation_windows(replace(small, phases=(replace(small.phases[0], length=64),)), held, ALPHABET)
    assert {name: sum(one.number * one.ids_ML.shape[1] for one in batches) for name, batches in found.items()} == {
        "seen": 12 * 16, "unseen": 4 * 16,
    }  # fmt: skip


def test_validation_series_are_others_than_those_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(base_windows, "simulated", lambda settings, seed, folder, note: asked.append((seed, folder)))
    base_windows.make_series(config(), tmp_path)
    base_windows.held_out(config(), tmp_path)
    (seed, folder), (other, elsewhere) = asked
    assert seed == config().seed != other and folder != elsewhere


def test_the_scale_of_a_window_is_that_of_its_context():
    """What comes after the context changes nothing before it."""
    settings = config(from_start=1.0)
    settings = replace(settings, text=replace(settings.text, context_steps=(6, 6), decimals=(2,)))
    grown = ramp(1)
    grown[:, 6:] *= 3
    first, second = (texts(settings, "ricker", given, count=1)[0].split(";") for given in (ramp(1), grown))
    assert first[:6] == second[:6] and first[6:] != second[6:]


def test_a_phase_ends_before_its_last_step():
    settings = config()
    phases = tuple(replace(settings.phases[0], until=until, length=64 * until) for until in (2, 3))
    stream = Stream(replace(settings, phases=phases, steps=3), {"ricker": ramp(1)}, ALPHABET, 0, {"ricker": 1.0})
    assert [stream(step).ids_ML.shape[-1] for step in range(3)] == [128, 128, 192]


def test_steps_are_left_out_at_most_in_their_share():
    kept = []
    for text in texts(config(gappy=1.0, gaps=0.2, from_start=1.0), "ricker", ramp(1), count=40, length=800):
        values_T = read(text, 1)[:, 0]
        kept.append(len(values_T) / (1 + 400 * np.log(values_T[-1] / values_T[0])))  # steps read by steps gone
    assert 0.7 < min(kept) < 0.95 and max(kept) < 1.05


def test_windows_are_of_each_kind_in_its_share():
    known = {"ricker": ramp(1), "web": ramp(4)}
    stream, random = Stream(config(), known, ALPHABET, 0, {"ricker": 0.75, "web": 0.25}), np.random.default_rng(0)
    found = [ALPHABET.decode(one.ids_ML[one.positions_ML >= 0]) for one in (stream.one(random, 100) for _ in range(400))]
    assert np.mean(["," in text for text in found]) == pytest.approx(0.25, abs=0.07)


def test_windows_begin_at_the_start_in_their_share():
    """A series whose first steps are small is read from there, or from anywhere."""
    steps = ramp(1)
    steps[:, :4] = 0.01
    found = [texts(config(from_start=share), "ricker", steps) for share in (1.0, 0.0)]
    low = [np.mean([read(text, 1)[0, 0] < 0.1 * read(text, 1).max() for text in part]) for part in found]
    assert low[0] == 1 and low[1] < 0.2


def test_windows_follow_the_seed_and_the_step():
    stream = Stream(config(noisy=0.5, marked=0.5), {"web": ramp(2)}, ALPHABET, 7, {"web": 1.0})
    again = Stream(config(noisy=0.5, marked=0.5), {"web": ramp(2)}, ALPHABET, 7, {"web": 1.0})
    np.testing.assert_array_equal(stream(3).ids_ML, again(3).ids_ML)
    assert (stream(3).ids_ML != stream(4).ids_ML).any()
    other = Stream(config(noisy=0.5, marked=0.5), {"web": ramp(2)}, ALPHABET, 8, {"web": 1.0})
    assert (stream(3).ids_ML != other(3).ids_ML).any()


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
