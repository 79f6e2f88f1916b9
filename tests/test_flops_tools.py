"""`jaxlv flops`: what it prints as JSON and as text, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jaxlv.config import load_config
from jaxlv.tools import cli

ROOT = Path(__file__).resolve().parents[1]


def printed(capsys, *words: str) -> str:
    cli.main(["flops", *words])
    return capsys.readouterr().out


def test_the_table_as_json(capsys):
    found = json.loads(printed(capsys, "table", "--convention", "exact,coursework,mao", "--json"))["conventions"]
    assert list(found) == ["exact", "coursework", "mao"]
    assert found["exact"]["total_forward"] == 2_115_674_046_464
    assert found["exact"]["total_train_step"] == 4_317_591_371_776
    assert found["coursework"]["total_train_step"] == 6_778_988_765_904
    for table in found.values():
        assert sum(row["count"] for row in table["rows"]) == table["total_train_step"]
        assert {"component", "phase", "count", "formula", "when"} == set(table["rows"][0])


def test_the_table_as_text_shows_each_formula(capsys):
    text = printed(capsys, "table", "--convention", "exact", "--head", "trained")
    assert "4,875,198,922,752" in text
    assert "dot(T, H, N * D)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "--convention", "gpt"], "unknown convention"),
        (["table", "--model", "qwen9"], "no such model"),
        (["table", "--targets", "x"], "unknown projection"),
        (["plan", "nowhere.toml"], "no such config"),
    ],
)
def test_bad_arguments_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["flops", *words])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip()
    assert message in line
    assert "\n" not in line


def test_the_audit_of_a_small_model_holds(tiny_base, capsys):
    words = ["audit", "--model", str(tiny_base), "--batch", "2", "--length", "16", "--rank", "2", "--json"]
    found = json.loads(printed(capsys, *words))
    assert set(found["totals"]) == {"forward", "train_step", "decode_step"}
    for totals in found["totals"].values():
        assert totals["analytic"] == totals["jaxpr"] == totals["hlo"] > 0
    assert all(row["verdict"].startswith("equal") for row in found["rows"])
    assert {"component", "phase", "program", "analytic", "jaxpr", "hlo", "verdict"} == set(found["rows"][0])
    assert all(held for gates in found["gates"].values() for held in gates.values())


def test_a_plan_prices_each_phase(capsys):
    words = ["plan", str(ROOT / "configs" / "demo.toml"), "--budget", "1e15", "--json"]
    found = json.loads(printed(capsys, *words))
    names = list(found["phases"])
    assert names[0] == f"training, {load_config(ROOT / 'configs' / 'demo.toml').train.steps} steps"
    assert found["steps_bought"]["exact"] == int(1e15 // found["train_step"])
    assert found["phases"][names[-1]]["exact"] > 5 * found["phases"][names[-3]]["exact"]


def test_a_plan_that_does_not_fit_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["flops", "plan", str(ROOT / "configs" / "demo.toml"), "--budget", "1e9"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and "the plan does not fit the budget" in said.err and said.err.count("\n") == 1
    assert "train steps that it buys" in said.out  # what it would cost is told all the same


def test_a_plan_estimates_the_time_by_a_benchmark(capsys, tmp_path):
    """By the row that is nearest in size, with the loss that the config trains by."""
    config = str(ROOT / "configs" / "demo.toml")
    step = json.loads(printed(capsys, "plan", config, "--budget", "1e15", "--json"))["train_step"]
    steps = load_config(config).train.steps

    def row(work: str, flops: int, seconds: list[float]) -> dict:
        return {
            "shape": "micro",
            "work": work,
            "sides": {
                "torch": {"seconds": [9.0]},
                "jaxlv": {"flops": flops, "seconds": [7.0]},
                "jaxlv, another loss: 13 symbols": {"flops": flops, "seconds": seconds},
            },
        }

    result = {
        "settings": {"device": "cpu", "dtype": "float32"},
        "machine": {"cpu": "Some CPU", "accelerator": "none"},
        "rows": [row("1 x 1", 100 * step, [1.0]), row("4 x 4", 2 * step, [1.0, 72.0, 90.0])],
    }
    path = tmp_path / "train_step-cpu.json"
    path.write_text(json.dumps(result))
    text = printed(capsys, "plan", config, "--budget", "1e15", "--benchmark", str(path))
    assert f"training takes {steps * 36 / 3600:.2f} hours" in text
    assert "Some CPU (micro 4 x 4, float32)" in text
    for rows in ([], [row("4 x 4", step, [float("nan")])], [row("4 x 4", step, [0.0])], [row("4 x 4", -1, [1.0])], [[]]):
        path.write_text(json.dumps({**result, "rows": rows}))
        with pytest.raises(SystemExit):
            cli.main(["flops", "plan", config, "--budget", "1e15", "--benchmark", str(path)])
        assert "no result of benchmarks.train_step" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- count

MODULE = """
import jax, jax.numpy as jnp
def loss(w, x, label):
    with jax.named_scope("layer"):
        return jnp.tanh(x @ w).sum(-1)[label]
