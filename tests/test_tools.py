"""The programs: from simulated series to a page of figures, and one line for every fault of input."""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxlv as library
from jaxlv.config import RunConfig, find_config, load_config, read_tree
from jaxlv.data import dynamics, loading
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.baselines import BASELINES
from jaxlv.runs import run, sources
from jaxlv.studies import demo, doctor
from jaxlv.studies import evaluate as study
from jaxlv.studies.subjects import Asked, Subject
from jaxlv.tools import cli, console
from tests.programs import PROTOCOL, Work, content, done, jaxlv

ROOT = Path(__file__).resolve().parents[1]
NAMES = [name + " (oracle)" * (name == "RM, fitted") for name in BASELINES]  # the preset "course" is of that system
ROW = {
    "name", "mae", "mae_median", "mae_ci95", "mse", "mae_first_5", "mase", "crps", "coverage", "valid_share",
    "valid_share_unmasked",
}  # fmt: skip


@pytest.fixture(scope="module")
def forecast(work) -> Path:
    out = work.folder / "forecast"
    done("forecast", work.run, "--data", work.data, "--series", "7,3", *PROTOCOL, "--seed", 4, "--out", out)
    return out


@pytest.fixture(scope="module")
def evaluation(work) -> Path:
    out = work.folder / "evaluation"
    options = ["--data", work.data, "--series", "0-3", *PROTOCOL, "--seed", 0, "--unmasked-samples", 2, "--out", out]
    done("evaluate", work.run, *options)
    return out


# ------------------------------------------------------------------------------------------------------ --help

