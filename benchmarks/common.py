"""What the benchmarks share: shapes, weights, one subprocess per side, interleaved repetitions, results as files.

A side is one library doing one piece of work in a process of its own, so that thread pools, allocators and peak memory do
not mix. All sides of a case are loaded and warmed up first; then they take turns (A B C A B C ...), so that whatever slows
the machine down for a while slows all of them, and a ratio is taken turn by turn.

The parent imports neither jax nor torch: a child's ru_maxrss starts at its parent's size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "peft", "numpy")
SYMBOL_IDS = (15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 13, 11, 26)  # "0123456789.,;" in Qwen2.5's vocabulary
TIE = 1.15  # ratios closer to 1 than this are called ties
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5 architecture with a tied head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocabulary: int = 151_936
    repeats: int = 7  # timed repetitions

    def config(self) -> dict[str, Any]:
        """The fields of config.json."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.ff,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
        }


SHAPES = {
    "full": Shape(896, 24, 14, 2, 4864, repeats=3),  # Qwen2.5-0.5B: 494,032,768 parameters
    "tiny": Shape(256, 6, 4, 2, 1024),
    "micro": Shape(128, 4, 4, 2, 384),
    "smoke": Shape(32, 2, 4, 2, 64, vocabulary=64, repeats=2),  # for the tests: no figure of it means anything
}


@dataclass(frozen=True)
class Case:
    """One row of work: a shape and what is done with it; `tokens` are those that a repetition trains on or generates."""

    shape: str
    work: str
    tokens: int
    settings: Mapping[str, int]


class Unavailable(Exception):
    """This side cannot run on this machine; the message says why."""


class Work(NamedTuple):
    """A side ready to run; `run` returns when its work is done on the device."""

    run: Callable[[], Any]
    facts: dict[str, Any]
    after: Callable[[], dict[str, Any]] = dict  # facts known at the end


Sides = Mapping[str, Callable[[dict[str, Any]], Work]]  # by name; each makes its work from the case's settings


# --------------------------------------------------------------------------------------------- inside a side


