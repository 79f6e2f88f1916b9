"""`jaxlv doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.settings import Between
from jaxlv.tools.bounds import number, whole
from jaxlv.tools.console import Result, pairs, say, verb
from jaxlv.tools.options import ConfigOrNone, Settings, idle

MEMORY = 80.0  # GB


def doctor(
    config: ConfigOrNone = None,
    /,
    *,
    set: Settings = (),
    devices: Annotated[int, whole(1, 4096)] = 0,
    memory: Annotated[float, number(float, Between(0, 1e6, above=True))] = MEMORY,
) -> Result:
    """Print versions, devices, memory, which attention would run, and whether a config fits, with memory and time.

    The memory estimate is XLA's own, for the compiled training step at the config's shapes, plus weights; compiling takes as
    long as the first step of a run. The time estimate is a measured matrix-product rate times the step's products.

        jaxlv doctor
        jaxlv doctor demo --set train.batch_size=32
        jaxlv doctor qwen2.5-0.5b --devices 8 --memory 80

    With --devices, nothing is compiled: it prints what each of so many devices would hold, by the formulas of docs/scale.md,
    for every way to share the windows of a batch and the parameters, on either attention, with remat and without.
    Parameters, adapters and the optimiser's moments lie as a mesh places them: what it cannot cut is whole on each device.

    Args:
        config: run as TOML, or the name of a config that comes with jaxlv; only versions and devices if not given
        devices: devices that share a config, which need not be here; this machine if not given
        memory: GB of memory of each of them
    """
    from jaxlv.config import load_config
    from jaxlv.studies import doctor as study

    if config is None:
        idle("no config is named", set=set)
    if not devices:
        idle("it is of --devices that need not be here", memory=memory != MEMORY)
    if devices:
        return _shared(config, set, devices, memory)
    here = study.machine()
    say(pairs(here.facts))
    if config is None:
        kernel = {"attention": f"{study.KERNELS['xla']} (model.attention names another)"}
        return Result(pairs(kernel), here.tree())
    asked = load_config(config, set)
    fit = study.fit(asked)
    return Result(pairs(study.facts(asked, fit, here)), here.tree() | fit.tree(here), study.refused(config, fit, here))


def _shared(config: Path | None, set: Settings, devices: int, memory: float) -> Result:
    """Returns what a config takes on devices that need not be here."""
    from jaxlv.config import load_config
    from jaxlv.errors import JaxlvError
    from jaxlv.studies import doctor as study

    if config is None:
        raise JaxlvError("of which config", where="--devices", expected="a config")
    shares = study.shares(load_config(config, set), devices, memory)
    ways = {share.name: share.words for share in shares}
    title = f"data x model on {devices} devices of {memory:g} GB: what each of them holds, by formula"
    return Result(f"{title}\n{pairs(ways)}", {"shares": [share.tree() for share in shares]})


app = verb(doctor, prints=True)
