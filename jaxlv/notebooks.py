"""What stands beside the forecaster in a notebook: series to try things on, and a look at any series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from jaxlv.activity import heard_by
from jaxlv.data import dynamics
from jaxlv.data.loading import load_series
from jaxlv.data.observations import Observations
from jaxlv.front import TELLER, Reading, Told, split
from jaxlv.results.exploration import Exploration
from jaxlv.results.record import Id
from jaxlv.studies import explore as exploring


def simulate(
    preset: str = "course", series: int = 10, steps: int | None = None, seed: int = 0, noise: float | None = None
) -> Observations:
    """Simulates predator-prey series.

    Args:
        preset: a name in `jaxlv.data.dynamics.PRESETS`: "course", "field", and others.
        series: how many.
        steps: time steps of each, between the first time and the last one of the preset; the preset's if None.
        seed: of the parameters, the first populations and the noise.
        noise: standard deviation of log-normal observation noise, such as 0.1; the preset's if None.

    Returns:
        The series as `jaxlv.load_series` gives them; `source["simulation"]` has their equations and parameters.

    Raises:
        JaxlvError: if the preset is unknown, or if a number is not allowed.

    Example:
        >>> import jaxlv
        >>> jaxlv.simulate(series=3, steps=50, noise=0.1).told
        '3 series, variables prey and predator, 50 steps'
    """
    return load_series(dynamics.draw(dynamics.changed(preset, steps=steps, noise=noise), series, seed))


def explore(
    data: Any,
    out: str | Path,
    *,
    series: Sequence[Id] | None = None,
    tokenizer: str | None = None,
    **reading: Unpack[Reading],
) -> Exploration:
    """Looks at series: quality, ranges, periods and lags, regimes, and what they are as text.

    Args:
        data: what `jaxlv.load_series` takes: a path, a frame, an array, ...
        out: a new folder, which gets a page (report.html), figures, a CSV file of every table, and exploration.json.
        series: ids of the series that are shown; the first two, and the first of every other regime, if None.
        tokenizer: a folder in Hugging Face's format, or "embedded"; Qwen2.5's ids of the symbols if None.
        **reading: as in `jaxlv.Forecaster.predict`.

    Returns:
        What exploration.json holds; `tables` has the rows of every table. Of series of several lengths, the last steps that
        all of them have are explored.

    Raises:
        JaxlvError: if the data are not understood, if a series is unknown, or if `out` exists. Of a file that cannot be
            used, quality.csv in `out` says why.

    Example:
        >>> import jaxlv, tempfile
        >>> found = jaxlv.explore(jaxlv.simulate(series=4, steps=30), tempfile.mkdtemp() + "/look")
        >>> found.series, found.steps, found.variables
        (4, 30, ('prey', 'predator'))
    """
    how, handling = split(reading)
    look = exploring.Look(series, tokenizer)
    with heard_by(TELLER):
        return exploring.explore(data, Path(out), look, handling=handling, begin=Told, **how)
