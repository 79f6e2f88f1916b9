"""The parts of benchmarks.cuda. Each measures one thing and tells it fact by fact.

A call is timed in three ways, warmed up: waited for, one by one; queued behind others, so that the device never idles; and
dispatched, which is the time until the call returns while the device still computes. If queued and dispatched are close, the
host is what limits.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import tables
from benchmarks.common import ROOT, SHAPES
from benchmarks.cuda import NO_DEVICE, Facts, read
from benchmarks.side import SYMBOL_IDS, Unavailable, peak_bytes, random_ids

RANK, ALPHA = 8, 16
WAITED, QUEUED, SECONDS = 7, 10, 3.0  # calls that are waited for; calls queued at least, and for about how long
SIZES = {  # batch, tokens, prompt tokens, steps of a forecast, series of a decode at most, matmul side, copied numbers
    "full": (4, 512, 512, 50, 150, 8192, 1 << 30),
    "tiny": (4, 512, 512, 50, 150, 8192, 1 << 30),
    "smoke": (2, 32, 64, 2, 2, 64, 1 << 12),
}
STACKS = ((1, 0), (9, 0), (9, 3))  # runs in one program, and how many of them are computed side by side (0: all)
SAMPLES = {"full": 20, "tiny": 20, "smoke": 2}
GIB = 2**30


def run(options: argparse.Namespace) -> int:
    """Runs one part in this process; returns the exit code."""
    facts = Facts(options.out, options.inside, options.case)
    try:
        PARTS[options.inside](options, facts)
    except Unavailable as reason:
        facts.tell("absent", reason=str(reason))
        return NO_DEVICE if options.inside == "ceilings" else 0
    return 0


# ------------------------------------------------------------------------------------------------ timing


def timed(call: Callable[[], Any], wait: Callable[[], Any], seconds: float = SECONDS) -> dict[str, Any]:
    """Returns milliseconds of a call that is waited for (each, sorted), dispatched (the least), and queued (the mean)."""
    waited, dispatched = [], []
    for _ in range(2):
        call()
        wait()
    for _ in range(WAITED):
        began = time.perf_counter()
        call()
        dispatched.append(1e3 * (time.perf_counter() - began))
        wait()
        waited.append(1e3 * (time.perf_counter() - began))
    number = max(QUEUED, min(200, int(1e3 * seconds / max(min(waited), 0.1))))
    began = time.perf_counter()
    for _ in range(number):
        call()
    wait()
    queued = 1e3 * (time.perf_counter() - began) / number
    return {"ms_waited": sorted(waited), "ms_dispatched": min(dispatched), "ms_queued": queued, "queued": number}


class Held:
    """The last result of a function, to be waited for."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments, self.result = function, arguments, None

    def call(self) -> None:
        """Dispatches the function."""
        self.result = self.function(*self.arguments)

    def wait(self) -> None:
        """Waits for its last result."""
        import jax

        jax.block_until_ready(self.result)


def device_of(options: argparse.Namespace) -> Any:
    """Returns jax's device; raises Unavailable if there is none of the kind."""
    import jax

    try:
        return jax.devices(options.device)[0]
    except RuntimeError as fault:
        raise Unavailable(" ".join(str(fault).split())[:200]) from None


def memory(device: Any) -> float:
    """Returns the most GiB that were in use on the device, or in this process on a CPU."""
    found = (device.memory_stats() or {}).get("peak_bytes_in_use") if device.platform != "cpu" else None
    return (found or peak_bytes()) / GIB


# ------------------------------------------------------------------------------------------------ what the device can do


