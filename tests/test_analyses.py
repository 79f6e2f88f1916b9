"""Analyses of forecasts with known answers; the program from a run to its files; a page from any part of the dictionary."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxlv.analysis import analyses, anatomy
from jaxlv.analysis.analyses import Drawn
from jaxlv.config import SamplingConfig, load_config, to_toml
from jaxlv.data import series
from jaxlv.data.series import from_arrays
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Ledger
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.forecasting.forecast import Forecast
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import base_of
from jaxlv.report import analyses as report
from jaxlv.report import page
from jaxlv.report.figures import svg
from jaxlv.results.analyses import Analyses
from jaxlv.results.record import Record
from jaxlv.runs import billing, run
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import load_alphabet, token_texts
from jaxlv.tools import cli
from tests.test_run import reseal

N, S, C, H = 5, 4, 10, 12
PARTS = {
    "training", "tokens", "round_trip", "growth", "errors", "series", "extremes", "ceiling", "head", "spectra", "padding",
}  # fmt: skip


def held(result: Record) -> dict[str, Any]:
    """What JSON holds of a result, from which the same is read again."""
    tree = json.loads(json.dumps(result.tree(), allow_nan=False))
    assert type(result).read(tree, "x") == result
    return tree


def pictures(sections: Sequence[page.Section]) -> list[page.Drawing]:
    blocks = (block for section in sections for block in section.blocks if isinstance(block, page.Figure))
    return [one for block in blocks for one in block.drawings]


@pytest.fixture(scope="module")
def truth() -> series.SeriesSet:
    """Two species; series 3's prey rises to twice its context's maximum, all others stay below."""
    values_NTV = np.random.default_rng(0).uniform(0.5, 1.0, (N, C + H, 2))
    values_NTV[:, 0] = 1.0
    values_NTV[3, C + 4, 0] = 2.0
    return from_arrays(values_NTV, ids=[10, 11, 12, 13, 14])


def forecast_of(truth: series.SeriesSet, samples_NSHV: np.ndarray) -> Forecast:
    return Forecast.of(truth, C, samples_NSHV, {})


@pytest.fixture(scope="module")
def drawn(truth) -> Drawn:
    """A tuned model that is too high by 0.01 (n + 1)(h + 1) in prey and half as much in predators of series n, an untuned
    one that is too low by twice as much, and a baseline that is right.
    """
    truth_NHV = truth.values_NTV[:, C:]
    size_NHV = 0.01 * np.arange(1, N + 1)[:, None, None] * np.arange(1, H + 1)[None, :, None] * np.array([1.0, 0.5])
    spread_S = np.linspace(-1e-3, 1e-3, S)[:, None, None]
    forecasts = {
        name: forecast_of(truth, (truth_NHV + factor * size_NHV)[:, None] + spread_S)
        for name, factor in (("tuned", 1.0), ("untuned", -2.0))
    }
    points = {name: forecast.median() for name, forecast in forecasts.items()} | {"exact": truth_NHV}
    return Drawn(truth, C, truth_NHV, forecasts, points)


# ------------------------------------------------------------------------------------------------ forecasts


def test_growth_is_that_of_the_errors(drawn):
    found = held(analyses.error_growth(drawn))
    tuned = found["methods"]["tuned"]
    steps = np.arange(1, H + 1)
    assert found["step"] == steps.tolist() and found["series"] == N
    np.testing.assert_allclose(tuned["mean"], 0.01 * 3 * 0.75 * steps)  # mean of 1..5, mean of 1 and 0.5
    np.testing.assert_allclose(tuned["median"], 0.01 * 3 * 0.75 * steps)
    np.testing.assert_allclose(tuned["p10"], 0.01 * 1.4 * 0.75 * steps)
    np.testing.assert_allclose(tuned["p90"], 0.01 * 4.6 * 0.75 * steps)
    np.testing.assert_allclose(tuned["mean_by_variable"]["predator"], 0.01 * 3 * 0.5 * steps)
    assert tuned["growth"] == pytest.approx(steps[-5:].mean() / steps[:5].mean())
    assert found["methods"]["untuned"]["first"] == pytest.approx(2 * tuned["first"])
    assert found["methods"]["exact"]["first"] == 0 and found["methods"]["exact"]["growth"] is None


def test_the_distribution_has_signs_and_sizes(drawn):
    found = held(analyses.error_distribution(drawn))
    tuned, untuned = (found["methods"][name] for name in ("tuned", "untuned"))
    assert tuned["by_variable"]["prey"]["share_above"] == 1 and untuned["by_variable"]["prey"]["share_above"] == 0
    assert tuned["by_variable"]["prey"]["mean"] == pytest.approx(0.01 * 3 * 6.5)
    assert untuned["by_variable"]["predator"]["mean"] == pytest.approx(-0.01 * 3 * 6.5)
    assert tuned["absolute_quantiles"][-1] == pytest.approx(0.01 * N * H) and len(tuned["absolute_quantiles"]) == 101
    assert list(found["histograms"]) == ["tuned", "untuned"]
    edges, shares = np.array(found["edges"]), np.array(found["histograms"]["tuned"]["prey"])
    assert shares[edges[1:] <= 0].sum() == 0 and 0.9 < shares.sum() <= 1


def test_series_stand_in_order_of_their_larger_error(drawn):
    found = held(analyses.series_errors(drawn))
    tuned = found["methods"]["tuned"]
    assert tuned["series"] == [10, 11, 12, 13, 14]
    expected = (0.01**2 * np.arange(1, N + 1) ** 2) * np.mean(np.arange(1, H + 1) ** 2)
    np.testing.assert_allclose(tuned["mse"]["prey"], expected)
    np.testing.assert_allclose(tuned["log10_mse"]["predator"], np.log10(expected / 4))
    assert tuned["rank_correlation"] == pytest.approx(1) and tuned["share_first_larger"] == 1
    assert found["methods"]["exact"]["log10_mse"]["prey"] == [None] * N  # log of zero


def test_errors_that_go_against_each_other_have_a_negative_rank_correlation(drawn):
    truth_NHV = drawn.truth_NHV
    size_NV = np.stack([np.arange(1, N + 1), np.arange(N, 0, -1) + 0.5], axis=1)
    error_NHV = 0.1 * size_NV[:, None] * np.ones((N, H, 2))
    found = held(analyses.series_errors(replace(drawn, points={"tuned": truth_NHV + error_NHV})))
    assert found["methods"]["tuned"]["rank_correlation"] == pytest.approx(-1)
    assert found["methods"]["tuned"]["series"] == [12, 13, 11, 14, 10]  # by the larger: 3.5, 4, 4.5, 5, 5.5


def test_best_median_and_worst_are_picked(drawn):
    found = held(analyses.extremes(drawn))
    assert [(one["which"], one["series"]) for one in found["picked"]] == [("best", 10), ("median", 12), ("worst", 14)]
    worst = found["picked"][-1]
    assert np.shape(worst["samples"]) == (S, H, 2) and len(worst["time"]) == C + H
    np.testing.assert_allclose(worst["truth"], drawn.truth_NHV[4])


def test_two_series_are_best_and_worst(drawn):
    two = replace(
        drawn,
        series=drawn.series.select([10, 14]),
        truth_NHV=drawn.truth_NHV[[0, 4]],
        points={"tuned": drawn.points["tuned"][[0, 4]]},
        forecasts={"tuned": replace(drawn.forecasts["tuned"], samples_NSHV=drawn.forecasts["tuned"].samples_NSHV[[0, 4]])},
    )
    assert [one.series for one in analyses.extremes(two).picked] == [10, 14]


# ---------------------------------------------------------------------------------------------- the ceiling


def writer(codec: Codec) -> Sampler:
    """A forecaster that is asked for its scales alone."""
    return Sampler(None, {}, load_alphabet(Path("no such folder"), 151_936), codec, SamplingConfig())  # type: ignore[arg-type]


def ceiling_of(truth: series.SeriesSet, samples_NSHV: np.ndarray, codec: Codec) -> dict:
    truth_NHV = truth.values_NTV[:, C:]
    made = Drawn(truth, C, truth_NHV, {"tuned": forecast_of(truth, samples_NSHV)}, {})
    return held(analyses.ceiling(made, writer(codec), "tuned"))


def test_capped_forecasts_end_at_the_top(truth):
    """Head-rooms of 0 and 60 % put the top at 1 and 2.5 times the context's maximum, which is 1."""
    top_S = np.array([1.0, 2.5, 1.0, 2.5])[:, None, None]
    capped_NSHV = np.minimum(truth.values_NTV[:, None, C:], top_S)
    found = ceiling_of(truth, capped_NSHV, Codec(headrooms=(0.0, 0.6)))
    assert (found["futures"], found["futures_above_context"]) == (2 * N, 1)
    low, high = found["points"]
    assert (low["series"], low["variable"], low["headroom"], high["headroom"]) == (13, "prey", 0.0, 0.6)
    assert (low["true_over_top"], low["forecast_over_true"]) == (pytest.approx(2), pytest.approx(0.5))
    assert (high["true_over_top"], high["forecast_over_true"]) == (pytest.approx(0.8), pytest.approx(1))
    assert low["true_over_context"] == pytest.approx(2)
    assert found["truth_above_top"] == 2 and found["followed"] == found["above_top"] == 0  # samples 0 and 2 of series 13
    peaks_NV = truth.values_NTV[:, C:].max(axis=1)
    near = int((np.abs(peaks_NV - 1) <= 0.02).sum())  # under the scale without head-room, which two samples have
    assert found["near_top"] == 2 * (near + 1)
    assert found["samples"] == N * S * 2


