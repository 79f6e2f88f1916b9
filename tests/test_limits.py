"""Work that cannot fit in the memory is refused with its figures before it begins, and what fits never is."""

from __future__ import annotations

import functools
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlv as library
from jaxlv import memory
from jaxlv.analysis import schemes
from jaxlv.config import CodecConfig, LoraConfig, RunConfig, WindowConfig, build_config
from jaxlv.data import dynamics, series
from jaxlv.errors import JaxlvError
from jaxlv.lora import overlay
from jaxlv.model.weights import load_pretrained
from jaxlv.runs import devices, sweep
from jaxlv.runs.sweep import Cell
from jaxlv.steps import decode, needs
from jaxlv.steps.decode import Decoding, Loop, Rows
from jaxlv.steps.generate import row_keys
from jaxlv.steps.stack import Stack, memory_of
from jaxlv.text.codec import Codec
from jaxlv.text.tokens import Windows, load_alphabet, make_windows
from tests.programs import CONFIG, content, jaxlv

THERE = 2**30  # bytes, in place of this machine's
MUCH = 10**9


@pytest.fixture
def small(monkeypatch) -> None:
    """A machine of one GiB."""
    monkeypatch.setattr(memory, "host_memory", lambda swap=False: THERE)


@pytest.fixture(scope="module")
def place(tiny_base, waves, tmp_path_factory) -> Path:
    """A folder with series and a config."""
    folder = tmp_path_factory.mktemp("limits")
    series.save(folder / "series.h5", waves(12, 20))
    (folder / "tiny.toml").write_text(CONFIG.format(data=folder / "series.h5", base=tiny_base))
    return folder


# ------------------------------------------------------------------------------------------------ the programs