def ceilings(options: argparse.Namespace, facts: Facts) -> None:
    """Tells what the device is, and the speed of a product, a copy, a single kernel, and kernels in a loop."""
    import jax
    import jax.numpy as jnp

    device = device_of(options)
    facts.tell("device", **_device(device), **tables.machine(), versions=tables.versions(ROOT), before=_state())
    *_, side, numbers = SIZES[options.shape]
    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in (0, 1))
    product = Held(jax.jit(jnp.matmul), a, b)
    found = timed(product.call, product.wait)
    facts.tell("product", side=side, tflops=2 * side**3 / found["ms_queued"] / 1e9, **found)
    big = jnp.zeros(numbers, jnp.bfloat16)
    copy = Held(jax.jit(lambda x: x + 1), big)
    found = timed(copy.call, copy.wait)
    facts.tell("copy", gib=big.nbytes / GIB, tb_s=2 * big.nbytes / found["ms_queued"] / 1e9, **found)
    small = Held(jax.jit(lambda x: x + 1), jnp.zeros(()))
    facts.tell("kernel", **timed(small.call, small.wait))

    def turn(_: int, x: Any) -> Any:
        return jax.lax.optimization_barrier(jnp.sin(jax.lax.optimization_barrier(x)))

    loop = Held(jax.jit(lambda x: jax.lax.fori_loop(0, 1000, turn, x)), jnp.zeros(()))
    facts.tell("loop", turns=1000, **timed(loop.call, loop.wait, 1.0))


def _device(device: Any) -> dict[str, Any]:
    from jaxlv.flops.targets import DEVICES

    sheet = next((one for one in DEVICES.values() if one.words == device.device_kind), None)
    found = {"kind": device.device_kind, "flags": os.environ.get("XLA_FLAGS", ""), "client": device.client.platform_version}
    return {**found, "sheet_tflops": sheet and sheet.bfloat16 / 1e12, "sheet_tb_s": sheet and sheet.bandwidth / 1e12}


def _state() -> str:
    """Returns clocks, power and use of the device before anything runs, as nvidia-smi says; "" without it."""
    asked = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu,utilization.gpu,memory.used"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(
        map(" = ".join, zip(asked.split(","), map(str.strip, done.stdout.splitlines()[0].split(",")), strict=False))
    )


def weights(options: argparse.Namespace, facts: Facts) -> None:
    """Writes random weights that all parts load, in the type that they compute in."""
    import jax
    import jax.numpy as jnp

    from jaxlv.model.bases import EMBEDDED_BASE
    from jaxlv.model.config import ModelConfig
    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.model.weights import save_pretrained

    device_of(options)
    config = ModelConfig.from_hf({**SHAPES[options.shape].config(), "model_type": "qwen2", "rope_theta": 1e6})
    model = Qwen2(config, jnp.dtype(dtype_of(options)))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda a: a.astype(model.dtype), params)
    folder = options.out / "model"
    shutil.rmtree(folder, ignore_errors=True)
    save_pretrained(folder, model, params)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # its ids are in every vocabulary
        shutil.copy(EMBEDDED_BASE / name, folder / name)
    facts.tell("weights", parameters=sum(leaf.size for leaf in jax.tree.leaves(params)), dtype=dtype_of(options))


def dtype_of(options: argparse.Namespace) -> str:
    """Returns the type in which the parts compute."""
    return "bfloat16" if options.device == "cuda" else "float32"


# ------------------------------------------------------------------------------------------------ training