def looped(x, n):
    return jax.lax.fori_loop(0, n, lambda i, c: c @ c, x)
class model:
    apply = staticmethod(loss)
number = 3
"""
ARGUMENTS = ("--args", "f32[16,4], f32[8,16],i32[]")
ONE = 2 * 8 * 16 * 4


@pytest.fixture
def somebodys(tmp_path, monkeypatch):
    """A folder with a module of somebody else, in which the program is run."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "fails.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("somebodys", None)
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def test_any_function_is_counted_by_name(somebodys, capsys):
    found = json.loads(printed(capsys, "count", "somebodys:loss", *ARGUMENTS, "--json"))
    assert found["jaxpr"]["products"] == found["hlo"]["products"] == ONE
    assert found["jaxpr"]["scopes"][0]["scope"] == "layer"
    text = printed(capsys, "count", "somebodys:model.apply", *ARGUMENTS, "--grad")
    assert "gradient of loss, compiled for this machine's CPU" in text
    assert f"{3 * ONE:,}" in text and "products: the HLO executes what the jaxpr asks for" in text
    looped = ("count", "somebodys:looped", "--args", "f32[8,8],i32[]", "--json", "--trips")
    for trips in ("5", "somebodys.py:7=5"):
        assert json.loads(printed(capsys, *looped, trips))["jaxpr"]["products"] == 5 * 2 * 8**3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("loss",), "loss: not the name of a function; expected module:function"),
        (("nowhere:loss",), "nowhere:loss: no such module: nowhere"),
        (("broken:loss",), "broken:loss: the module needs nothing_of_this_name"),
        (("fails:loss",), "fails:loss: the module does not load: ZeroDivisionError"),
        (("somebodys:win",), "somebodys:win: the name win is not in the module"),
        (("somebodys:number",), "somebodys:number: not a function; found int"),
        (("somebodys:loss", "--args", "f32[2"), "--args: not an array"),
        (("somebodys:loss", "--args", "f32[2],q7[3]"), "found q7[3]"),
        (("somebodys:loss", "--args", f"f32[{'9' * 5000}]"), "--args: not an array"),
        (("somebodys:looped", "--args", "f32[8,8],i32[]", "--trips", "9" * 5000), "--trips: not trip counts"),
        (("somebodys:loss", "--args", "f64[2]"), "f64 has 64 bits; set JAX_ENABLE_X64=1"),
        (("somebodys:loss", "--args", "f32[2]"), "the function does not take these arguments"),
        (("somebodys:loss", "--args", "i32[2]", "--grad"), "--grad: no argument has a gradient"),
        (("somebodys:looped", "--args", "f32[8,8],i32[]"), "somebodys.py:7: a loop of unknown length"),
        (("somebodys:looped", "--args", "f32[8,8],i32[]", "--trips", "many"), "--trips: not trip counts"),
        (("somebodys:looped", "--args", "f32[8,8],i32[]", "--trips", "3,x=4"), "--trips: not trip counts"),
    ],
)
def test_a_function_that_cannot_be_counted_is_one_line(words, message, somebodys, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["flops", "count", *words])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in line and "\n" not in line