def test_free_forecasts_pass_the_top(truth):
    samples_NSHV = np.repeat(truth.values_NTV[:, None, C:], S, axis=1)
    found = ceiling_of(truth, samples_NSHV, Codec(headroom=0.0))
    assert found["followed"] == found["truth_above_top"] == found["above_top"] == S
    assert found["headrooms"] == [0.0] and found["median_forecast_over_true"] == pytest.approx(1)


def test_other_scales_have_one_top(truth):
    found = ceiling_of(truth, np.repeat(truth.values_NTV[:, None, C:], S, axis=1), Codec(scale="liu"))
    assert found["headrooms"] is None and found["points"][0]["headroom"] is None
    assert found["points"][0]["true_over_top"] == pytest.approx(2 / 5)  # 10 written units of 0.5


# --------------------------------------------------------------------------------------------- text and back


@pytest.mark.parametrize("decimals", [1, 3])
def test_rounding_stays_within_half_a_unit(truth, decimals):
    codec = Codec(decimals=decimals, headrooms=(0.3, 0.5))
    found = held(analyses.round_trip(truth, codec, load_alphabet(Path("no such folder"), 151_936), C, 13))
    assert found["within"] and [one["headroom"] for one in found["variants"]] == [0.3, 0.5]
    for one in found["variants"]:
        alpha = 1 / (10 * (1 - one["headroom"]))  # every context's maximum is 1
        np.testing.assert_allclose(one["half_unit"], 0.5 * alpha * 10**-decimals)
        values_TV = truth.values_NTV[3]
        np.testing.assert_allclose(
            one["difference"], np.abs(np.round(values_TV / alpha, decimals) * alpha - values_TV), atol=1e-12
        )
        assert (
            0.3 < one["mean_ratio_of_all"] < 0.7 and max(one["greatest_ratio"]) <= one["greatest_ratio_of_all"] <= 1 + 1e-9
        )
        assert one["tokens"] == len(codec.encode(values_TV, np.full(2, alpha)))