OPTIONS = {
    "demo": "--out --data --set",
    "init": "DATA --out --model --holdout --steps --id --time --columns",
    "simulate": "--preset --series --steps --noise --seed --out",
    "explore": "DATA --series --tokenizer --context-lengths --out",
    "train": "CONFIG --out --set --init-adapter --resume",
    "export": "RUN --to --out --base --side-head",
    "merge": "ADAPTER --model --weights --to --dtype --out",
    "reproduce": "NAME --model --data --out --scale --stage --set --plan --benchmark --resume",
    "sweep": "CONFIG --grid --search --trials --storage --set --out --resume",
    "forecast": "RUN_OR_MODEL --adapter --data --series --context --horizon --samples --seed --out --temperature --reach",
    "evaluate": "RUN_OR_MODEL --data --series --context --horizon --samples --seed --out --scale --no-grammar",
    "stress": "RUN_OR_MODEL --data --groups --max-series --samples --out",
    "field": "FILES --model --context --horizon --every --samples --seed --out",
    "report": "FOLDERS --data --out",
    "analyse": "RUN --data --series --max-series --context --horizon --samples --seed --headroom --out",
    "compare": "RUN --data --out --protocols --resume",
    "probe": "RUN_OR_MODEL --prompts --text --max-new-tokens --temperature --generation-defaults --set",
    "flops": "table plan audit",
    "ledger": "show verify",
    "configs": "copy",
    "doctor": "CONFIG --set",
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_names_the_options(verb):
    def said(*command: str) -> set[str]:
        return {*re.findall(r"[\w-]+", done(*command, "--help").lower())}

    below = OPTIONS[verb].split() if verb in ("flops", "ledger") else []
    assert {*OPTIONS[verb].lower().split()} <= said(verb)
    assert {"--debug", "--json", "--quiet"} <= said(verb, *below[:1])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_verb_the_verbs_are_listed(arguments):
    assert re.findall(r"^│ ([a-z]+) ", done(*arguments), re.MULTILINE) == list(cli.VERBS)
    assert set(cli.VERBS) == set(OPTIONS)


def test_the_readme_lists_five_verbs_and_links_to_all():
    readme, every = (path.read_text("utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "verbs.md"))
    listed = re.findall(r"^\| `([a-z]+)` \|", readme, re.MULTILINE)
    assert len(listed) == len(set(listed)) == 5 and set(listed) < set(cli.VERBS) and "(docs/verbs.md)" in readme
    assert re.findall(r"^\| \[`([a-z]+)`\]", every, re.MULTILINE) == list(cli.VERBS)
    assert re.findall(r"^## ([a-z]+)$", every, re.MULTILINE) == list(cli.VERBS)


def test_the_version_is_that_of_the_installed_package():
    assert done("--version") == metadata.version("jaxlv") + "\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["evalute"], "evaluate"),
        (["--vresion"], "--version"),
        (["train", "demo", "--out", "x", "--reusme"], "--resume"),
        (["train", "deom", "--out", "x"], "demo"),
        (["forecast", "x", "--out", "x", "--horzon", "3"], "--horizon"),
    ],
)
def test_a_typo_is_refused_with_what_may_have_been_meant(arguments, meant):
    outcome = jaxlv(*arguments)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert re.search(rf"([Dd]id you mean |; ){re.escape(meant)}\?", outcome.err)


LIMITS = {"--help": 0.2, "--version": 0.2, "trian": 0.2, "train --help": 0.5, "train demo --out x --reusme": 0.5}
"""Seconds of CPU."""
SLOWER = 1.5  # times as long is allowed, for an older core and a busy one
HEAVY = {"jax", "flax", "orbax", "diffrax", "matplotlib", "pandas", "h5py", "scipy"}


@pytest.mark.parametrize("arguments", LIMITS)
def test_help_and_typos_are_answered_before_anything_heavy_is_imported(arguments):
    """The first of three may compile Python's files; no other process is waited for in between."""
    told = f"lambda: print(*sorted({HEAVY} & {{*sys.modules}}), file=sys.stderr)"
    code = f"import sys, atexit; from jaxlv.tools.cli import main; atexit.register({told}); main()"
    spent = []
    while len(spent) < 3 and min(spent, default=9) > LIMITS[arguments]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outcome = process(sys.executable, "-c", code, *arguments.split())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert outcome.returncode in (0, 2) and outcome.stderr.splitlines()[-1] == ""
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < SLOWER * LIMITS[arguments]


def process(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_console_script_and_the_files_are_programs(tmp_path):
    script = process(Path(sys.executable).parent / "jaxlv", "--help")
    assert (script.returncode, script.stderr) == (0, "")
    assert script.stdout == done("--help")
    told = process(sys.executable, "tools/train.py", "--help")
    assert told.returncode == 0
    assert "--resume" in told.stdout
    refused = process(sys.executable, "tools/train.py", "no.toml", "--out", tmp_path / "run")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("jaxlv: no.toml: no such config; expected a TOML file, or one of ")


def test_json_is_all_that_stands_on_standard_output_and_quiet_says_nothing(work, tmp_path):
    asked = ["forecast", work.run, "--data", work.data, "--series", "7", *PROTOCOL]
    told = jaxlv(*asked, "--out", tmp_path / "a", "--json")
    found = json.loads(told.out)
    assert found["settings"] == json.loads((tmp_path / "a" / "settings.json").read_text())
    assert Path(found["table"]).is_file() and {path.name for path in (tmp_path / "a").glob("*.png")} == {*found["figures"]}
    assert "\nsampling: " in told.err and "forecast: 1/1" in told.err
    assert jaxlv(*asked, "--out", tmp_path / "b", "--quiet") == (0, "", "")
    assert (tmp_path / "b" / "forecast.csv").read_bytes() == (tmp_path / "a" / "forecast.csv").read_bytes()


# --------------------------------------------------------------------------------------------------- end to end


def test_simulate_writes_series_with_their_parameters(work):
    simulated = loading.load(work.data)
    assert simulated.values_NTV.shape == (12, 20, 2)
    assert simulated.time_T.tolist() == list(range(0, 40, 2))
    assert simulated.source["simulation"]["seed"] == 3
    assert len(simulated.source["simulation"]["parameters"]["K"]) == 12


def test_a_notebook_takes_an_adapter_by_its_run_its_folder_or_as_an_overlay(work):
    data = loading.load(work.data)
    model, params = library.load_pretrained(work.base)
    lora = library.load_adapter(work.run / "adapter", model)
    given = data.values_NTV[:2]
    options = dict(arrays=True, context=8, temperature=0.9)
    by_run = library.forecast(work.run, given, 3, 2, **options)
    by_folder = library.forecast(work.base, given, 3, 2, adapter=work.run / "adapter", **options)
    codec = library.open_model(work.run).codec
    assert codec.decimals == 3
    by_hand = library.forecast((model, params, lora), given, 3, 2, codec=codec, tokenizer=work.base, **options)
    np.testing.assert_array_equal(by_folder.samples_NSHV, by_run.samples_NSHV)
    np.testing.assert_array_equal(by_hand.samples_NSHV, by_run.samples_NSHV)


def test_train_tells_what_it_does_and_leaves_a_run(work):
    assert re.search(r"series: 12 \(6 train, 3 validation, 3 test\)", work.said)
    assert re.search(r"rank 2 on q_proj, v_proj", work.said)
    assert re.search(r"train: 2/2 +loss [0-9.]+ +[0-9,]+ tokens/s", work.said)
    assert "validation loss" in work.said
    assert run.load_run(work.run).config.train.steps == 2


def test_training_resumes(work):
    again = ["train", work.config, "--out", work.run, "--set", "train.steps=2", "--set", "lora.rank=2", "--resume"]
    before, places = (work.run / run.METRICS).read_text(), work.run / "checkpoints"
    held = {path.name for path in places.iterdir()}
    shutil.copytree(places / max(held), places / "step_00000000")  # an older one, which could not be removed
    shutil.copytree(places / max(held), places / "step_00000001", dirs_exist_ok=True)
    done(*again)
    assert (work.run / run.METRICS).read_text() == before
    assert {path.name for path in places.iterdir()} == held | {"step_00000001"}
    if "step_00000001" not in held:
        shutil.rmtree(places / "step_00000001")


def test_forecast_writes_a_tidy_table_settings_and_figures(work, forecast):
    assert (forecast / "forecast.csv").read_text().splitlines()[0] == "series,step,time,variable,statistic,value"
    table = pd.read_csv(forecast / "forecast.csv")
    assert len(table) == 2 * 3 * 2 * (8 + 2)  # series, steps, variables; median, mean, 6 quantiles, 2 samples
    assert sorted(table.series.unique()) == [3, 7]
    assert sorted(table.step.unique()) == [10, 11, 12]
    assert sorted(table.time.unique()) == [20, 22, 24]
    assert np.isfinite(table.value).all()
    settings = json.loads((forecast / "settings.json").read_text())
    assert (settings["seed"], settings["context"], settings["horizon"], settings["samples"]) == (4, 10, 3, 2)
    assert settings["sampling"]["temperature"] == 1.0
    assert {path.name for path in forecast.glob("*.png")} == {
        f"series_{i}{kind}.png" for i in (3, 7) for kind in ("", "_phase")
    }


def test_a_long_forecast_goes_step_by_step_from_its_own_samples(work, tmp_path):
    done(
        "forecast",
        work.run,
        "--data",
        work.data,
        "--series",
        "7",
        *PROTOCOL,
        "--horizon",
        5,
        "--reach",
        2,
        "--out",
        tmp_path / "f",
    )
    table = pd.read_csv(tmp_path / "f" / "forecast.csv")
    assert sorted(table.step.unique()) == [10, 11, 12, 13, 14] and np.isfinite(table.value).all()
    assert json.loads((tmp_path / "f" / "settings.json").read_text())["reach"] == 2


def test_evaluate_writes_metrics_of_every_method(evaluation):
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["tuned", "untuned", *NAMES]
    for row in metrics["rows"]:
        assert set(row) >= ROW
        assert all(row[name] is not None for name in ("mae", "mae_median", "mse", "mae_first_5", "mase"))
        low, high = row["mae_ci95"]
        assert low <= row["mae"] <= high
    for row in metrics["rows"][:2]:
        assert set(row["coverage"]) == {"50", "80", "95"} == set(row["interval_width"])
        assert np.isfinite(row["nats_per_value"]) and row["energy_score"] is not None
        assert row["valid_share"] == 1
        assert 0 <= row["valid_share_unmasked"] <= 1
    protocol = metrics["protocol"]
    settings = ("context", "horizon", "samples", "seed", "series")
    assert [protocol[name] for name in settings] == [10, 3, 2, 0, [0, 1, 2, 3]]
    assert protocol["units"]["mae"] == "raw units"


def test_evaluate_says_which_series_were_seen_in_training(work, evaluation):
    split = json.loads((work.run / run.SPLIT).read_text())
    expected = {i for i in range(4) if str(i) not in split["test"]}
    assert set(json.loads((evaluation / "metrics.json").read_text())["protocol"]["seen_in_training"]) == expected


def test_a_stress_test_measures_every_method_under_every_condition(work, tmp_path):
    groups = ["noise", "missing steps", "amplitude", "regime"]
    options = ["--groups", ",".join(groups), "--max-series", 2, *PROTOCOL, "--out", tmp_path / "s"]
    said = done("stress", work.run, "--data", work.data, *options)
    result = json.loads((tmp_path / "s" / "stress.json").read_text())
    assert list(dict.fromkeys(entry["group"] for entry in result["conditions"])) == groups
    assert result["seen_in_training"] == []
    for entry in result["conditions"]:
        assert [row["name"] for row in entry["rows"]] == ["tuned", "untuned", *NAMES]
        for row in entry["rows"]:
            assert list(row["mae_by_series"]) == [str(i) for i in entry["series"]]
            assert row["mae"] == pytest.approx(np.mean([*row["mae_by_series"].values()]))
        assert 0 <= entry["rows"][0]["above_top"]["forecast"] <= 1
    # Under a scale of the context nothing depends on the unit of the populations.
    plain, *larger = [entry for entry in result["conditions"] if entry["group"] == "amplitude"]
    for entry in larger:
        assert entry["rows"][0]["mae"] == pytest.approx(entry["value"] * plain["rows"][0]["mae"], rel=1e-6)
    assert "tuned" in said and (tmp_path / "s" / "report.html").stat().st_size > 10_000


def test_a_bare_model_is_stressed_too(work, tmp_path):
    more = ["--groups", "simulated", "--max-series", 2, "--context", 4, "--horizon", 1, "--samples", 2, "--series", "0,1"]
    more += ["--pool"]
    older(tmp_path / "s", "stress.json")
    said = done("stress", work.base, "--data", work.data, *more, "--out", tmp_path / "s", "--overwrite")
    assert "untuned" in said and "longer handling" in said
    first = json.loads((tmp_path / "s" / "stress.json").read_text())["conditions"][0]["rows"]
    assert [row["name"] for row in first][:2] == ["untuned", "pool"] and first[1]["crps"] is not None
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["report.html", "stress.json"]


def test_a_file_is_replaced_if_that_is_said(tmp_path):
    simulate = ["simulate", "--series", 2, "--steps", 4, "--out"]
    for name in ("a.csv", "a.h5"):
        done(*simulate, tmp_path / name, "--seed", 1)
        before = (tmp_path / name).read_bytes()
        refused = jaxlv(*simulate, tmp_path / name)
        assert refused.code == 2 and "exists already; choose another file, or --overwrite" in refused.err
        assert (tmp_path / name).read_bytes() == before
        done(*simulate, tmp_path / name, "--overwrite")
        assert (tmp_path / name).read_bytes() != before


def test_the_forecasts_of_an_evaluation_are_tables_too(evaluation):
    for name in ("tuned", "untuned"):
        table = pd.read_csv(evaluation / f"forecast_{name}.csv")
        assert list(table) == ["series", "step", "time", "variable", "statistic", "value"]
        assert sorted(table.series.unique()) == [0, 1, 2, 3]


def test_the_report_is_one_page_that_needs_nothing_else(evaluation):
    page = (evaluation / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "<svg" in page
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=\"(?!data:)", page)
    assert not re.search(r"@import|url\((?!data:|#)", page)
    assert all(name in page for name in ("tuned", "untuned", *NAMES))


def test_a_run_is_measured_on_its_own_test_series_by_default(work):
    out = work.folder / "by default"
    said = done("evaluate", work.run, "--unmasked-samples", 0, "--max-series", 2, "--out", out)
    protocol = json.loads((out / "metrics.json").read_text())["protocol"]
    test_ids = [int(i) for i in json.loads((work.run / run.SPLIT).read_text())["test"]]
    assert protocol["series"] == test_ids[:2]
    assert protocol["seen_in_training"] == []
    assert "VAR(3) on logs" in said
    assert str(out / "report.html") in said


@pytest.fixture(scope="module")
def settled(work) -> tuple[dict, str]:
    """The metrics and the words of an evaluation that chose temperatures and adjusted bands."""
    out = work.folder / "settled"
    options = ["--choose-temperature", "--temperatures", "0.7,1.3", "--conformal", "--unmasked-samples", 0, "--out", out]
    said = done("evaluate", work.run, *options)
    return json.loads((out / "metrics.json").read_text()), said


def test_temperature_and_bands_are_settled_on_validation_series_alone(work, settled):
    """The run has three of them: one for the temperature, two for the bands."""
    protocol, split = settled[0]["protocol"], json.loads((work.run / run.SPLIT).read_text())
    chosen_on, fitted_on = protocol["temperature_chosen_on"]["validation"], protocol["conformal"]["validation"]
    assert len(chosen_on) == 1 and len(fitted_on) == 2 and not set(chosen_on) & set(fitted_on)
    assert {str(i) for i in chosen_on + fitted_on} <= set(split["validation"])
    assert not {str(i) for i in chosen_on + fitted_on} & {*split["test"], *split["train"]}
    assert {str(i) for i in protocol["series"]} == set(split["test"])
    assert protocol["seen_in_training"] == []


def test_each_model_is_measured_at_the_temperature_of_its_least_crps(settled):
    protocol, rows = settled[0]["protocol"], settled[0]["rows"]
    for row in rows[:2]:
        table = protocol["temperature_chosen_on"]["crps"][row["name"]]
        assert set(table) == {"0.7", "1.3"}
        assert row["temperature"] == float(min(table, key=table.get))
        assert protocol["temperature_chosen_on"]["chosen"][row["name"]] == row["temperature"]
    assert protocol["sampling"]["temperature"] == rows[0]["temperature"]


def test_adjusted_bands_stand_beside_the_raw_ones(settled):
    rows, protocol = settled[0]["rows"], settled[0]["protocol"]
    for row in rows[:2]:
        assert 0 <= row["coverage_conformal"]["50"] <= 1 and row["interval_width_conformal"]["50"] > 0
        assert row["coverage_conformal"]["80"] is None and row["coverage"]["80"] is not None
    assert protocol["conformal"]["levels_with_too_few_series"] == [80, 95]


def test_every_series_that_is_asked_for_is_kept_from_validation(work):
    """Measuring validation series leaves fewer to settle anything on; measuring all of them leaves none."""
    held = [int(i) for i in json.loads((work.run / run.SPLIT).read_text())["validation"]]
    finished, data = run.load_run(work.run), loading.load(work.data)
    subject = Subject("run", finished, finished.config, data)
    free = study.validation_series(subject, data.select(held[:1]))
    assert free.ids_N.tolist() == held[1:]
    with pytest.raises(JaxlvError, match="every validation series is measured"):
        study.validation_series(subject, data.select(held))


def test_validation_series_of_a_run_are_known_by_their_values(work):
    finished, data = run.load_run(work.run), loading.load(work.data)
    subject = Subject("run", finished, finished.config, data)
    marks = dict.fromkeys(finished.split["validation"], "0" * 16)
    changed = replace(finished, split={**finished.split, "validation": marks})
    with pytest.raises(JaxlvError, match="not those of the run"):
        study.validation_series(replace(subject, run=changed), data.select([0]))
    # Another file given with --data changes nothing: its series are not those of the run.
    other = replace(data, values_NTV=data.values_NTV + 1)
    own = study.validation_series(replace(subject, source=other), other)
    assert run.series_marks(own) == list(finished.split["validation"].values())


def test_a_bare_model_takes_the_validation_series_of_the_default_split(work):
    data, config = loading.load(work.data), RunConfig()
    split = sources.split_series(config, data)
    found = study.validation_series(Subject("base", None, config, data), data.select(split.test))
    assert found.ids_N.tolist() == split.validation.tolist()
    assert not set(found.ids_N.tolist()) & set(split.test.tolist())


def test_a_bare_model_is_measured_on_other_series_than_its_bands_are_fitted_to(work, tmp_path):
    """Without a fit it is measured on all of them; of a few series none can be kept for a fit."""
    validation = sources.split_series(RunConfig(), loading.load(work.data)).validation.tolist()
    protocol = {"context": 10, "horizon": 2, "samples": 4, "unmasked_samples": 0}
    asked = Asked(str(work.base), work.data, protocol=protocol)
    fitted = study.evaluate(asked, tmp_path / "fitted", study.Fit(conformal=True)).metrics.protocol
    assert validation and not set(fitted.series) & set(validation)
    assert len(fitted.series) + len(validation) == len(loading.load(work.data))
    with pytest.raises(JaxlvError, match="measure other series with --series"):
        study.evaluate(replace(asked, series=validation), tmp_path / "none", study.Fit(conformal=True))
    few = loading.load_series(loading.load(work.data).values_NTV[:3])
    with pytest.raises(JaxlvError, match="too few series to fit on some and measure on others; expected 6 or more; found 3"):
        study.evaluate(replace(asked, data=few), tmp_path / "few", study.Fit(conformal=True))


@pytest.mark.parametrize("model", ["folder", pytest.param("embedded", marks=pytest.mark.slow)])
def test_a_bare_model_is_measured_too(model, work):
    """Two series are too few to split: with --series no split is needed."""
    out = work.folder / f"bare {model}"
    few = work.folder / f"few {model}.npy"
    np.save(few, loading.load(work.data).values_NTV[:2])
    subject = work.base if model == "folder" else "embedded"
    options = ["--data", few, "--series", "0,1", *PROTOCOL, "--unmasked-samples", 2, "--batch-series", 2, "--out", out]
    done("evaluate", subject, *options)
    metrics = json.loads((out / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["untuned", *BASELINES]
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_the_demo_does_it_all_and_makes_room_for_itself(work):
    """The main job in a few steps, twice: a demo gives way to the next, and to nothing else."""
    small = {
        "train.steps": 2,
        "train.batch_size": 2,
        "train.forecast_series": 0,
        "windows.length": 64,
        "windows.context_steps": [8, 12],
        "evaluate.context": 10,
        "evaluate.horizon": 3,
        "evaluate.samples": 2,
        "evaluate.series": 2,
    }
    options = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    for _ in range(2):
        said = done("demo", "--out", work.folder / "demo", "--data", work.data, *options)
    assert "VAR(3) on logs" in said
    metrics = json.loads((work.folder / "demo" / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["tuned", "untuned", *NAMES]
    assert (work.folder / "demo" / "report.html").is_file()


def test_the_demo_says_which_task_it_takes_and_why(work, tmp_path, monkeypatch):
    """A file is forecast as ever; without one, what the base has not read is simulated, and said to be why."""
    begun: list[RunConfig] = []
    monkeypatch.setattr(demo, "train", lambda config, folder, **rest: begun.append(config))
    monkeypatch.setattr(demo, "_measured", lambda config, folder, begin: None)
    monkeypatch.setattr(demo, "course_file", lambda: None)
    for given in (work.data, None):
        said: list[str] = []
        demo.demo(tmp_path / "demo", given, ["data.simulate=20"], say=said.append)
        assert said == ([f"data: {given}"] if given else ["data: 20 series simulated by preset field", demo.WHY])
    assert read_tree(ROOT / "configs" / "base.toml")["series"]["noise"] < dynamics.PRESETS["field"].noise
    as_ever, simulated = begun
    assert as_ever.data.path == str(work.data) and as_ever.evaluate.context == as_ever.evaluate.horizon == 50
    assert simulated == replace(load_config(find_config("demo-field")), data=replace(simulated.data, simulate=20))


def test_doctor_tells_what_a_config_takes_if_it_does_not_fit(work, monkeypatch):
    monkeypatch.setattr(doctor, "device_memory", lambda device: (1000, "of a test"))
    outcome = jaxlv("doctor", work.config, "--json")
    told = json.loads(outcome.out)
    assert outcome.code == 2 and "the config does not fit; expected at most 0.0 GiB" in outcome.err and not told["fits"]
    assert told["memory"] == 1000 < sum(told["step_bytes"].values()) and told["least_seconds_per_step"] > 0


def test_doctor_says_whether_a_config_fits(work):
    said = done("doctor", work.config)
    assert all(word in said for word in ("python", "jax", "devices", "memory", "attention", "training step", "fits"))


# ---------------------------------------------------------------------------------------------------- bad input


def bad_folder(work: Work, name: str) -> Path:
    """Model folders and files that are wrong in one way each."""
    place = work.folder / "bad" / name
    if place.exists():
        return place
    place.parent.mkdir(exist_ok=True)
    if name == "llama":
        shutil.copytree(work.base, place)
        settings = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**settings, "model_type": "llama"}))
    elif name == "no weights":
        place.mkdir()
        shutil.copy(work.base / "config.json", place)
    elif name == "csv.h5":
        place.write_text("series,step\n")
    elif name == "truncated.h5":
        place.write_bytes(work.data.read_bytes()[:1000])
    elif name == "nan.npy":
        np.save(place, np.full((3, 20, 2), np.nan))
    elif name == "negative.npy":
        np.save(place, np.full((3, 20, 2), -1.0))
    elif name == "axes.npy":
        np.save(place, np.ones((2, 20)))
    elif name == "bad.toml":
        place.write_text("[train\n")
    return place


NO_HARNESS = importlib.util.find_spec("lm_eval") is None
BAD = {
    "probe: no harness": (
        ["probe", "run", "--tasks", "x", "--task-folder", "gone"],
        "needs lm-evaluation-harness" if NO_HARNESS else "jaxlv: ",
    ),
    "train: no config": (["train", "no.toml", "--out", "new"], "no such config"),
    "train: no TOML": (["train", "bad:bad.toml", "--out", "new"], "not valid TOML"),
    "train: no data": (["train", "config", "--out", "new", "--set", "data.path=gone.h5"], "gone.h5: no such file"),
    "train: unknown key": (["train", "config", "--out", "new", "--set", "train.stepz=3"], "did you mean train.steps"),
    "train: unknown section": (["train", "config", "--out", "new", "--set", "trian.steps=3"], "did you mean train"),
    "train: wrong type": (
        ["train", "config", "--out", "new", "--set", "train.steps=many"],
        "train.steps: must be a whole number",
    ),
    "train: wrong value": (
        ["train", "config", "--out", "new", "--set", "lora.rank=0"],
        "lora.rank: must be a whole number from 1 to",
    ),
    "train: bad --set": (["train", "config", "--out", "new", "--set", "train.steps"], "expected section.key=value"),
    "train: no model": (["train", "config", "--out", "new", "--set", "model.path=/no/where"], "no such model folder"),
    "train: other model": (["train", "config", "--out", "new", "--set", "model.path='{llama}'"], "not a Qwen2.5 model"),
    "train: context": (["train", "config", "--out", "new", "--set", "evaluate.context=20"], "the series' 20 steps"),
    "train: target": (["train", "config", "--out", "new", "--set", 'lora.targets=["w"]'], "unknown projection"),
    "train: existing": (["train", "config", "--out", "run"], "exists already"),
    "train: no run to resume": (["train", "config", "--out", "new", "--resume"], "no run to resume"),
    "train: other config": (["train", "config", "--out", "run", "--resume"], "lora.rank: 2 then, 4 now"),
    "explore: no data": (["explore", "gone.h5", "--out", "new"], "gone.h5: no such file"),
    "explore: unknown series": (["explore", "data", "--series", "3,99", "--out", "new"], "unknown series"),
    "explore: no tokenizer": (["explore", "data", "--tokenizer", "gone", "--out", "new"], "--tokenizer: no such folder"),
    "explore: a model without one": (["explore", "data", "--tokenizer", "base", "--out", "new"], "no tokenizer"),
    "explore: lengths": (
        ["explore", "data", "--context-lengths", "512,1", "--out", "new"],
        "'1' is not a whole number from 2 to",
    ),
    "explore: existing": (["explore", "data", "--out", "run"], "exists already"),
    "forecast: no run": (["forecast", "gone", "--out", "new"], "no such model folder"),
    "forecast: no data": (["forecast", "run", "--data", "gone.h5", "--out", "new"], "gone.h5: no such file"),
    "forecast: unknown series": (["forecast", "run", "--series", "3,99", "--out", "new"], "unknown series"),
    "forecast: context": (["forecast", "run", "--context", "21", "--out", "new"], "1 to 20 steps; found 21"),
    "analyse: no run": (["analyse", "gone"], "not a run folder"),
    "analyse: existing": (["analyse", "run", "--out", "run"], "exists already"),
    "analyse: unknown series": (["analyse", "run", "--series", "3,99"], "unknown series"),
    "analyse: head-room": (["analyse", "run", "--headroom", "1"], "'1' is not a number of at least 0 and below 1"),
    "analyse: too long": (["analyse", "run", "--context", "18"], "at most 20 steps; found 18 + 3"),
    "stress: group": (["stress", "run", "--groups", "noise,weather", "--out", "new"], "unknown group"),
    "stress: series": (["stress", "run", "--context", "15", "--horizon", "9", "--out", "new"], "longer than the series"),
    "stress: no condition": (["stress", "run", "--groups", "origin", "--out", "new"], "no condition"),
    "forecast: positions": (["forecast", "run", "--horizon", "50", "--out", "new"], "longer than the model's positions"),
    "forecast: sampling": (
        ["forecast", "run", "--top-p", "1.5", "--out", "new"],
        "for --top-p: '1.5' is not a number above 0 and at most 1",
    ),
    "forecast: existing": (["forecast", "run", "--out", "run"], "exists already"),
    "forecast: ids": (["forecast", "run", "--series", "3;7", "--out", "new"], "not a list of ids"),
    "forecast: no steps": (["forecast", "run", "--horizon", "0", "--out", "new"], "'0' is not a whole number from 1 to"),
    "forecast: CSV as HDF5": (["forecast", "run", "--data", "bad:csv.h5", "--out", "new"], "expected HDF5; found text"),
    "forecast: truncated": (["forecast", "run", "--data", "bad:truncated.h5", "--out", "new"], "damaged or truncated"),
    "forecast: NaN": (["forecast", "run", "--data", "bad:nan.npy", "--out", "new"], "nan"),
    "forecast: negative": (
        ["forecast", "run", "--data", "bad:negative.npy", "--negative", "error", "--out", "new"],
        'negative = "shift"',
    ),
    "forecast: axes": (["forecast", "run", "--data", "bad:axes.npy", "--out", "new"], "fewer steps than variables"),
    "evaluate: no model": (["evaluate", "/no/where", "--data", "data", "--out", "new"], "no such model folder"),
    "evaluate: other model": (["evaluate", "bad:llama", "--data", "data", "--out", "new"], "not a Qwen2.5 model"),
    "evaluate: no weights": (["evaluate", "bad:no weights", "--data", "data", "--out", "new"], "no weights"),
    "evaluate: too long": (["evaluate", "run", "--context", "18", "--out", "new"], "at most 20 steps; found 18 + 3"),
    "evaluate: existing": (["evaluate", "run", "--out", "run"], "exists already"),
    "evaluate: unknown series": (["evaluate", "run", "--series", "12", "--out", "new"], "unknown series"),
    "evaluate: scale of a run": (["evaluate", "run", "--scale", "xu", "--out", "new"], "keeps the text format"),
    **{
        f"evaluate: {name} of a run": (["evaluate", "run", f"--{name}", value, "--out", "new"], f"--{name}: a run keeps")
        for name, value in (("dtype", "bfloat16"), ("weights", "int8"), ("revision", "abc"))
    },
    "evaluate: revision of a base": (
        ["evaluate", "embedded", "--data", "data", "--revision", "abc", "--out", "new"],
        "embedded: a revision is of a hub id",
    ),
    "evaluate: revision of a folder": (
        ["evaluate", "base", "--data", "data", "--revision", "abc", "--out", "new"],
        "a revision is of a hub id",
    ),
    "evaluate: two temperatures": (
        ["evaluate", "run", "--temperature", "1", "--choose-temperature", "--out", "new"],
        "given or chosen, not both",
    ),
    "evaluate: temperatures": (
        ["evaluate", "run", "--temperatures", "1,x", "--out", "new"],
        "'x' is not 0 or a number from",
    ),
    "evaluate: scale": (
        ["evaluate", "base", "--data", "data", "--scale", "x", "--out", "new"],
        'Invalid value "x" for --scale. Choose from: "context", "xu"',
    ),
    "probe: numbers alone": (["probe", "run", "--out", "new"], "no language tokenizer"),
    "probe: embedded": (["probe", "embedded", "--out", "new"], "no language tokenizer"),
    "audit: settings of nothing": (["flops", "audit", "--set", "model.remat=true"], "--set: changes nothing here"),
    "audit: sizes of a config": (["flops", "audit", "demo", "--length", "64"], "--length: changes nothing here"),
    "audit: type of a config": (["flops", "audit", "demo", "--dtype", "bfloat16"], "--dtype: changes nothing here"),
    "doctor: settings of nothing": (["doctor", "--set", "train.steps=2"], "--set: changes nothing here; found no config"),
    "doctor: memory of this machine": (["doctor", "demo", "--memory", "24"], "--memory: changes nothing here"),
    "compare: settings of a run": (
        ["compare", "run", "--data", "data", "--set", "train.steps=2", "--out", "new"],
        "--set: changes nothing here; found a run keeps its own settings",
    ),
    "probe: windows of no text": (["probe", "run", "--window", "64", "--out", "new"], "--window: changes nothing here"),
    "probe: limit of no tasks": (["probe", "run", "--limit", "2", "--out", "new"], "--limit: changes nothing here"),
    "simulate: existing": (["simulate", "--series", "2", "--out", "data"], "exists already"),
    "simulate: none": (
        ["simulate", "--series", "0", "--out", "new.h5"],
        "for --series: '0' is not a whole number from 1 to",
    ),
    "simulate: suffix": (["simulate", "--series", "2", "--out", "new.txt"], ".h5"),
    "demo: not a demo": (["demo", "--out", "bad", "--data", "data"], "not an earlier demo"),
    "doctor: cuDNN": (["doctor", "config", "--set", "model.attention=cudnn"], "cuDNN attention cannot run here"),
    "unknown verb": (["tune"], "no verb 'tune'"),
    "report: existing": (["report", "run", "--out", "config"], "choose another file, or --overwrite"),
    **{
        f"{verb}: another's folder": ([verb, subject, *more, "--overwrite", "--out", "bad"], "would be lost")
        for verb, subject, *more in (
            ("forecast", "run"), ("evaluate", "run"), ("explore", "data"), ("stress", "run"), ("analyse", "run"),
            ("compare", "run", "--data", "data", "--protocols", "xu"), ("probe", "run"),
        )
    },
}  # fmt: skip


def older(folder: Path, result: str) -> None:
    """Makes a folder as an older version of a verb left it."""
    folder.mkdir()
    for name in (result, "older.csv"):
        (folder / name).touch()


def resolved(work: Work, argument: str) -> str:
    places = {"config": work.config, "run": work.run, "data": work.data, "base": work.base, "bad": work.folder / "bad"}
    if argument.startswith("bad:"):
        return str(bad_folder(work, argument.removeprefix("bad:")))
    if argument in ("new", "new.h5", "new.txt"):
        return str(work.folder / argument)
    return str(places.get(argument, argument.replace("{llama}", str(work.folder / "bad" / "llama"))))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(case, work):
    arguments, part = BAD[case]
    bad_folder(work, "llama")
    command = [arguments[0], *(resolved(work, argument) for argument in arguments[1:])]
    before = content(work.folder)
    outcome = jaxlv(*command)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert part in outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    assert content(work.folder) == before


def test_debug_lets_the_error_through(work):
    with pytest.raises(JaxlvError, match="no such config"):
        cli.main(["train", "no.toml", "--out", str(work.folder / "new"), "--debug"])


def test_a_purpose_tells_results_apart_by_what_their_figures_depend_on():
    asked = {"run_or_model": "runs/a", "samples": 4, "out": Path("one"), "resume": False}
    purpose = console.purpose_of("evaluate", asked)
    assert purpose == console.purpose_of("evaluate", {**asked, "out": Path("two"), "resume": True, "overwrite": True})
    others = [console.purpose_of("stress", asked), console.purpose_of("evaluate", {**asked, "samples": 5})]
    assert len({purpose, *others}) == 3
