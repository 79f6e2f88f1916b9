"""`jaxlv doctor`."""

from __future__ import annotations

import dataclasses

from jaxlv.tools.console import Result, pairs, say, verb
from jaxlv.tools.options import ConfigOrNone, Settings


def doctor(config: ConfigOrNone = None, /, *, set: Settings = ()) -> Result:
    """Print versions, devices, memory, which attention would run, and whether a config fits, with memory and time.

    The memory estimate is XLA's own, for the compiled training step at the config's shapes, plus weights; compiling takes as
    long as the first step of a run. The time estimate is a measured matrix-product rate times the step's products.

        jaxlv doctor
        jaxlv doctor demo --set train.batch_size=32

    Args:
        config: run as TOML, or the name of a config that comes with jaxlv; only versions and devices if not given
    """
    from jaxlv.config import load_config
    from jaxlv.studies import doctor as study

    here = study.machine()
    say(pairs(here.facts))
    if config is None:
        kernel = {"attention": f"{study.KERNELS['xla']} (model.attention names another)"}
        return Result(pairs(kernel), dataclasses.asdict(here))
    asked = load_config(config, set)
    fit = study.fit(asked)
    told = {
        "attention": asked.model.attention, "step_bytes": dataclasses.asdict(fit.memory), "step_flops": fit.flops,
        "flops_per_second": fit.rate, "least_seconds_per_step": fit.seconds, "fits": fit.memory.total <= here.memory,
    }  # fmt: skip
    return Result(pairs(study.facts(asked, fit, here)), dataclasses.asdict(here) | told, study.refused(config, fit, here))


app = verb(doctor, prints=True)