def test_a_decimal_that_is_lost_is_seen(truth, monkeypatch):
    """Were values cut off in place of rounded, the check would say so."""
    encode = Codec.encode
    monkeypatch.setattr(
        Codec, "encode", lambda self, v, a, **more: encode(self, np.floor(v / a * 100) / 100 * a + 1e-9, a, **more)
    )
    assert not analyses.round_trip(truth, Codec(), load_alphabet(Path("no such folder"), 151_936), C, 13).within


def test_a_series_that_is_not_there(truth):
    with pytest.raises(JaxlvError, match="unknown series"):
        analyses.round_trip(truth, Codec(), load_alphabet(Path("no such folder"), 151_936), C, 972)


# ------------------------------------------------------------------------------------------------ the program

CONFIG = """
[data]
path = "{data}"
fractions = [0.5, 0.2, 0.3]

[codec]
headrooms = [0.4, 0.6]

[windows]
length = 64
context_steps = [8, 12]

[model]
path = "{base}"

[lora]
rank = 2
head = "frozen"

[optimizer]
learning_rate = 1e-2
clip_norm = 0.5

[train]
steps = 3
batch_size = 2
log_every = 1
validate_every = 0

[evaluate]
context = 10
horizon = 4
samples = 4
batch_series = 2
"""