TRAIN = ["train", "{config}", "--out", "{new}", "--set"]
FORECAST = ["forecast", "{base}", "--data", "{data}", "--context", "8", "--out", "{new}"]
EVALUATE = [
    "evaluate",
    "{base}",
    "--data",
    "{data}",
    "--series",
    "0-2",
    "--context",
    "8",
    "--horizon",
    "2",
    "--out",
    "{new}",
]
MANY = [part for n in range(5) for part in ("--grid", f"x.y{n}=1,2,3,4,5,6,7,8,9")]
TOO_MUCH = {
    "train: rank": ([*TRAIN, "lora.rank=1000000"], "training: needs at least 1.25 GiB", "lower lora.rank"),
    "train: batch": ([*TRAIN, f"train.batch_size={MUCH}"], "training: needs at least", "lower train.batch_size"),
    "train: micro-batches": ([*TRAIN, f"train.accumulate={MUCH}"], "training: needs at least", "lower train.accumulate"),
    "train: length": ([*TRAIN, f"windows.length={MUCH}"], "training: needs at least", "windows.length"),
    "train: series": ([*TRAIN, f"data.simulate={MUCH}", "--set", 'data.path=""'], "simulation: needs at least", "series"),
    "doctor": (["doctor", "{config}", "--set", f"train.batch_size={MUCH}"], "training: needs at least", "batch_size"),
    "sweep: grid": (["sweep", "{config}", "--grid", "lora.rank=2,1000000", "--out", "{new}"], "needs at least", "lora.rank"),
    "sweep: search": (["sweep", "{config}", "--search", "lora.rank=2..1000000", "--out", "{new}"], "needs at", "lora.rank"),
    "sweep: many": (["sweep", "{config}", *MANY, "--out", "{new}"], "at most 10,000; found 59,049", ""),
    "forecast: samples": ([*FORECAST, "--samples", f"{MUCH}"], "forecasts: needs at least", "lower the samples"),
    "forecast: horizon": ([*FORECAST, "--horizon", f"{MUCH // 10}"], "forecasts: needs at least", "the horizon"),
    "forecast: reach": ([*FORECAST, "--horizon", f"{MUCH // 10}", "--reach", "2"], "forecasts: needs", "the horizon"),
    "evaluate: samples": ([*EVALUATE, "--samples", f"{MUCH}"], "forecasts: needs at least", "lower the samples"),
    "evaluate: batch": ([*EVALUATE, "--batch-series", f"{MUCH}"], "generation: needs at least", "the series of a batch"),
    "evaluate: unmasked": ([*EVALUATE, "--unmasked-samples", f"{MUCH}"], "forecasts: needs at least", "lower the samples"),
    "stress": (["stress", "{base}", "--data", "{data}", "--context", "8", "--horizon", "2", "--samples", f"{MUCH}", "--out",
                "{new}"], "forecasts: needs at least", "lower the samples"),
    "simulate: series": (["simulate", "--series", f"{MUCH}", "--out", "{new}.h5"], "simulation: needs at least", "series"),
    "simulate: steps": (["simulate", "--series", "1", "--steps", f"{MUCH}", "--out", "{new}.h5"], "needs at", "steps"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_cannot_fit_is_refused_before_it_begins(case, place, tiny_base, small):
    arguments, figures, hint = TOO_MUCH[case]
    places = {"config": place / "tiny.toml", "data": place / "series.h5", "base": tiny_base, "new": place / "new"}
    before, held = content(place), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = jaxlv(*(argument.format(**places) if "{" in argument else argument for argument in arguments))
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert figures in outcome.err and hint in outcome.err
    assert "found" in figures or "of memory, and there are 1.00 GiB on this machine; " in outcome.err
    assert {name: text for name, text in content(place).items() if not name.startswith("new/")} == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 2**20  # KiB, so less than a GiB


def test_the_library_refuses_the_same(tiny_base, waves, small):
    data, model = waves(2, 20), load_pretrained(tiny_base)
    asked: dict[str, dict[str, Any]] = {
        "forecasts: needs": {"samples": MUCH},
        "generation: needs": {"batch_series": 1, "samples": 10**6},
        "samples: must be": {"samples": 2**31},
        "horizon: must be": {"horizon": float("nan")},
        "seed: must be": {"seed": 2**32},
        "batch_series: must be": {"batch_series": -1},
        "context: must be": {"context": 2.5},
        "sampling.temperature: must be": {"temperature": float("inf")},
    }
    for words, more in asked.items():
        with pytest.raises(JaxlvError) as caught:
            library.forecast(model, data, **{"horizon": 2, "tokenizer": tiny_base, **more})
        assert str(caught.value).startswith(words)


# ------------------------------------------------------------------------------------------------- the figures


def test_what_trains_is_counted_as_it_is_made(random_model):
    model, params = random_model()
    for config in (
        LoraConfig(3), LoraConfig(5, targets=overlay.PROJECTIONS, head="full"), LoraConfig(2, targets=("k",), head="frozen"),
        LoraConfig(2, targets=()),
    ):  # fmt: skip
        lora = jax.eval_shape(lambda config=config: overlay.init_lora(jax.random.key(0), params, config))
        variables = {"params": params, "lora": lora}
        assert needs.trained(config, model) == overlay.count_trained(variables, overlay.trainable(variables))
    assert needs.weights(model) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_the_figures_by_hand(random_model, monkeypatch):
    """Two layers of width 24, 4 query heads, 2 key/value heads of 6, 61 tokens; all in float32."""
    model, _ = random_model()
    tree = {"train": {"batch_size": 3, "accumulate": 2}, "windows": {"length": 10}}
    config = build_config(RunConfig, tree)
    trained = 4 * 2 * ((24 + 24) + (24 + 12)) + 61  # rank 4 on q and v of two layers, and the head's bias
    kept, scores, outputs = 2 * 30 * 24 * 4, 3 * 4 * 10 * 10 * 4, 30 * 61 * 4
    step = 3 * 2 * 30 * 4  # ids, positions and labels
    assert [*needs.training(config, model).values()] == [4 * 3 * trained, kept + max(scores, outputs), step]
    assert needs.state(build_config(RunConfig, {"optimizer": {"name": "muon"}}), model) == 4 * 2 * trained
    alphabet = build_config(RunConfig, {**tree, "model": {"loss": "alphabet"}})
    assert needs.training(alphabet, model)[needs.LOWER_BATCH] == kept + scores
    blocked = replace(model, attention="blocked")
    long = build_config(RunConfig, {"train": {"batch_size": 1}, "windows": {"length": 1000}, "lora": {"targets": ()}})
    assert needs.training(long, blocked)[needs.LOWER_BATCH] == 4 * 128 * 1000 * 4
    asked: list[dict[str, int]] = []

    def check(what: str, host: Any = None, device: Any = None) -> None:
        asked.append(host or device)
        if what == "simulation":
            raise memory.TooLarge("heard")

    monkeypatch.setattr(memory, "check", check)
    needs.check_generation(model, 2, 64, 3, 5, grammar=True)
    token = 2 * 2 * 2 * 6 * 4  # keys and values, layers, heads, head size, bytes
    assert [*asked[-1].values()] == [6 * (5 * (token + 4) + 13 * 4), 2 * 64 * token]
    needs.check_generation(model, 2, 64, 3, 5, grammar=False)
    assert asked[-1][needs.LOWER_SAMPLES] == 6 * (5 * (token + 4) + 61 * 4)
    needs.check_forecasts(3, 5, 7, 2)
    assert [*asked[-1].values()] == [2 * 8 * 3 * 5 * 7 * 2]
    with pytest.raises(memory.TooLarge, match="heard"):
        dynamics.draw("course", 2, 0)  # 100 steps of 2 variables as float32 and as float64, 6 parameters
    assert [*asked[-1].values()] == [2 * (100 * 2 * (4 + 8) + 6 * 8)]


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": {"length": 96}, "lora": {"rank": 16, "targets": overlay.PROJECTIONS}},
        {"windows": {"length": 160}, "model": {"attention": "blocked", "loss": "alphabet"}, "optimizer": {"name": "muon"},
         "train": {"accumulate": 3}, "lora": {"head": "full"}},
    ],
)  # fmt: skip
def test_a_step_needs_no_less_than_is_said(changes, random_model):
    """Compared with XLA's plan for a step: at most as much, and not so little that the check would be useless."""
    config = build_config(RunConfig, changes)
    model, params = random_model(num_hidden_layers=1)
    model = replace(model, attention=config.model.attention)
    tokens = np.zeros((config.train.accumulate, config.train.batch_size, config.windows.length), np.int32)
    stack = Stack(model, params, [config], np.arange(13) if config.model.loss == "alphabet" else None)
    planned = memory_of(stack.step().lower(stack.state, stack.frozen, Windows(tokens, tokens, tokens)).compile())
    said = sum(needs.training(config, model).values()) + needs.weights(model)
    assert planned / 8 < said <= planned


