"""`jaxlv doctor`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxlv.errors import JaxlvError
from jaxlv.memory import GIB
from jaxlv.tools.console import Result, say, start, verb
from jaxlv.tools.options import ConfigOrNone, Settings

if TYPE_CHECKING:
    from jaxlv.config import RunConfig
    from jaxlv.studies.doctor import Fit, Machine

KERNELS = {
    "xla": "XLA's own kernels (jaxlv.model.attention.attend)",
    "blocked": "XLA's own kernels, block by block (training and prefill; decoding runs on xla)",
    "cudnn": "cuDNN's fused kernel (training and prefill; decoding runs on xla)",
}


def doctor(config: ConfigOrNone = None, /, *, set: Settings = ()) -> Result:
    """Print versions, devices, memory, which attention would run, and whether a config fits, with memory and time.

    The memory estimate is XLA's own, of the compiled training step at the config's shapes, plus weights; compiling it takes
    as long as the first step of a run. The time estimate is a measured matrix-product rate times the step's products.

        jaxlv doctor
        jaxlv doctor demo --set train.batch_size=32

    Parameters
    ----------
    config
        run as TOML, or the name of a config that comes with jaxlv; only versions and devices if not given
    """
    from jaxlv.config import load_config
    from jaxlv.studies import doctor as study

    here = study.machine()
    say("\n".join(line(*one) for one in {**here.versions, **devices(here)}.items()))
    tree: dict[str, Any] = dataclasses.asdict(here)
    if config is None:
        return Result(line("attention", f"{KERNELS['xla']} (model.attention names another)"), tree)
    asked = load_config(config, set)
    fit = study.fit(asked)
    total, fault = fit.memory.total, None
    lines = fit_lines(asked, fit)
    if total <= here.memory:
        lines.append(line("verdict", f"fits: {total / here.memory:.0%} of the memory"))
    else:
        fault = JaxlvError(
            "the config does not fit",
            where=config,
            expected=f"at most {here.memory / GIB:.1f} GiB",
            found=f"{total / GIB:.1f} GiB",
            hint="lower train.batch_size (raise train.accumulate), windows.length, or use model.dtype bfloat16",
        )
    told = {
        "attention": asked.model.attention, "step_bytes": dataclasses.asdict(fit.memory), "step_flops": fit.flops,
        "flops_per_second": fit.rate, "least_seconds_per_step": fit.seconds, "fits": fault is None,
    }  # fmt: skip
    return Result("\n".join(lines), tree | told, fault)


def line(name: str, words: str) -> str:
    """Returns a line of what is printed."""
    return f"{name:<18} {words}"


def devices(here: Machine) -> dict[str, str]:
    """Returns the devices and their memory in words."""
    return {"devices": ", ".join(here.devices), "memory": f"{here.memory / GIB:.1f} GiB, {here.memory_origin}"}


def fit_lines(config: RunConfig, fit: Fit) -> list[str]:
    """Returns what a training step takes, in words."""
    memory, minutes = fit.memory, fit.seconds * config.train.steps / 60
    parts = f"weights {memory.weights / GIB:.2f}, adapters, optimiser {memory.trained / GIB:.3f}"
    return [
        line("attention", KERNELS[config.model.attention]),
        line("training step", f"{memory.total / GIB:.2f} GiB: {parts}, temporaries {memory.temporaries / GIB:.2f}"),
        line("matrix products", f"{fit.rate / 1e9:,.0f} GFLOP/s measured ({config.model.dtype})"),
        line("time", f"at least {fit.seconds:.2f} s a step, {minutes:.1f} minutes for {config.train.steps} steps (matrix "
             "products alone; small models take several times that)"),
    ]  # fmt: skip


app = verb(doctor, prints=True)

if __name__ == "__main__":
    start(app)
