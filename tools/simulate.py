"""Write simulated predator-prey series to an HDF5 file, with their parameters and the solver's settings.

jaxlv simulate --preset course --series 1000 --seed 0 --out series.h5
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from jaxlv.config import DataConfig
from jaxlv.data import dynamics, series
from jaxlv.tools.console import describe, option, program


def arguments() -> argparse.ArgumentParser:
    parser = describe("simulate", __doc__)
    presets = "; ".join(f"{name}: {dynamics.SYSTEMS[p.system].equations}" for name, p in dynamics.PRESETS.items())
    parser.add_argument("--preset", default="course", choices=dynamics.PRESETS, help=presets)
    parser.add_argument("--series", default=1000, **option(DataConfig, "simulate", "how many (default 1000)"))
    parser.add_argument("--steps", **option(dynamics.Preset, "steps", "time steps per series (default: the preset's)"))
    parser.add_argument("--stop", **option(dynamics.Preset, "stop", "last time (default: the preset's)"))
    parser.add_argument("--noise", **option(dynamics.Preset, "noise"))
    parser.add_argument("--seed", default=0, **option(DataConfig, "seed", "default 0"))
    parser.add_argument("--out", type=Path, required=True, help="file to write (.h5); it must not exist")
    return parser


@program(arguments)
def main(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("steps", "stop", "noise") if getattr(options, name) is not None}
    preset = dataclasses.replace(dynamics.PRESETS[options.preset], **given)
    series.check_place(options.out)
    drawn = dynamics.draw(preset, options.series, options.seed)
    series.save(options.out, drawn)
    N, T, V = drawn.values_NTV.shape
    print(f"{options.out}: {N} series of {T} steps, {V} variables, preset {preset.name}, seed {options.seed}")


if __name__ == "__main__":
    main()