def serve(sides: Sides, job: str) -> None:
    """Be the side that the parent asked for: set up, then run once per "run" on stdin; answers are lines of JSON."""
    settings = json.loads(job)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    _take_threads(settings["threads"])
    try:
        work = sides[settings["side"]](settings)
    except (Unavailable, ImportError) as reason:
        answer(unavailable=str(reason))
        return
    answer(**work.facts, first_seconds=timed(work.run)[1])
    for line in sys.stdin:
        if line.strip() != "run":
            break
        answer(seconds=timed(work.run)[1])
    answer(peak_bytes=peak_bytes(), **work.after())


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """(what `run` returned, seconds)."""
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def _take_threads(count: int) -> None:
    """XLA sizes its thread pool by the CPUs it may run on, PyTorch by OMP_NUM_THREADS (set by the parent)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def random_ids(*shape: int, vocabulary: int) -> Any:
    """Random text over the 13 symbols as token ids, the same for every side."""
    import numpy as np

    return np.array(SYMBOL_IDS, np.int32)[np.random.default_rng(0).integers(len(SYMBOL_IDS), size=shape)] % vocabulary


def start_jax(settings: Mapping[str, Any]) -> tuple[Any, Any, Any, dict[str, Any]]:
    """(jax's device, jaxlv's model and params with the case's weights on it, facts).

    On an accelerator float32 products are made in float32, as in PyTorch's default, not in TF32.
    """
    import jax

    import jaxlv

    try:
        device = jax.devices(settings["device"])[0]
    except RuntimeError as fault:
        raise Unavailable(f"jax has no {settings['device']} here ({str(fault).splitlines()[0]})") from None
    if settings["device"] != "cpu" and settings["dtype"] == "float32":
        jax.config.update("jax_default_matmul_precision", "float32")
    model, params = jaxlv.load_pretrained(settings["folder"], settings["dtype"], settings["attention"])
    return device, model, params, {"loaded_bytes": peak_bytes()}


def start_torch(settings: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """(torch, the transformers model with the case's weights on the device that was asked for, facts)."""
    import torch
    import transformers

    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch has no cuda here")
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, settings["dtype"])
    model = transformers.Qwen2ForCausalLM.from_pretrained(settings["folder"], dtype=dtype, local_files_only=True)
    return torch, model.to(settings["device"]), {"loaded_bytes": peak_bytes()}


def jax_work(device: Any, run: Callable[[], Any], facts: dict[str, Any], losses: Sequence[float] = ()) -> Work:
    """`run` with the facts of jax's device, and the loss of its first step."""
    if device.platform == "cpu":
        return Work(run, facts, lambda: _first(losses))
    peak = lambda: {"device_peak_bytes": device.memory_stats()["peak_bytes_in_use"]}  # noqa: E731
    return Work(run, {**facts, "accelerator": device.device_kind}, lambda: _first(losses) | peak())


def torch_work(
    torch: Any, settings: Mapping[str, Any], run: Callable[[], Any], facts: dict[str, Any], losses: Sequence[float] = ()
) -> Work:
    """`run`, waited for, with the facts of torch's device, and the loss of its first step."""
    if settings["device"] == "cpu":
        return Work(run, facts, lambda: _first(losses))

    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize()

    def after() -> dict[str, Any]:
        return _first(losses) | {"device_peak_bytes": torch.cuda.max_memory_allocated()}

    return Work(run_and_wait, {**facts, "accelerator": torch.cuda.get_device_name()}, after)


def _first(losses: Sequence[float]) -> dict[str, Any]:
    return {"first_loss": losses[0]} if losses else {}


def make_weights(settings: dict[str, Any]) -> Work:
    """The side that writes the case's random weights: by transformers' save_pretrained, without PyTorch by jaxlv's."""
    folder, config = Path(settings["folder"]), settings["config"]
    try:
        import torch
    except ImportError:
        _weights_by_jaxlv(folder, config)
        return Work(lambda: None, {"weights": "jaxlv"})
    import transformers

    torch.manual_seed(0)
    theta = {"rope_theta": 1e6, "rope_type": "default"}
    architecture = transformers.Qwen2Config(**config, rope_parameters=theta, use_sliding_window=False)
    transformers.utils.logging.disable_progress_bar()
    transformers.Qwen2ForCausalLM(architecture).save_pretrained(folder)
    return Work(lambda: None, {"weights": "transformers"})


def _weights_by_jaxlv(folder: Path, config: dict[str, Any]) -> None:
    import jax
    import jax.numpy as jnp

    from jaxlv.config import ModelConfig
    from jaxlv.model import Qwen2
    from jaxlv.weights import save_pretrained

    model = Qwen2(ModelConfig.from_hf({**config, "model_type": "qwen2", "rope_theta": 1e6}))
    save_pretrained(folder, model, model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])


# ------------------------------------------------------------------------------------------------ the parent


