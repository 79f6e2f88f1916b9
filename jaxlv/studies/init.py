"""A config for somebody's series: written with the meaning of every setting, and priced."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxlv.config import RunConfig, config_tree, toml_value
from jaxlv.data import loading
from jaxlv.report.format import duration, number
from jaxlv.runs import sources
from jaxlv.settings import statements
from jaxlv.storage.files import check_new_file, write_text
from jaxlv.studies import doctor, fitting, prices

PROBE = 1024  # rows and columns of the matrices by which this machine's speed is measured


@dataclass(frozen=True)
class Wanted:
    """What the caller says of a run."""

    model: str | None = None
    holdout: int | None = None
    steps: int = 200


class Made(NamedTuple):
    """A config that was written: what its series are, in words, FLOPs of the training, and the least seconds it takes."""

    told: str
    flops: int
    seconds: float
    lines: list[str]


def write(data: Path, out: Path, wanted: Wanted, reading: Any = None, overwrite: bool = False) -> Made:
    """Writes the config of a run on a file of series. Raises JaxlvError if `out` exists and `overwrite` is
    false, or if the series do not fit.
    """
    check_new_file(out, overwrite)
    options = {name: value for name, value in (vars(reading) if reading else {}).items() if value is not None}
    how = {name: value for name, value in options.items() if name not in ("missing", "negative")}
    found = loading.load_series(data, **how)
    place = data if data.is_absolute() else Path(os.path.relpath(data, Path.cwd()))
    said: list[str] = []
    config = fitting.fitted(found, wanted.model, wanted.holdout, wanted.steps, say=said.append, path=str(place), **options)
    ready, kept = sources.prepared(config.data, found)
    left_out = sources.without_scale(sources.split_series(config, ready.series), ready.series)
    flops = next(iter(prices.plan(config, ["exact"]).phases.values()))["exact"]  # the first phase is the training
    seconds = flops / doctor.matmul_rate("float32", PROBE)
    write_text(out, commented(config, f"A run on {data.name}: {found.told}."))
    lines = [
        found.told,
        *loading.noted(ready, kept),
        *left_out.values(),
        *said,
        f"training: {wanted.steps} steps, {number(float(flops))} FLOPs: at least {duration(seconds)} here,",
    ]
    lines.append("as a product of large matrices reaches; small models take several times as long")
    return Made(found.told, flops, seconds, lines)


def commented(config: RunConfig, title: str) -> str:
    """Returns a config as TOML: every setting with its meaning; those that have their default are commented out."""
    lines = [f"# {title}", "# Settings behind # have their defaults."]
    tree = config_tree(config)
    for section in dataclasses.fields(config):
        own = getattr(config, section.name)
        if own.is_left_out:
            continue
        lines += ["", f"[{section.name}]"]
        kind: type = type(own)
        usual = kind()
        for name, said in statements(kind).items():
            text = f"{name} = {toml_value(tree[section.name][name])}"
            is_usual = getattr(own, name) == getattr(usual, name)
            lines.append(f"{'# ' if is_usual else ''}{text}  # {said.words}")
    return "\n".join(lines) + "\n"