def jaxlv(*arguments: object) -> tuple[int, str, str]:
    """(exit code, output, errors) of `jaxlv ARGUMENTS`, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def tuned_run(tiny_base, waves, tmp_path_factory) -> Path:
    """A run folder of three steps, with the data file beside it."""
    folder = tmp_path_factory.mktemp("analysed")
    series.save(folder / "waves.h5", waves(12, 20))
    (folder / "tiny.toml").write_text(CONFIG.format(data=folder / "waves.h5", base=tiny_base))
    assert jaxlv("train", folder / "tiny.toml", "--out", folder / "run")[0] == 0
    return folder / "run"


@pytest.fixture(scope="module")
def analysed(tuned_run) -> tuple[dict[str, Any], Path, str]:
    """(analyses.json, its folder, what the program said); without what takes long: fitted equations, and true PNG."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "save_png", lambda drawing, path: path.write_bytes(b"a picture"))
        patch.setattr(analyses, "baselines_for", lambda _: {n: BASELINES[n] for n in ("last value", "seasonal naive")})
        older = tuned_run / "analyses"
        older.mkdir()
        for name in ("analyses.json", "older.csv"):
            (older / name).touch()
        code, said, errors = jaxlv("analyse", tuned_run, "--data", tuned_run.parent / "waves.h5", "--overwrite")
        assert not (older / "older.csv").exists()
    assert (code, errors) == (0, "")
    return json.loads((tuned_run / "analyses" / "analyses.json").read_text()), tuned_run / "analyses", said


@pytest.fixture(scope="module")
def found(analysed) -> Analyses:
    """What is read of it."""
    return Analyses.read(analysed[0], "analyses.json")


@pytest.fixture(scope="module")
def whole(found) -> Analyses:
    """The same analyses, with the head of a run that trained its bias."""
    alphabet = load_alphabet(Path("no such folder"), 151_936)
    bias_V = -np.abs(np.random.default_rng(3).normal(5e-4, 2e-4, 400))
    bias_V[alphabet.ids_A[[3, 10, 11]]] = 0.03, 0.02, 0.01
    head = anatomy.head_change(
        {"lm_head": {"bias": bias_V}}, {}, alphabet, lambda ids: token_texts(Path("no such folder"), ids)
    )
    held(head)
    return replace(found, head=head)


def test_every_analysis_is_there_with_units_and_definitions(analysed):
    result, _, said = analysed
    assert set(result) >= PARTS and result["left_out"] == {}
    nested = {"tokens", "ceiling"}
    for key in PARTS:
        for part in result[key].values() if key in nested else [result[key]]:
            assert key == "head" or (part["units"] and part["definitions"])
    assert [list(result[key]) for key in sorted(nested)] == [["tuned", "untuned"]] * 2
    assert all(f"{number}/11" in said for number in range(1, 12)) and "report.html" in said


def test_the_series_are_the_run_s_test_series(analysed, tuned_run):
    result, _, _ = analysed
    test_ids = [int(i) for i in json.loads((tuned_run / run.SPLIT).read_text())["test"]]
    assert (
        result["protocol"]["series"]
        == test_ids
        == sorted(result["series"]["methods"]["tuned"]["series"], key=test_ids.index)
    )
    assert result["protocol"]["seen_in_training"] == []
    assert result["round_trip"]["series"] == test_ids[0]  # these data have no series 972


def test_numbers_agree_with_each_other(analysed):
    result, _, _ = analysed
    assert result["head"]["kind"] == "frozen"
    assert len(result["spectra"]["projections"]) == 2 and result["spectra"]["rank"] == 2
    growth, errors = result["growth"]["methods"]["tuned"], result["series"]["methods"]["tuned"]
    assert len(growth["mean"]) == 4 and growth["mean"][0] > 0
    assert np.mean(errors["mse"]["prey"]) > 0
    assert {case["name"]: case.get("within") for case in result["padding"]["cases"]}["left"]
    assert result["training"]["logged_steps"] == 3 and result["training"]["clip_norm"] == 0.5


def test_what_is_written_is_read_again(analysed, found):
    assert json.loads(json.dumps(found.tree(), allow_nan=False)) == analysed[0]


