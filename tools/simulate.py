"""`jaxlv simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from jaxlv.config import DataConfig
from jaxlv.settings import Between
from jaxlv.tools.bounds import number, whole
from jaxlv.tools.console import Result, verb
from jaxlv.tools.options import setting


def simulate(
    *,
    out: Path,
    preset: Literal["course", "field", "lotka-volterra-logistic", "lotka-volterra"] = "course",
    series: Annotated[int, setting(DataConfig, "simulate")] = 1000,
    steps: Annotated[int | None, whole(2)] = None,
    stop: Annotated[float | None, number(float, Between(0, 1e9, above=True))] = None,
    noise: Annotated[float | None, number(float, Between(0, 100))] = None,
    seed: Annotated[int, setting(DataConfig, "seed")] = 0,
    overwrite: bool = False,
) -> Result:
    """Write simulated predator-prey series to a file; HDF5 also holds their parameters and the solver's settings.

        jaxlv simulate --preset course --series 1000 --seed 0 --out series.h5
        jaxlv simulate --series 20 --out series.csv

    Args:
        out: file to write (.h5, or .csv without the parameters)
        preset: system and ranges of its parameters
        series: number of series
        steps: time steps per series; the preset's if not given
        stop: last time; the preset's if not given
        noise: standard deviation of log-normal observation noise; the preset's if not given
        seed: seed of the parameters that are drawn
        overwrite: replace an older file, once the new one is complete
    """
    from jaxlv.data import dynamics
    from jaxlv.data import series as files
    from jaxlv.data.loading import load_series
    from jaxlv.storage.tables import write_csv

    chosen = dynamics.changed(preset, steps=steps, stop=stop, noise=noise)
    files.check_place(out, overwrite, suffixes=(*files.HDF5, ".csv"))
    drawn = dynamics.draw(chosen, series, seed)
    if out.suffix.lower() == ".csv":
        write_csv(out, load_series(drawn).frame(), guard=False)
    else:
        files.save(out, drawn, overwrite=overwrite)
    N, T, V = drawn.values_NTV.shape
    told = {"file": str(out), "series": N, "steps": T, "variables": list(drawn.variables), "preset": preset, "seed": seed}
    return Result(f"{out}: {N} series of {T} steps, {V} variables, preset {preset}, seed {seed}", told)


app = verb(simulate)