class Side:
    """The parent's end of a side's process; it is loaded and has run once when this returns."""

    def __init__(self, module: str, settings: Mapping[str, Any]):
        self.name, self.seconds = settings["side"], []
        environment = os.environ | {
            "JAX_PLATFORMS": settings["device"],
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # compile times are of a first run
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two processes share the accelerator
            "OMP_NUM_THREADS": str(settings["threads"]),
            "TRANSFORMERS_VERBOSITY": "error",
        }
        command = [sys.executable, "-m", module, "--side", json.dumps(settings)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        self.facts = self._answer()

    def run(self, timed: bool = True) -> None:
        """One repetition; its seconds are kept if `timed`."""
        self._say("run")
        seconds = self._answer()["seconds"]
        if timed:
            self.seconds.append(seconds)

    def finish(self) -> None:
        """End the process; its facts then hold its peak memory."""
        if "unavailable" not in self.facts:
            self._say("end")
            self.facts |= self._answer()
        self.close()

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            raise SystemExit(f"{self.name} ended before its work was done (see above)")
        return json.loads(line)


def measure(module: str, case: Case, sides: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row: every side's figures on one case, and the ratios of jaxlv's sides to PyTorch."""
    shape = SHAPES[case.shape]
    settings = {**case.settings, "shape": case.shape, "vocabulary": shape.vocabulary, "folder": str(folder)}
    settings |= {name: getattr(options, name) for name in ("device", "dtype", "threads", "attention")}
    running: list[Side] = []
    try:
        for name in sides:
            running.append(Side(module, settings | {"side": name}))
        able = [side for side in running if "unavailable" not in side.facts]
        for turn in range(1 + (options.repeats or shape.repeats)):  # the first turn warms up, as each side's first run did
            for side in able:
                side.run(timed=turn > 0)
        for side in running:
            side.finish()
    finally:
        for side in running:
            side.close()
    figures = {side.name: _figures(side, case) for side in running}
    return {"shape": case.shape, "work": case.work, "tokens": case.tokens, "sides": figures, "ratios": ratios(figures)}


def _figures(side: Side, case: Case) -> dict[str, Any]:
    if not side.seconds:
        return side.facts
    facts = dict(side.facts)
    median = statistics.median(side.seconds)
    first = facts.pop("first_seconds")
    if side.name != "torch":
        facts.setdefault("compile_seconds", max(first - median, 0.0))
    peaks = {name.replace("_bytes", "_gib"): facts.pop(name) / GIB for name in sorted(facts) if name.endswith("_bytes")}
    speed = {"seconds": side.seconds, "tokens_per_second": case.tokens / median}
    return rounded({**speed, **peaks, **facts})


def ratios(figures: Mapping[str, Mapping[str, Any]], against: str = "torch") -> dict[str, dict[str, float]]:
    """Per side: median, least and greatest of its speed over PyTorch's, repetition by repetition."""
    base = figures.get(against, {}).get("seconds")
    found = {}
    for name, side in figures.items():
        if base and name != against and "seconds" in side:
            pairs = [theirs / ours for theirs, ours in zip(base, side["seconds"], strict=True)]
            found[name] = rounded({"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)})
    return found


def rounded(tree: Any, digits: int = 4) -> Any:
    """Floats to so many significant digits."""
    if isinstance(tree, float):
        return float(f"{tree:.{digits}g}")
    if isinstance(tree, Mapping):
        return {key: rounded(value, digits) for key, value in tree.items()}
    return [rounded(value, digits) for value in tree] if isinstance(tree, list) else tree


# ------------------------------------------------------------------------------------------ the whole program


def parser(description: str, defaults: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Shapes: {'; '.join(f'{name} = {_spelt(shape)}' for name, shape in SHAPES.items())}.",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made.add_argument("--shapes", default=defaults, help=f"which, with commas between (default {defaults})")
    made.add_argument("--repeats", type=int, help="timed repetitions of each side (default 7; full shape 3)")
    made.add_argument("--quick", action="store_true", help="tiny and micro alone, 2 repetitions, nothing written without --out")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and products")
    made.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="jaxlv's attention (cudnn: bfloat16 on cuda)")
    made.add_argument("--threads", type=int, default=cores, help="CPU threads of each side (default: all cores)")
    made.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    made.add_argument("--side", help=argparse.SUPPRESS)  # how the program calls itself for one side
    return made


def _spelt(shape: Shape) -> str:
    heads = f"{shape.heads} heads, {shape.kv_heads} KV"
    return f"hidden {shape.hidden}, {shape.layers} layers, {heads}, ff {shape.ff}, vocabulary {shape.vocabulary} tied"


def main(
    module: str,
    made: argparse.ArgumentParser,
    sides: Sides,
    cases: Sequence[Case],
    argv: Sequence[str] | None = None,
) -> None:
    """Run the benchmark `module` ("benchmarks.train_step") over the cases of the shapes asked for; write and print."""
    options = made.parse_args(argv)
    if options.side:
        serve({**sides, "weights": make_weights}, options.side)
        return
    if options.quick:
        options.shapes = ",".join(s for s in options.shapes.split(",") if s != "full")
        options.repeats = options.repeats or 2
    names = options.shapes.split(",")
    for name in names:
        if name not in SHAPES:
            made.error(f"--shapes {name}: no such shape; there are {', '.join(SHAPES)}")
    result = {
        "program": module,
        "command": " ".join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)]),
        "settings": {key: getattr(options, key) for key in ("device", "dtype", "attention", "threads")},
        "machine": machine(),
        "versions": versions(),
        "rows": [],
    }
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="jaxlv-bench-"))
        try:
            result["weights"] = _write_weights(module, SHAPES[name], folder / "model", options)
            for case in (case for case in cases if case.shape == name):
                print(f"{case.shape} {case.work} ...", file=sys.stderr, flush=True)
                result["rows"].append(measure(module, case, list(sides), options, folder / "model"))
        finally:
            shutil.rmtree(folder)
    found = {f["accelerator"] for row in result["rows"] for f in row["sides"].values() if "accelerator" in f}
    result["machine"]["accelerator"] = ", ".join(sorted(found)) or "none"
    publish(result, options)


