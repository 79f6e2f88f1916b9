"""Forecasts: what the table says, what happens to broken samples, and that the truth is never looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from known import known

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger as ledgers
from jaxlv.flops.ledger import BudgetExceeded, Event, Ledger, Meter, Terms
from jaxlv.forecasting import sampler as forecasting
from jaxlv.forecasting.forecast import QUANTILES, Forecast, forward_filled, read_csv
from jaxlv.forecasting.metrics import quantiles
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler, _Row
from jaxlv.model.weights import load_pretrained
from jaxlv.steps.prompts import Prompts
from jaxlv.text.codec import Codec
from jaxlv.text.grammar import longest_step, most_turns, number_grammar
from jaxlv.text.tokens import load_alphabet

CONTEXT, HORIZON, SAMPLES = 8, 3, 3
REQUEST = Request(CONTEXT, HORIZON, SAMPLES, batch=3)


@pytest.fixture(scope="module")
def forecaster(tiny_base) -> Sampler:
    model, params = load_pretrained(tiny_base)
    return Sampler(model, {"params": params}, load_alphabet(tiny_base, 32), Codec(), SamplingConfig())


@pytest.fixture(scope="module")
def series(waves):
    return waves(5, 16).select([4, 0, 2])


def run(forecaster: Sampler, series, codec: dict[str, Any] | None = None, **options: Any) -> Forecast:
    changed = replace(forecaster, codec=Codec(**codec or {}))
    more = {name: options.pop(name) for name in ("samples", "shown") if name in options}
    return changed(series, replace(REQUEST, **more), **options)


@pytest.fixture(scope="module")
def forecast(forecaster, series) -> Forecast:
    return run(forecaster, series)


@pytest.fixture(scope="module")
def broken() -> Forecast:
    """Two series, two samples, three steps: sample 1 of series 8 stops after one step, sample 0 of series 3 before any."""
    samples_NSHV = np.arange(24.0).reshape(2, 2, 3, 2)
    samples_NSHV[0, 1, 1:] = samples_NSHV[1, 0] = np.nan
    values_NTV = np.zeros((2, 50, 2))
    values_NTV[:, -1] = [[100.0, 200.0], [300.0, 400.0]]
    return Forecast.of(from_arrays(values_NTV, 2.0 * np.arange(50), ids=[8, 3]), 50, samples_NSHV, {"complete": 2})


GRAMMAR = number_grammar(2, 2, 2)


@pytest.fixture
def drawn(forecaster, tmp_path):
    """A function that draws under a budget in FLOPs; returns what it drew, and the ledger."""

    def draw(budget: int = 10**12, grammar=GRAMMAR):
        prompts = [forecaster.alphabet.encode("1.00,2.00;"), forecaster.alphabet.encode("3.00,4.00;5.00,6.00;")]
        with Ledger(tmp_path / f"{budget}.jsonl", Terms(budget, "exact", forecaster.model.config)) as ledger:
            metered = replace(forecaster, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1)))
            return metered.generated(Prompts(prompts, [0, 1]), 2, 40, steps=2, grammar=grammar), ledger

    return draw


def test_what_is_generated_is_reserved_at_its_longest_and_paid_as_far_as_it_ran(forecaster, series, drawn, tmp_path):
    found, ledger = drawn()
    (first,) = ledger.entries
    turns = most_turns(GRAMMAR, 40)
    assert (first.reserved.batch, first.reserved.samples, first.reserved.new_tokens, first.reserved.ahead) == (
        2,
        2,
        turns,
        1,
    )
    assert first.reserved.slots == first.reserved.length + 64 >= 84 and 2 * turns <= 64
    assert first.event == replace(first.reserved, new_tokens=found.iterations)
    assert found.iterations < found.lengths_SN.max() < 40
    assert not ledgers.verify(ledger.path)
    with Ledger(tmp_path / "ledger.jsonl", Terms(10**12, "exact", forecaster.model.config)) as ledger:
        run(replace(forecaster, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1))), series)
    (made,) = ledger.entries
    assert made.reserved.new_tokens == most_turns(GRAMMAR, HORIZON * longest_step(2, 2, 2)) >= made.event.new_tokens
    assert made.reserved.slots == made.reserved.length + 64 >= made.reserved.length + 2 * made.reserved.new_tokens


def test_what_a_budget_does_not_hold_with_guesses_is_drawn_without_them(forecaster, drawn):
    """Guesses take more FLOPs, and fewer turns; the tokens are the same, and those of a forecaster without a budget."""
    rich, plenty = drawn()
    (entry,) = plenty.entries
    poor, less = drawn(entry.asked - 1)
    (plain,) = less.entries
    assert (entry.event.ahead, plain.event.ahead) == (1, 0) and entry.flops > plain.flops
    assert poor.iterations == poor.lengths_SN.max() > rich.iterations
    np.testing.assert_array_equal(poor.ids_SNC, rich.ids_SNC)
    with pytest.raises(BudgetExceeded, match="does not hold 1 generation"):
        drawn(plain.asked - 1)


# ------------------------------------------------------------------------------------------------ on the disk


def test_a_forecast_is_read_as_it_was_written_whatever_its_variables_are_called(broken, tmp_path):
    for names in (("prey", "predator"), ("=SUM(A1)", "'=SUM(A1)"), ("-x", "+1"), ("a,b", 'q"'), ("שם", "@")):
        replace(broken, variables=names).write_csv(tmp_path / "forecast.csv")
        cells = pd.read_csv(tmp_path / "forecast.csv")["variable"]
        assert not cells.str.match(r"[=+\-@\t\r]").any()
        back = read_csv(tmp_path / "forecast.csv", from_arrays(np.ones((9, 60, 2))))
        assert back.variables == names and back.ids_N.tolist() == [3, 8]
        np.testing.assert_array_equal(back.samples_NSHV, broken.samples_NSHV[::-1])


def test_a_table_whose_grid_would_fill_the_memory_is_refused(broken, tmp_path):
    """Each row with values of its own in every column: the grid of all is their product."""
    head, rows = "series,step,time,variable,statistic,value\n", [f"{i},{i},{i},v,sample_{i},1\n" for i in range(3000)]
    path, series = tmp_path / "a.csv", from_arrays(np.ones((3000, 60, 2)))
    for content, said in ((head + "".join(rows), "steps are missing"), ("a," * 9999 + "\n", "it has other columns"),
                          (head + "0,1,1,\x1b,sample_0,1\n", "do not print")):  # fmt: skip
        path.write_text(content)
        with pytest.raises(JaxlvError, match=said) as caught:
            read_csv(path, series)
        assert str(caught.value).isprintable()
    with path.open("w") as file:
        file.truncate(1 << 40)
    with pytest.raises(JaxlvError, match="too large"):
        read_csv(path, series)


# ----------------------------------------------------------------------------------------------- broken samples


def test_a_broken_sample_stays_at_its_last_complete_step_or_the_contexts(broken):
    filled = broken.filled()
    np.testing.assert_array_equal(filled[0, 1], [broken.samples_NSHV[0, 1, 0]] * 3)
    np.testing.assert_array_equal(filled[1, 0], [[300, 400]] * 3)
    valid = np.isfinite(broken.samples_NSHV)
    np.testing.assert_array_equal(filled[valid], broken.samples_NSHV[valid])


def test_filling_takes_the_last_finite_value_before():
    values = np.array([1, np.nan, np.nan, 4, np.nan, 6]).reshape(1, 1, 6, 1)
    assert forward_filled(values).reshape(-1).tolist() == [1, 1, 1, 4, 4, 6]


def test_a_sample_is_valid_when_every_step_is_there(broken, forecast):
    assert broken.valid_share == 0.5
    assert forecast.valid_share == 1.0
    assert forecast.stops == {"complete": 3 * SAMPLES}


def test_the_median_counts_broken_samples(broken):
    np.testing.assert_array_equal(broken.median()[1], (np.array([[300, 400]] * 3) + broken.samples_NSHV[1, 1]) / 2)


@pytest.mark.parametrize("count", [3, 4])
def test_the_point_forecast_is_the_median_of_the_samples_with_those_that_broke_off(count):
    """For 1, 2 and 12 it is 2, with 20 in addition it is between 2 and 12; at the second step the third stays at 12."""
    samples = np.array([1.0, 12, 2, 20][:count]).reshape(1, count, 1, 1) * np.ones((1, count, 2, 1))
    samples[0, 1, 1] = np.nan
    series = from_arrays(np.full((1, 5, 1), 9.0), variables=["prey"], ids=[4])
    forecast = Forecast.of(series, 5, samples, {})
    assert forecast.median().ravel().tolist() == ([2, 2] if count == 3 else [7, 7])
    frame = forecast.to_frame().set_index(["statistic", "step"]).value
    assert frame["median", 6] == (2 if count == 3 else 7) and frame["mean", 6] == (5 if count == 3 else 8.75)


def test_a_forecast_is_the_same_whatever_stands_beside_it(forecaster, waves):
    """This holds even if another series has more digits before the point, and so another grammar."""
    series = waves(5, 16)
    series.values_NTV[1] *= 5000
    assert (series.values_NTV[1, :CONTEXT] / Codec("liu").fit(series.values_NTV[1, :CONTEXT])).max() > 100
    together = run(forecaster, series, {"scale": "liu"}, samples=2)
    for row in (0, 1, 4):
        alone = run(forecaster, series.select([row]), {"scale": "liu"}, samples=2)
        np.testing.assert_array_equal(alone.samples_NSHV[0], together.samples_NSHV[row])
        assert alone.ids_N[0] == together.ids_N[row]


# ------------------------------------------------------------------------------------------------- the table


def test_the_table_has_a_row_for_every_series_step_variable_and_statistic(broken):
    frame = broken.to_frame()
    assert list(frame) == ["series", "step", "time", "variable", "statistic", "value"]
    names = ["median", "mean", "q05", "q10", "q25", "q75", "q90", "q95", "sample_0", "sample_1"]
    assert len(frame) == 2 * 3 * 2 * len(names) == len(frame.drop_duplicates(["series", "step", "variable", "statistic"]))
    assert frame.series.unique().tolist() == [3, 8]
    assert set(frame.statistic) == set(names)
    assert set(frame.variable) == {"prey", "predator"}
    assert frame.groupby("step").time.unique().apply(list).to_dict() == {50: [100.0], 51: [102.0], 52: [104.0]}


def test_the_table_holds_the_values_in_their_places(broken):
    frame = broken.to_frame().set_index(["statistic", "series", "step", "variable"]).value
    filled = broken.filled()
    expected = {"median": broken.median(), "mean": filled.mean(axis=1)}
    expected |= {f"q{round(100 * p):02d}": q for p, q in zip(QUANTILES, quantiles(filled, QUANTILES), strict=True)}
    expected |= {f"sample_{i}": broken.samples_NSHV[:, i] for i in range(2)}
    for statistic, values_NHV in expected.items():
        for (n, h, v), value in np.ndenumerate(values_NHV):
            place = (statistic, broken.ids_N[n], 50 + h, broken.variables[v])
            assert frame.loc[place] == pytest.approx(value, nan_ok=True)


def test_the_csv_reads_back_as_the_table(forecast, broken, tmp_path):
    for one in (forecast, broken):
        one.write_csv(tmp_path / "forecast.csv")
        text = (tmp_path / "forecast.csv").read_text().splitlines()
        assert text[0] == "series,step,time,variable,statistic,value"
        assert "nan" not in "".join(text).lower()
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "forecast.csv"), one.to_frame(), rtol=1e-5, check_dtype=False)


def test_a_forecast_begins_at_the_step_and_time_after_its_context(forecast, series):
    assert forecast.start == CONTEXT
    np.testing.assert_allclose(forecast.time_H, series.time_T[CONTEXT : CONTEXT + HORIZON])
    np.testing.assert_array_equal(forecast.ids_N, [4, 0, 2])
    np.testing.assert_array_equal(forecast.last_NV, series.values_NTV[:, CONTEXT - 1])
    assert forecast.samples_NSHV.shape == (3, SAMPLES, HORIZON, 2)


def test_a_forecast_may_go_beyond_the_end_of_the_series(forecaster, series, forecast):
    short = replace(series, values_NTV=series.values_NTV[:, :CONTEXT], time_T=series.time_T[:CONTEXT])
    beyond = run(forecaster, short)
    np.testing.assert_array_equal(beyond.samples_NSHV, forecast.samples_NSHV)
    np.testing.assert_allclose(beyond.time_H, forecast.time_H)


# ------------------------------------------------------------------------------------ what a forecast depends on


def test_a_series_forecast_is_the_same_alone_and_among_others(forecaster, series, forecast):
    for place, series_id in enumerate(series.ids_N):
        alone = run(forecaster, series.select([series_id]))
        np.testing.assert_array_equal(alone.samples_NSHV[0], forecast.samples_NSHV[place])


def test_batches_change_nothing_and_are_reported(forecaster, waves, forecast):
    heard = []
    many = run(forecaster, waves(5, 16).select([1, 4, 3, 0, 2]), on_batch=heard.append)
    assert heard == [3, 5]
    np.testing.assert_array_equal(many.samples_NSHV[[1, 3, 4]], forecast.samples_NSHV)


@pytest.mark.parametrize("factor", [0.25, 8.0, 2.0**40])
def test_forecasts_grow_with_the_series_under_the_rule_context(factor, forecaster, series, forecast):
    larger = run(forecaster, replace(series, values_NTV=factor * series.values_NTV))
    np.testing.assert_array_equal(larger.samples_NSHV, factor * forecast.samples_NSHV)


@pytest.mark.parametrize(("rule", "honest"), [("context", True), ("liu", True), ("xu", False), ("rai", False)])
def test_only_the_reports_rules_look_at_the_truth(rule, honest, forecaster, series):
    """Though it is of another size, with more digits before the point."""
    after = np.arange(series.values_NTV.shape[1])[:, None] >= CONTEXT
    other = replace(series, values_NTV=np.where(after, 900 * series.values_NTV + 1, series.values_NTV))
    codec = {"scale": rule}
    pair = [run(forecaster, one, codec).samples_NSHV for one in (series, other)]
    assert np.array_equal(*pair) == honest
    assert bool(Codec(**codec).rule.peeks_at) != honest


def test_samples_are_in_raw_units(forecaster, series):
    """Under the constant 0.5 of liu, half of each number written: multiples of 0.005."""
    steps = run(forecaster, series, {"scale": "liu"}).samples_NSHV / 0.005
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("context", [0, 17])
def test_a_context_that_is_not_in_the_series_is_refused(context, forecaster, series):
    with pytest.raises(JaxlvError, match=rf"context.*found {context}$"):
        forecaster(series, replace(REQUEST, context=context))


def test_a_series_without_a_scale_is_named(forecaster, series):
    zero = np.where(series.ids_N[:, None, None] == 0, 0.0, series.values_NTV)
    with pytest.raises(JaxlvError, match="series 0: variable 0 gives no scale"):
        run(forecaster, replace(series, values_NTV=zero))


# ------------------------------------------------------------------------------------------- a context cut anywhere


@pytest.mark.parametrize("shown", [1, 2, 5, 8, 99])
def test_a_context_may_end_within_a_step_which_the_samples_complete(shown, forecaster, series):
    cut = run(forecaster, series, shown=shown)
    assert cut.start == CONTEXT + 1 and cut.valid_share == 1
    np.testing.assert_allclose(cut.time_H, series.time_T[CONTEXT + 1 : CONTEXT + 1 + HORIZON])
    other = series.values_NTV.copy()
    other[:, CONTEXT + 1 :] *= 3  # what lies behind the step is not looked at
    np.testing.assert_array_equal(
        run(forecaster, replace(series, values_NTV=other), shown=shown).samples_NSHV, cut.samples_NSHV
    )


def test_of_the_cut_step_only_what_is_shown_is_read(forecaster, series):
    first = series.select(series.ids_N[:1])
    alpha_V = Codec().fit(first.values_NTV[0, :CONTEXT])

    def given(step_V, shown):
        values = first.values_NTV.copy()
        values[0, CONTEXT] = np.array(step_V) * alpha_V
        return run(forecaster, replace(first, values_NTV=values), shown=shown).samples_NSHV

    np.testing.assert_array_equal(given([1.23, 4.56], 3), given([1.29, 7.77], 3))  # both begin "1.2"
    np.testing.assert_array_equal(given([1.23, 4.56], 6), given([1.23, 4.99], 6))  # "1.23,4"
    values_TV = np.array([[1.0, 2.0], [9.23, 4.56]])
    row = _Row("", values_TV, np.ones(2), 1, values_TV)
    texts = [forecaster._text(row, Request(1, 1, 1, shown=shown)) for shown in (0, 1, 6, 99)]
    assert texts == [("1.00,2.00;", part) for part in ("", "9", "9.23,4", "9.23,4.56")]


# ------------------------------------------------------------------------------------- several head-rooms


def test_samples_are_shared_out_among_the_head_rooms(forecaster, series):
    """With 5 samples and 2 head-rooms, the even samples are whole units of the first scale, the odd ones of the second."""
    rooms = (0.2, 0.6)
    several = run(forecaster, series, {"headrooms": rooms}, samples=5)
    for sample in range(5):
        alone = replace(forecaster, codec=Codec(headroom=rooms[sample % 2]))
        units_NHV = several.samples_NSHV[:, sample] / (alone.scales(series, CONTEXT)[:, None] * 0.01)
        np.testing.assert_allclose(units_NHV, np.round(units_NHV), atol=1e-6)
    assert len({several.samples_NSHV[0, s].tobytes() for s in range(5)}) == 5


def test_one_head_room_is_the_plain_forecast(forecaster, series, forecast):
    same = run(forecaster, series, {"headrooms": (0.5,)})
    np.testing.assert_array_equal(same.samples_NSHV, forecast.samples_NSHV)


def test_a_series_under_several_head_rooms_is_the_same_alone(forecaster, series):
    codec = {"headrooms": (0.3, 0.5, 0.7)}
    whole = run(forecaster, series, codec)
    alone = run(forecaster, series.select(series.ids_N[1:2]), codec)
    np.testing.assert_array_equal(alone.samples_NSHV[0], whole.samples_NSHV[1])


def test_other_rules_have_no_head_rooms(forecaster, series):
    with_rooms, without = (run(forecaster, series, {"scale": "liu", **more}) for more in ({"headrooms": (0.2, 0.6)}, {}))
    np.testing.assert_array_equal(with_rooms.samples_NSHV, without.samples_NSHV)


# ---------------------------------------------------------------------------------------- beyond one window


def test_a_rolling_forecast_is_the_plain_one_as_far_as_it_reaches(forecaster, series, forecast):
    rolled = forecaster.rolling(series, replace(REQUEST, horizon=8), reach=HORIZON)
    assert rolled.samples_NSHV.shape == (3, SAMPLES, 8, 2)
    np.testing.assert_array_equal(rolled.samples_NSHV[:, :, :HORIZON], forecast.samples_NSHV)
    np.testing.assert_allclose(rolled.time_H, series.time_T[CONTEXT : CONTEXT + 8])
    assert rolled.start == CONTEXT and np.isfinite(rolled.samples_NSHV).all()


def parts(given: list[np.ndarray]) -> Any:
    """Draws these samples, a part for each call."""
    calls = iter(given)
    return lambda *_: next(calls)


@pytest.mark.parametrize("codec", [{}, {"scale": "liu"}, {"scale": "xu"}, {"headrooms": (0.3, 0.6)}], ids=str)
def test_each_sample_goes_on_from_its_own_last_steps(codec, series):
    """It does in parts of three, three and two steps; what was written as 0.00 is continued as half of the last decimal.

    Samples go on as series of their own, under the scale of their last steps by the rule `context`, else of the series.
    """
    random, S, step = np.random.default_rng(0), 2, series.time_T[1] - series.time_T[0]
    first, second, third = (random.uniform(0.5, 2, shape) for shape in ((3, S, 3, 2), (3 * S, 1, 3, 2), (3 * S, 1, 2, 2)))
    first[1, 1, 2] = 0.0
    asked = replace(known(parts([first, second, third])), codec=Codec(**codec))
    heard = []
    one = asked.rolling(series, Request(CONTEXT, 8, S, seed=5, batch=3), 3, on_batch=heard.append)
    expected = np.concatenate([first, *(part.reshape(3, S, -1, 2) for part in (second, third))], axis=2)
    np.testing.assert_array_equal(one.samples_NSHV, expected)
    np.testing.assert_allclose(one.time_H, series.time_T[CONTEXT - 1] + step * np.arange(1, 9))
    assert one.start == CONTEXT and heard == [1, 2, 3] and one.stops == {"stop": 2 + 1 + 1}
    variants = asked.codec.variants
    scales = [replace(asked, codec=one).scales(series, CONTEXT) for one in variants]
    for part, call in enumerate(asked.asked):
        samples, batch = (S, 3) if part == 0 else (1, 3 * S)
        assert call.request == Request(CONTEXT, (3, 3, 2)[part], samples, 5 + part, batch)
        if part == 0:
            assert call.series is series
            continue
        assert call.series.ids_N.tolist() == [8, 9, 0, 1, 4, 5]  # of series 4, 0 and 2
        for row, (n, s) in enumerate((n, s) for n in range(3) for s in range(S)):
            own = scales[s % len(variants)][n]
            past = np.concatenate([series.values_NTV[n, :CONTEXT], np.maximum(expected[n, s, : 3 * part], 0.005 * own)])
            np.testing.assert_allclose(call.series.values_NTV[row], past[-CONTEXT:])
            if asked.codec.scale == "context":
                own = variants[s % len(variants)].fit(past[-CONTEXT:])
            np.testing.assert_allclose(call.scales_NV[row], own)


def test_a_sample_that_broke_off_does_not_go_on(series):
    """Whether it broke off at once or within a part: only those that completed it are asked to go on."""
    first = np.random.default_rng(0).uniform(0.5, 2, (3, 2, 3, 2))
    first[0, 0, 2:], first[1, 1] = np.nan, np.nan
    asked = known(parts([first, np.ones((4, 1, 3, 2))]))
    rolled = asked.rolling(series, Request(CONTEXT, 6, 2), 3)
    assert asked.asked[1].series.ids_N.tolist() == [9, 0, 4, 5]
    assert np.isnan(rolled.samples_NSHV[[0, 1], [0, 1], 3:]).all() and np.isfinite(rolled.samples_NSHV[2]).all()
    assert (rolled.samples_NSHV[0, 1, 3:] == 1).all() and (rolled.samples_NSHV[1, 0, 3:] == 1).all()


def test_when_all_samples_broke_off_nothing_more_is_asked(series):
    asked = known(parts([np.full((3, 2, 3, 2), np.nan)]))
    assert np.isnan(asked.rolling(series, Request(CONTEXT, 9, 2), 3).samples_NSHV).all() and len(asked.asked) == 1


def test_a_forecast_is_paid_as_far_as_it_ran(forecaster, series, tmp_path, monkeypatch):
    """This is so if all samples end before the longest numbers would."""
    drawn = forecasting.generate
    monkeypatch.setattr(forecasting, "generate", lambda *given, **options: drawn(*given, **options)._replace(iterations=7))
    with Ledger(tmp_path / "ledger.jsonl", Terms(10**12, "exact", forecaster.model.config)) as ledger:
        run(replace(forecaster, meter=Meter(ledger, "evaluation", Event("train_step", 1, 1))), series)
        (entry,) = ledger.entries
    assert entry.committed and entry.event.new_tokens == 7


def test_a_reach_of_no_step_and_a_rolling_forecast_from_within_a_step_are_refused(forecaster, series):
    with pytest.raises(JaxlvError, match="reach: must be a whole number from 1 "):
        forecaster.rolling(series, REQUEST, 0)
    with pytest.raises(JaxlvError, match="shown: a forecast that continues itself needs whole steps"):
        forecaster.rolling(series, replace(REQUEST, shown=2), 2)


@pytest.mark.parametrize(
    ("field", "name"), [("context", "context"), ("horizon", "horizon"), ("samples", "samples"), ("batch", "batch_series")]
)
def test_a_request_holds_only_what_may_be_asked(field, name):
    least = 0 if field == "batch" else 1  # 0: as many as fit
    for value in (least - 1, -1, 1.5, "3", None):
        with pytest.raises(JaxlvError, match=f"{name}: must be a whole number from {least} "):
            replace(REQUEST, **{field: value})
    found = replace(REQUEST, **{field: np.int64(4)})
    assert type(getattr(found, field)) is int and found == replace(REQUEST, **{field: 4}) != REQUEST


def test_a_request_of_a_config_has_its_numbers_and_counts_the_step_that_is_finished():
    config = EvaluateConfig(context=7, horizon=4, samples=3, seed=5, batch_series=2)
    assert Request.of(config) == Request(7, 4, 3, 5, 2) and Request.of(config, samples=9, shown=1).samples == 9
    for shown, skipped in ((0, 0), (1, 1), (9, 1)):
        request = Request(7, 4, 3, shown=shown)
        assert (request.skipped, request.start, request.drawn) == (skipped, 7 + skipped, 4 + skipped)
    for wrong in ({"shown": -1}, {"seed": -1}, {"seed": 2**32}):
        with pytest.raises(JaxlvError, match=f"{next(iter(wrong))}: must be"):
            Request(7, 4, 3, **wrong)