class Training:
    """The train step that `jaxlv train` runs, with random text, by a config's settings such as "model.attention=xla"."""

    def __init__(self, options: argparse.Namespace, settings: tuple[str, ...] = (), compiler: dict[str, Any] | None = None):
        import jax
        import numpy as np

        import jaxlv
        from jaxlv.flops.counting.launches import launches
        from jaxlv.flops.table import count
        from jaxlv.runs.billing import event_of
        from jaxlv.steps.stack import Stack
        from jaxlv.text.tokens import Windows

        self.device = device_of(options)
        batch, length, *_ = SIZES[options.shape]
        self.config = config_of(options, batch, length, settings)
        chosen = self.config.model
        model, params = jaxlv.load_pretrained(options.out / "model", chosen.dtype, chosen.attention)
        symbols_A = np.array(SYMBOL_IDS) % model.config.vocab_size if chosen.loss == "alphabet" else None
        stack = Stack(model, params, [self.config], symbols_A)
        ids = random_ids(1, batch, length, vocabulary=model.config.vocab_size)
        labels = np.concatenate([ids[..., 1:], np.full_like(ids[..., :1], -1)], -1)
        self.batch = Windows(ids, np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape), labels)
        self.state, self.frozen, self.metrics = stack.state, stack.frozen, None
        self.tokens, self.flops = ids.size, count(event_of(self.config).work(model.config), "exact").total_train_step
        began = time.perf_counter()
        lowered = stack.step().lower(self.state, self.frozen, self.batch)
        self.compiled = lowered.compile(compiler_options=compiler)
        self.compile_s = time.perf_counter() - began
        kernels = launches(self.compiled.as_text()).kernels
        self.kernels = sum(one.times for one in kernels)
        self.bytes = sum(one.bytes * one.times for one in kernels)
        self.call()
        jax.block_until_ready(self.state)
        self.first_loss = self.loss()

    def call(self) -> None:
        """Dispatches a step."""
        self.state, self.metrics = self.compiled(self.state, self.frozen, self.batch)

    def wait(self) -> None:
        """Waits for the last step."""
        import jax

        jax.block_until_ready(self.state)

    def loss(self) -> float:
        """Returns the mean loss of the last step."""
        figures: Any = self.metrics
        return float(figures.loss_sum / figures.tokens)

    def told(self, options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
        """Returns timings with what follows from them."""
        seconds = found["ms_queued"] / 1e3
        peaks = {name: peak for name, peak in peaks_of(options).items() if peak}
        shares = {f"mfu_{name}": self.flops / seconds / peak for name, peak in peaks.items()}
        program = {"flops": self.flops, "kernels": self.kernels, "bytes": self.bytes}
        return {**found, "tokens_s": self.tokens / seconds, "loss": self.first_loss, **program, **shares}


def config_of(options: argparse.Namespace, batch: int, length: int, settings: tuple[str, ...] = ()) -> Any:
    """Returns the config of the benchmark's run, changed by settings."""
    from jaxlv.config import RunConfig, build_config, with_settings

    attention = "cudnn" if options.device == "cuda" and options.shape != "smoke" else "xla"
    tree = {
        "model": {"path": str(options.out / "model"), "dtype": dtype_of(options), "attention": attention},
        "lora": {"rank": RANK, "alpha": float(ALPHA), "head": "frozen"},
        "optimizer": {"learning_rate": 1e-4},
        "train": {"batch_size": batch},
        "windows": {"length": length},
    }
    return with_settings(build_config(RunConfig, tree, where="benchmarks.cuda"), settings)


def peaks_of(options: argparse.Namespace) -> dict[str, float]:
    """Returns FLOP/s of the device: by its data sheet, and as the part "ceilings" has measured it."""
    found = {line["fact"]: line for line in read(options.out) if line["part"] == "ceilings"}
    sheet, product = found.get("device", {}).get("sheet_tflops"), found.get("product", {}).get("tflops")
    return {"sheet": (sheet or 0.0) * 1e12, "measured": (product or 0.0) * 1e12}


def train(options: argparse.Namespace, facts: Facts) -> None:
    """Tells the time of a step, waited for, queued and dispatched, and XLA's plan of its memory."""
    training = Training(options)
    facts.tell("compiled", compile_s=training.compile_s, kernels=training.kernels, bytes=training.bytes)
    facts.tell("step", **training.told(options, timed(training.call, training.wait)))
    plan = training.compiled.memory_analysis()
    facts.tell("memory", planned_gib=plan.temp_size_in_bytes / GIB, peak_gib=memory(training.device))


VARIATIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # settings, and XLA's options
    "attention xla": (("model.attention=xla",), {}),
    "loss over the 13 symbols": (("model.loss=alphabet",), {}),
    "no CUDA graphs": ((), {"xla_gpu_enable_command_buffer": ""}),
    "products not merged": ((), {"xla_gpu_dot_merger_threshold_mb": 0}),
    "cuBLAS alone": ((), {"xla_gpu_enable_triton_gemm": False}),
    "attention blocked": (("model.attention=blocked",), {}),
    "layers recomputed": (("model.remat=true",), {}),
    "no autotuning": ((), {"xla_gpu_autotune_level": 0}),
}


