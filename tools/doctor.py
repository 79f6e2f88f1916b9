"""`jaxlv doctor`."""

from __future__ import annotations

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
        return Result(pairs(kernel), here.tree())
    asked = load_config(config, set)
    fit = study.fit(asked)
    return Result(pairs(study.facts(asked, fit, here)), here.tree() | fit.tree(here), study.refused(config, fit, here))


app = verb(doctor, prints=True)