def test_a_generation_needs_no_less_than_is_said(random_model, monkeypatch):
    model, params = random_model(num_hidden_layers=1)
    asked: list[int] = []
    monkeypatch.setattr(memory, "check", lambda what, device: asked.append(sum(device.values())))
    prompts, samples, length, new = 2, 8, 64, 130
    needs.check_generation(model, prompts, length, samples, new, grammar=False)
    ids_SP, positions_SP = np.zeros((prompts, length), np.int32), np.tile(np.arange(length, dtype=np.int32), (prompts, 1))
    begun = Rows(ids_SP, positions_SP, row_keys(0, range(prompts), samples), jnp.zeros(prompts, jnp.int32))
    how, loop = Decoding(samples, new, RunConfig().sampling), Loop(new, 0, 64)
    whole = jax.jit(functools.partial(decode.whole, model=model, how=how, loop=loop, end_ids=()))
    planned = memory_of(whole.lower({"params": params}, begun, None, jnp.arange(13)).compile())
    assert planned / 8 < asked[0] <= planned


@pytest.mark.parametrize("length", [64, 512])
def test_series_are_decoded_together_by_what_xla_plans_for_them(length, random_model):
    """The formula gives at least what each program needs beside the weights, and no more than three times as much."""
    model, params = random_model(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    prompts, samples, new = 4, 8, 128
    ids_SP, own = np.zeros((prompts, length), np.int32), {"params": params}
    first, prefix = jax.eval_shape(functools.partial(decode.prefill, model=model), own, ids_SP, ids_SP, None)
    begun = Rows(ids_SP, ids_SP, row_keys(0, range(prompts), samples), jnp.zeros(prompts, jnp.int32))
    static = {"model": model, "how": Decoding(samples, new, RunConfig().sampling), "loop": Loop(new, 0, 128), "end_ids": ()}
    plans = (
        decode.prefill.lower(own, ids_SP, ids_SP, None, model=model).compile(),
        decode.decode.lower(own, decode.Begun(first, prefix, begun), None, jnp.arange(13), **static).compile(),
    )
    needed = max(memory_of(plan) for plan in plans) - needs.weights(model)
    assert needed <= prompts * needs.decoded(model, length, samples, new, grammar=False) <= 3 * needed


def test_a_device_decodes_as_many_series_as_fit_and_a_cpu_a_few(random_model, monkeypatch):
    model, _ = random_model(num_hidden_layers=1)
    one = needs.decoded(model, 64, 2, 100, True)
    assert needs.together(model, 100, 64, 2, 100, True) == needs.MOST_SERIES["cpu"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for free, expected in ((0, 1), (9 * one, 6), (80 * one, 64), (10**6 * one, 100)):
        monkeypatch.setattr(memory, "free", lambda free=free: free)
        assert needs.together(model, 100, 64, 2, 100, True) == expected
    assert [needs.even(*given) for given in ((100, 64), (64, 64), (7, 3), (1, 8), (0, 0))] == [
        (50, 2), (64, 1), (3, 3), (1, 1), (1, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("scale", ["context", "liu"])
@pytest.mark.parametrize("partial", ["pad", "drop"])
@pytest.mark.parametrize("settings", [(64, 3), (64, 40), (500, 64), (64, 1000)])
def test_no_more_windows_are_counted_than_are_made(scale, partial, settings, waves, tmp_path, monkeypatch):
    said: list[int] = []
    monkeypatch.setattr(memory, "check", lambda what, host: said.append(sum(host.values())))
    length, stride = settings
    config = WindowConfig(length, stride, partial=partial, context_steps=(3, 8))
    values_NTV = waves(3, 24).values_NTV
    found = make_windows(values_NTV, Codec.for_data(CodecConfig(scale), values_NTV), load_alphabet(tmp_path, 32), config)
    counted, rest = divmod(said[0], 32 * length)
    assert not rest and counted <= found.number
    assert partial == "drop" or counted >= found.number / 2


def test_windows_that_do_not_fit_are_refused_wherever_they_are_made(waves, tmp_path, small):
    data = waves(3, 24)
    written = [schemes.write(schemes.OURS, data)]
    with pytest.raises(memory.TooLarge, match=r"training windows: needs at least .* lower windows\.length"):
        schemes.window_rows(written, data, load_alphabet(tmp_path, 32), [8, MUCH])


def test_runs_whose_states_do_not_fit_side_by_side_follow_one_another(random_model):
    model, _ = random_model()
    group = [Cell(str(rank), {}, build_config(RunConfig, {"lora": {"rank": rank}})) for rank in (2, 8, 2, 2, 2)]
    one = needs.state(group[1].config, model)
    assert [len(part) for part in sweep._held(group, model, 2 * one)] == [2, 2, 1]
    assert [len(part) for part in sweep._held(group, model, one // 2)] == [1] * 5
    assert sweep._held(group, model, 100 * one) == [group]


# -------------------------------------------------------------------------------------------------- the memory


def test_the_memory_is_that_of_a_container_if_it_has_less(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "none")
    free = memory.host_memory()
    assert free > 2**20
    monkeypatch.setattr(memory.psutil, "swap_memory", lambda: SimpleNamespace(free=2**60))
    assert memory.host_memory() < 2**60 <= memory.host_memory(swap=True)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\nactive_file 100\n")
    assert abs(memory.host_memory() - free) < 2**30
    (tmp_path / "memory.max").write_text("9000\n")
    assert memory.host_memory() == 9000 - 4000 + 500
    (tmp_path / "memory.max").unlink()
    old = tmp_path / "memory"
    old.mkdir()
    for name, text in (("limit_in_bytes", "7000"), ("usage_in_bytes", "8000"), ("stat", "total_inactive_file 3000\n")):
        (old / f"memory.{name}").write_text(text)
    assert memory.host_memory() == 7000 - 8000 + 3000


def test_a_device_has_its_own_memory(monkeypatch):
    class Gpu:
        platform = "gpu"

        @staticmethod
        def memory_stats() -> dict[str, int]:
            return {"bytes_limit": 1000}

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    monkeypatch.setattr(memory, "host_memory", lambda swap=False: 500)
    assert memory.device_memory(Gpu()) == (1000, "the device's limit")  # type: ignore[arg-type]
    memory.check("work", host={"a": 500}, device={"b": 600, "c": 400})
    with pytest.raises(JaxlvError, match="on the device; lower c"):
        memory.check("work", host={"a": 1}, device={"b": 500, "lower c": 501})
    with pytest.raises(JaxlvError, match="on this machine; lower a"):
        memory.check("work", host={"lower a": 501}, device={"b": 1})
    monkeypatch.setattr(Gpu, "platform", "cpu")
    assert memory.device_memory(Gpu()) == (500, "available now on this machine")  # type: ignore[arg-type]
    with pytest.raises(
        JaxlvError, match=r"work: needs at least 0\.00 GiB of memory, and there are 0\.00 GiB on this machine; b"
    ):
        memory.check("work", host={"a": 200}, device={"b": 301})
    memory.check("work", host={"a": 200}, device={"b": 300})
    monkeypatch.setattr(memory, "host_memory", lambda swap=False: 500 if swap else 300)
    memory.check("work", host={"a": 500})  # slow, but it fits
    assert memory.device_memory(Gpu())[0] == 300  # type: ignore[arg-type]
    with pytest.raises(JaxlvError, match="on this machine; a"):
        memory.check("work", host={"a": 300}, device={"a": 300})


@pytest.mark.parametrize(
    ("accounting", "limit", "fail"), [("0", -1, False), ("2", -1, True), ("1", -1, False), ("0", 10**12, True)]
)
def test_allocations_fail_under_strict_accounting_or_a_limit(accounting, limit, fail, tmp_path, monkeypatch):
    (tmp_path / "overcommit").write_text(f"{accounting}\n")
    monkeypatch.setattr(devices, "OVERCOMMIT", tmp_path / "overcommit")
    monkeypatch.setattr(devices.resource, "getrlimit", lambda kind: (limit, limit))
    assert devices.allocations_fail() == fail
    monkeypatch.setattr(devices, "OVERCOMMIT", tmp_path / "none")
    assert devices.allocations_fail() == (limit != -1)


@pytest.mark.parametrize(
    ("platform", "memory", "runs", "expected"),
    [("cpu", 80, 1, 0), ("gpu", 80, 1, needs.MOST_LOGITS), ("gpu", 4, 1, (4 * 2**30) // (4 * 8)), ("gpu", 0.1, 9, 2**26)],
)
def test_the_loss_holds_what_a_quarter_of_a_device_s_free_memory_holds(
    random_model, monkeypatch, platform, memory, runs, expected
):
    """Float32 logits and their gradient, of each of the runs that train together."""
    (model, _), config = random_model(), build_config(RunConfig, {"train": {"batch_size": 1}, "windows": {"length": 32}})
    device = SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": int(memory * 2**30)})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    found = needs.logits(config, model, runs)
    held = needs.weights(model) + runs * sum(needs.training(config, model).values())
    assert 0 <= expected - found <= held // 32 + 1
