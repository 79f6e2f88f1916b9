"""What a side runs in its own process: one library doing one piece of work, a repetition at a time."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SYMBOL_IDS = (15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 13, 11, 26)  # "0123456789.,;" in Qwen2.5's vocabulary


class Unavailable(Exception):
    """This side cannot run on this machine; the message says why."""


class Work(NamedTuple):
    """A side that is ready; `run` returns when its work is done on the device."""

    run: Callable[[], Any]
    facts: dict[str, Any]
    after: Callable[[], dict[str, Any]] = dict  # returns the facts known at the end


Sides = Mapping[str, Callable[[dict[str, Any]], Work]]  # by name; each makes its work from the case's settings


def serve(sides: Sides, job: str) -> None:
    """Sets up the side that the parent asked for, then runs once per "run" on stdin; answers are lines of JSON."""
    settings = json.loads(job)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    _take_threads(settings["threads"])
    try:
        work = sides[settings["side"]](settings)
    except Unavailable as reason:
        answer(unavailable=str(reason))
        return
    answer(**work.facts, first_seconds=timed(work.run)[1])
    for line in sys.stdin:
        if line.strip() != "run":
            break
        before = _cpu_seconds()
        seconds = timed(work.run)[1]
        everyone, own = (after - start for after, start in zip(_cpu_seconds(), before, strict=True))
        answer(seconds=seconds, cpu_seconds=own, others=max(0.0, everyone - own) / (seconds * (os.cpu_count() or 1)))
    answer(peak_bytes=peak_bytes(), **work.after())


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Returns (what `run` returned, seconds)."""
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def _cpu_seconds() -> tuple[float, float]:
    """Returns the CPU seconds that (all processes, this process) have used; without /proc both are this process's."""
    own = time.process_time()
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return own, own
    user, nice, system, _idle, _wait, interrupts, soft, steal = (int(field) for field in fields[:8])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK"), own


def _take_threads(count: int) -> None:
    """Limits the CPUs of this process: XLA sizes its thread pool by them, PyTorch by OMP_NUM_THREADS (set by the parent)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def peak_bytes() -> int:
    """Returns the most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def random_ids(*shape: int, vocabulary: int) -> Any:
    """Returns random text over the 13 symbols as token ids, the same for every side."""
    import numpy as np

    return np.array(SYMBOL_IDS, np.int32)[np.random.default_rng(0).integers(len(SYMBOL_IDS), size=shape)] % vocabulary


def start_jax(settings: Mapping[str, Any]) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Returns (jax's device, jaxlv's model, its params with the case's weights, facts).

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
    """Returns (torch, the transformers model with the case's weights on the chosen device, facts)."""
    try:
        import peft  # noqa: F401
        import torch
        import transformers
    except ImportError as absent:
        raise Unavailable(str(absent)) from None
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch has no cuda here")
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, settings["dtype"])
    model = transformers.Qwen2ForCausalLM.from_pretrained(settings["folder"], dtype=dtype, local_files_only=True)
    return torch, model.to(settings["device"]), {"loaded_bytes": peak_bytes()}


def jax_work(device: Any, run: Callable[[], Any], facts: dict[str, Any], losses: Sequence[float] = ()) -> Work:
    """Returns `run` with the facts about jax's device and the loss of its first step."""
    if device.platform == "cpu":
        return Work(run, facts, lambda: _first(losses))

    def after() -> dict[str, Any]:
        return _first(losses) | {"device_peak_bytes": device.memory_stats()["peak_bytes_in_use"]}

    return Work(run, {**facts, "accelerator": device.device_kind}, after)


def torch_work(
    torch: Any, settings: Mapping[str, Any], run: Callable[[], Any], facts: dict[str, Any], losses: Sequence[float] = ()
) -> Work:
    """Returns `run`, which waits for torch's device, with the facts about the device and the loss of its first step."""
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
    """Writes the case's random weights, by transformers' save_pretrained, or by jaxlv's if PyTorch is not installed."""
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

    from jaxlv.model.config import ModelConfig
    from jaxlv.model.qwen2 import Qwen2
    from jaxlv.model.weights import save_pretrained

    model = Qwen2(ModelConfig.from_hf({**config, "model_type": "qwen2", "rope_theta": 1e6}))
    save_pretrained(folder, model, model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