def _write_weights(module: str, shape: Shape, folder: Path, options: argparse.Namespace) -> str:
    settings = {"side": "weights", "device": "cpu", "threads": options.threads, "folder": str(folder)}
    side = Side(module, settings | {"config": shape.config()})
    side.finish()
    if "unavailable" in side.facts:
        raise SystemExit(f"no weights: {side.facts['unavailable']}")
    return side.facts["weights"]


def machine() -> dict[str, Any]:
    """The kind of machine, and how busy it was at the start."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of the libraries and the commit of this project; "+" marks changes to jaxlv/ since."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        found["jaxlv"] = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "jaxlv") else "")
    except (OSError, subprocess.CalledProcessError):
        found["jaxlv"] = "no git checkout"
    return found


# ------------------------------------------------------------------------------------------------ the results


def publish(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the table; write it and the figures as NAME-PLATFORM.md and .json."""
    text = markdown(result)
    print(text)
    if options.quick and not options.out:
        return
    folder = options.out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    kind = options.device if options.dtype == "float32" else f"{options.device}-{options.dtype}"
    path = folder / f"{result['program'].rpartition('.')[2]}-{kind}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a table, with the command and the machine above it."""
    head = ("shape", "work", "side", "tokens/s", "x PyTorch (least-most)", "peak GiB", "after loading", "compile s")
    lines = [f"`{result['command']}`", "", _setting(result), "", _row(head), _row(["---"] * len(head))]
    for row in result["rows"]:
        for name, side in row["sides"].items():
            lines.append(_row([row["shape"], row["work"], *_cells(name, side, row["ratios"].get(name))]))
    return "\n".join(lines)


def _setting(result: Mapping[str, Any]) -> str:
    where, used = result["machine"], result["settings"]
    device = "" if where["accelerator"] == "none" else f", {where['accelerator']}"
    parts = [f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB{device}"]
    parts.append(f"{used['device']}, {used['dtype']}, {used['threads']} threads a side")
    parts.append(f"load before the start {where['load_before']}")
    parts.append(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    return "; ".join(parts) + f"; random weights by {result['weights']}."


def _cells(name: str, side: Mapping[str, Any], ratio: Mapping[str, float] | None) -> list[str]:
    if "unavailable" in side:
        return [name, f"not measured: {side['unavailable']}", "", "", "", ""]
    speed = "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
    if ratio and 1 / TIE < ratio["median"] < TIE:
        speed += " tie"
    return [
        name,
        f"{side['tokens_per_second']:,.0f}" if side["tokens_per_second"] >= 100 else f"{side['tokens_per_second']:.1f}",
        speed,
        f"{side.get('device_peak_gib', side['peak_gib']):.2f}",
        f"{side['loaded_gib']:.2f}",
        f"{side['compile_seconds']:.1f}" if "compile_seconds" in side else "",
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