def variations(options: argparse.Namespace, facts: Facts) -> None:
    """Compares the step with variations of it in one process: the two take turns, and their losses are told."""
    from jaxlv.errors import JaxlvError

    base = Training(options)
    for name, (settings, compiler) in VARIATIONS.items():
        try:
            other = Training(options, settings, compiler)
        except JaxlvError as fault:  # a setting that this version does not have, or a kernel that the device does not
            facts.tell("variation", name=name, absent=str(fault))
            continue
        pairs = []
        for _ in range(5):
            both = [timed(one.call, one.wait, 0.3)["ms_queued"] for one in (base, other)]
            pairs.append(both)
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        ours, theirs = (min(pair[i] for pair in pairs) for i in (0, 1))
        losses = {"loss": base.first_loss, "loss_varied": other.first_loss}
        kernels = {"kernels": base.kernels, "kernels_varied": other.kernels}
        facts.tell("variation", name=name, ms=ours, ms_varied=theirs, ratios=ratios, **losses, **kernels)
        del other


def loop(options: argparse.Namespace, facts: Facts) -> None:
    """Compares a run's seconds per step, with batches, metrics and a ledger, with the step alone."""
    import numpy as np

    import jaxlv
    from jaxlv.config import with_settings
    from jaxlv.runs import sources, training

    alone = Training(options)
    found = timed(alone.call, alone.wait)
    facts.tell("alone", **found)
    steps = 120 if options.shape != "smoke" else 12
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(16, 160, 2)), 1) + 50.0
    for name, budget in (("no budget", ()), ("a budget", ("budget.flops=1e30",))):
        folder = options.out / f"run-{name.split()[0]}"
        shutil.rmtree(folder, ignore_errors=True)
        how = (
            f"train.steps={steps}",
            "train.validate_every=0",
            "train.log_every=1",
            "windows.context_steps=[8,20]",
            *budget,
        )
        config = with_settings(alone.config, how)
        inputs = sources.load_inputs(config, given=jaxlv.load_series(values))
        took: list[float] = []
        watch = training.Watch(on_step=lambda step, figures, took=took: took.append(figures["seconds"]))  # type: ignore[misc]
        began = time.perf_counter()
        training.train(config, folder, inputs=inputs, watch=watch)
        half = sorted(1e3 * one for one in took[len(took) // 2 :])
        whole = 1e3 * sum(took[len(took) // 2 :]) / len(half)
        facts.tell("run", name=name, steps=steps, ms=whole, ms_median=half[len(half) // 2], s=time.perf_counter() - began)


def stack(options: argparse.Namespace, facts: Facts) -> None:
    """Compares nine runs as one program with one run."""
    import jax
    import numpy as np

    import jaxlv
    from jaxlv.config import with_settings
    from jaxlv.steps.stack import Stack
    from jaxlv.text.tokens import Windows

    device = device_of(options)
    batch, length, *_ = SIZES[options.shape]
    plain = config_of(options, batch, length)
    configs = [
        with_settings(plain, (f"lora.rank={rank}", f"optimizer.learning_rate={rate}"))
        for rank in (8, 4, 2) for rate in (1e-5, 5e-5, 1e-4)
    ]  # fmt: skip
    model, params = jaxlv.load_pretrained(options.out / "model", plain.model.dtype, plain.model.attention)
    ids = random_ids(1, batch, length, vocabulary=model.config.vocab_size)
    labels = np.concatenate([ids[..., 1:], np.full_like(ids[..., :1], -1)], -1)
    data = Windows(ids, np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape), labels)
    for runs, at_once in STACKS:
        stacked = Stack(model, params, configs[:runs])
        step, windows = stacked.step(at_once), stacked.batch([data] * runs)
        held: dict[str, Any] = {"state": stacked.state}

        def call(held: Any = held, step: Any = step, frozen: Any = stacked.frozen, windows: Any = windows) -> None:
            held["state"], _ = step(held["state"], frozen, windows)

        began = time.perf_counter()
        call()
        jax.block_until_ready(held["state"])
        first = time.perf_counter() - began
        found = timed(call, lambda held=held: jax.block_until_ready(held["state"]), 1.5)  # type: ignore[misc]
        facts.tell("stack", runs=runs, at_once=at_once, first_s=first, peak_gib=memory(device), **found)


# ------------------------------------------------------------------------------------------------ generation


def decode(options: argparse.Namespace, facts: Facts) -> None:
    """Tells how long forecasts of so many series take, 20 samples each, over the number grammar."""
    import jax
    import numpy as np

    import jaxlv
    from jaxlv.config import SamplingConfig
    from jaxlv.steps.generate import Decoding, generate
    from jaxlv.steps.prompts import Prompts
    from jaxlv.text.grammar import longest_step, number_grammar
    from jaxlv.text.tokens import Alphabet

    device = device_of(options)
    _, _, prompt, steps, most, *_ = SIZES[options.shape]
    series, samples = min(int(options.case), most), SAMPLES[options.shape]
    chosen = config_of(options, 1, prompt).model
    model, params = jaxlv.load_pretrained(options.out / "model", chosen.dtype, chosen.attention)
    vocabulary = model.config.vocab_size
    alphabet = Alphabet(np.array(SYMBOL_IDS, np.int32) % vocabulary, (), "benchmark")
    prompts = Prompts(list(random_ids(series, prompt - 12, vocabulary=vocabulary)))
    how = Decoding(samples, steps * longest_step(2, 2, 2), SamplingConfig(), steps)
    made: Any = None

    def call(seed: int) -> float:
        nonlocal made
        began = time.perf_counter()
        made = generate(model, {"params": params}, prompts, alphabet, how, seed, number_grammar(2, 2, 2))
        return time.perf_counter() - began

    facts.tell("first", seconds=call(0), rows=series * samples)
    took = sorted(call(seed) for seed in (1, 2, 3))
    tokens, turns = int(made.lengths_SN.sum()), made.iterations
    figures = {"turns": turns, "ms_a_turn": 1e3 * took[0] / turns, "tokens": tokens, "tokens_s": tokens / took[0]}
    facts.tell("decode", rows=series * samples, seconds=took, peak_gib=memory(device), **figures)
    jax.clear_caches()


# ------------------------------------------------------------------------------------------------ others


def torch(options: argparse.Namespace, facts: Facts) -> None:
    """Tells the time of the same step by transformers and PEFT on the same weights, with SDPA or torch.compile."""
    from benchmarks.side import start_torch

    settings = {"device": options.device, "dtype": dtype_of(options), "threads": os.cpu_count() or 1}
    torch, base, _ = start_torch({**settings, "folder": str(options.out / "model")})
    import peft

    batch, length, *_ = SIZES[options.shape]
    adapters = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    model = peft.get_peft_model(base, adapters).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()  # as jaxlv's
    optimizer = torch.optim.Adam(trained, lr=1e-4, fused=options.device == "cuda")
    forward = torch.compile(model) if options.case == "compile" else model
    ids = random_ids(batch, length, vocabulary=base.config.vocab_size)
    ids = torch.tensor(ids, dtype=torch.int64, device=options.device)
    losses: list[Any] = []

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses[:] = losses[:1] or [loss.detach()]

    cuda = options.device == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    began = time.perf_counter()
    call()
    wait()
    first = {"first_s": time.perf_counter() - began, "loss": float(losses[0]), "torch": torch.__version__}
    facts.tell("first", **first, attention=base.config._attn_implementation)
    found = timed(call, wait)
    peak = torch.cuda.max_memory_allocated() if cuda else peak_bytes()
    rate = batch * length / found["ms_queued"] * 1e3
    facts.tell("step", **found, tokens_s=rate, peak_gib=peak / GIB, loss=first["loss"])


# ------------------------------------------------------------------------------------------------ kernels


def profile(options: argparse.Namespace, facts: Facts) -> None:
    """Tells the time of the step's kernels, by kind and by name. XLA launches no CUDA graphs while it is profiled."""
    import jax

    training = Training(options)
    for _ in range(3):
        training.call()
    training.wait()
    steps, folder = 3, options.out / "trace"
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            training.call()
        training.wait()
    (path,) = sorted(folder.rglob("*.xplane.pb"))[-1:]
    events = list(_events(jax.profiler.ProfileData.from_file(str(path)), options.device))
    by_kind: dict[str, list[float]] = {}
    by_name: dict[str, list[float]] = {}
    for name, ms in events:
        by_kind.setdefault(kind_of(name), []).append(ms)
        by_name.setdefault(name.rstrip("0123456789_."), []).append(ms)
    for told, groups, most in (("kind", by_kind, 20), ("kernel", by_name, 40)):
        for name, times in sorted(groups.items(), key=lambda pair: -sum(pair[1]))[:most]:
            facts.tell(told, name=name[:80], ms_a_step=sum(times) / steps, number=len(times) / steps)
    facts.tell("all kernels", ms_a_step=sum(ms for _, ms in events) / steps, number=len(events) / steps)


def _events(found: Any, device: str) -> Iterator[tuple[str, float]]:
    """Yields (name, milliseconds) of every kernel in a profile; on a CPU, of what XLA's threads run."""
    places = ("GPU", "Stream") if device == "cuda" else ("CPU", "XLA")
    lines = [line for plane in found.planes if places[0] in plane.name for line in plane.lines if places[1] in line.name]
    for event in itertools.chain.from_iterable(line.events for line in lines):
        if not event.name.startswith(("ThunkExecutor", "end: ")):
            yield event.name, event.duration_ns / 1e6


KINDS = {
    "attention": ("fmha", "flash", "sdpa", "attention"),
    "product": ("gemm", "cutlass", "cublas", "nvjet", "dot", "xmma"),
    "copy": ("memcpy", "copy", "transpose", "concatenate", "slice", "memset"),
    "reduction": ("reduce",),
}


def kind_of(name: str) -> str:
    """Returns the kind of a kernel by its name."""
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in low for part in parts)), "elementwise")


def audit(options: argparse.Namespace, facts: Facts) -> None:
    """Compares formulas and compiled programs on the device, for each attention kernel, at a small shape."""
    from jaxlv.flops import audit as audits
    from jaxlv.flops.subjects import of_work
    from jaxlv.flops.targets import cpu, cuda
    from jaxlv.flops.work import Work
    from jaxlv.model.config import ModelConfig

    device_of(options)
    on_device = options.device == "cuda"
    config = ModelConfig(512, 256, 192, 2, 4, 2, 64, tie_word_embeddings=True)
    for kernel in ("cudnn", "xla", "blocked") if on_device else ("xla",):
        work = Work(config, 2, 256, 8, kernel=kernel, dtype=dtype_of(options))
        for found in audits.audit(of_work(work), target=cuda() if on_device else cpu()):
            failed = [gate for gate, holds in found.gates.items() if not holds]
            facts.tell("audit", kernel=kernel, program=found.name, passed=found.passed, failed=failed, doubts=found.doubts)


PARTS: dict[str, Callable[[argparse.Namespace, Facts], None]] = {
    "ceilings": ceilings, "weights": weights, "train": train, "decode": decode, "torch": torch, "profile": profile,
    "loop": loop, "stack": stack, "variations": variations, "audit": audit,
}  # fmt: skip