def test_tables_and_figures_are_files(analysed, found):
    result, out, _ = analysed
    tables = {path.stem: pd.read_csv(path) for path in (out / "tables").glob("*.csv")}
    assert set(tables) == set(found.sheets) and len(tables) >= 12
    assert len(tables["series_errors"]) == len(result["protocol"]["series"]) * len(result["series"]["methods"])
    assert tables["padding"]["bound"].nunique() == 1 and "s2" in tables["adapter_spectra"]
    figures = {path.stem for path in (out / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (out / "figures").glob("*.png")}
    assert figures == {picture.name for picture in pictures(report.sections(found))}
    for name in figures:
        root = ET.parse(out / "figures" / f"{name}.svg").getroot()
        assert root.attrib["aria-label"] and "prefers-color-scheme" in "".join(root.itertext())


def test_the_page_is_whole_and_needs_nothing_else(analysed, found):
    page_text = (analysed[1] / "report.html").read_text()
    assert page_text.count("<svg") == len(pictures(report.sections(found)))
    assert not re.search(r"\bnan\b|\binf\b", page_text.partition("<script>")[0], re.IGNORECASE)
    assert all(section.title in page_text for section in report.sections(found))
    assert all(link.startswith("data:") for link in page_text.split('href="')[1:] if not link.startswith("#"))


def test_an_older_analysis_stays(analysed, tuned_run):
    before = (analysed[1] / "analyses.json").read_bytes()
    code, _, errors = jaxlv("analyse", tuned_run)
    assert code == 2 and "exists already; choose another folder, or --overwrite" in errors and len(errors.splitlines()) == 1
    assert (analysed[1] / "analyses.json").read_bytes() == before


# --------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("key", sorted(PARTS))
def test_every_analysis_makes_a_part_by_itself(whole, key):
    """A page may hold any of them; those that are missing are left out."""
    (section,) = report.sections(Analyses(**{key: getattr(whole, key)}))
    assert section.title and section.text and section.blocks


def test_a_larger_page_can_take_some_sections(analysed):
    some = {key: analysed[0][key] for key in ("padding", "training")} | {"unknown": {}}
    sections = report.sections(Analyses.read(some, "analyses.json"))
    assert [section.title for section in sections] == ["Training", "Padding"]
    rendered = page.render(page.Page("x", "y", (), sections))
    assert rendered.count("<svg") == 2 and rendered.count("<table") == 1


def test_no_analysis_is_no_section():
    nothing = Analyses.read({}, "analyses.json")
    assert report.sections(nothing) == [] and nothing.sheets == {}
    assert report.summary(nothing) == ""


def test_a_frozen_head_is_a_sentence(analysed):
    frozen = Analyses.read({"head": analysed[0]["head"]}, "analyses.json")
    (section,) = report.sections(frozen)
    assert "did not train" in section.text and section.blocks == []
    assert section.text in page.render(page.Page("x", "y", (), [section]))
    assert frozen.sheets == {} and set(analysed[0]["head"]) == {"kind", "sentence", "units", "definitions"}


def test_a_head_is_told_beside_the_report_s(whole):
    alone = Analyses(head=whole.head)
    (section,) = report.sections(alone)
    assert "3 are positive and 397 negative" in section.text and "Positive here: '3' '.' ','. " in section.text
    assert "2 of them are positive here too" in section.text
    assert {"head_largest", "head_positive", "head_symbols"} == set(alone.sheets)


def test_texts_of_tokens_are_escaped(whole):
    head = held(whole.head)
    for entry in head["largest"] + head["positive_tokens"]:
        entry["text"] = "<script>$x_1$"
    rendered = page.render(page.Page("x", "y", (), report.sections(Analyses.read({"head": head}, "x"))))
    assert "<script>$x" not in rendered and "&lt;script&gt;$x_1$" in rendered


def test_what_the_budget_does_not_hold_is_left_out_with_the_reason(tuned_run, tmp_path):
    """A run whose budget buys nothing more is analysed as far as that costs nothing."""
    spent = Path(shutil.copytree(tuned_run, tmp_path / "run", ignore=shutil.ignore_patterns("analyses")))
    config = load_config(spent / run.CONFIG)
    poor = replace(config, budget=replace(config.budget, flops=1.0))
    (spent / run.CONFIG).write_text(to_toml(poor))
    Ledger(spent / run.LEDGER, billing.terms_of(poor, ModelConfig.from_folder(base_of(config.model)))).close()
    reseal(spent)
    code, said, errors = jaxlv("analyse", spent, "--data", tuned_run.parent / "waves.h5")
    assert (code, errors) == (0, "")
    result = json.loads((spent / "analyses" / "analyses.json").read_text())
    assert set(result["left_out"]) == {"tokens", "growth", "errors", "series", "extremes", "ceiling", "padding"}
    assert set(result) >= {"training", "round_trip", "head", "spectra"} and "left out" in said
    assert "budget" in (spent / "analyses" / "report.html").read_text()
