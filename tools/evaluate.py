"""`jaxlv evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jaxlv.config import EvaluateConfig, SamplingConfig
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, made, say, verb
from jaxlv.tools.options import Bare, Ids, Protocol, Reading, Sampling, asked, setting

if TYPE_CHECKING:
    from jaxlv.studies.evaluate import Evaluated


def evaluate(
    run_or_model: str,
    /,
    *,
    out: Path,
    data: Path | None = None,
    series: Ids = None,
    max_series: Annotated[int | None, whole()] = None,
    choose_temperature: bool = False,
    temperatures: Annotated[tuple[float, ...], setting(SamplingConfig, "temperature", several=True)] = (
        0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2,
    ),
    conformal: bool = False,
    validation_series: Annotated[int, whole()] = 24,
    origins: Annotated[int | None, whole()] = None,
    every: Annotated[int | None, whole()] = None,
    pool: bool = False,
    overwrite: bool = False,
    batch_series: Annotated[int | None, setting(EvaluateConfig, "batch_series", help=True)] = None,
    unmasked_samples: Annotated[int | None, setting(EvaluateConfig, "unmasked_samples", help=True)] = None,
    protocol: Protocol | None = None,
    reading: Reading | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
) -> Result:  # fmt: skip
    """Measure a run (tuned and untuned) or a bare model beside the baselines, on the same series.

        jaxlv evaluate runs/demo --out DIR
        jaxlv evaluate embedded --data lynx.csv --horizon 10 --origins 5 --out DIR
        jaxlv evaluate MODEL --data FILE --series 850-999 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR

    MODEL is a Hugging Face folder, a hub id, or a base of jaxlv (see forecast). With --context all series are forecast from
    that step on; with --origins each from its own last steps, several times, and a run never on steps that it was trained
    on.

    --choose-temperature and --conformal first draw validation series (the run's own; of a bare model those of the default
    split, which are then not measured): to choose each model's temperature, and to adjust its bands to hold their share. If
    both are set, each has series of its own.

    Args:
        run_or_model: run folder, model folder, hub id, embedded, embedded-cycles, or embedded-field
        out: folder for metrics.json, report.html, and a CSV of forecasts per model
        data: series file; the run's own if not given, simulated for a bare model
        series: ids such as 3,7 or 850-999 or north,south; a run's test series, or all of FILE, if not given
        max_series: at most so many of the default series
        choose_temperature: take the temperature with the least CRPS on validation series
        temperatures: temperatures to choose from
        conformal: adjust the bands on validation series, and measure both
        origins: forecasts of each series, the last of which ends with it
        every: steps between origins; the horizon if not given
        pool: measure the pool of the model, VAR, analogs and fitted equations, too; it takes about twice as long
        overwrite: replace an older folder of this verb, once the new one is complete
        validation_series: at most so many for the temperature, and as many for the bands; a 95 % band needs 19
    """
    from jaxlv.studies import evaluate as study

    fit = study.Fit(temperatures if choose_temperature else (), conformal, validation_series)
    more = {"batch_series": batch_series, "unmasked_samples": unmasked_samples}
    request = asked(
        run_or_model, data, series, max_series, protocol=protocol, sampling=sampling, bare=bare, reading=reading, **more
    )
    request = replace(request, origins=origins, every=every, pooled=pool)
    return shown(study.evaluate(request, out, fit, Progress, say, overwrite=overwrite), out)


def shown(found: Evaluated, out: Path) -> Result:
    """Returns the table, its summary, and the places of the files."""
    from jaxlv.report import evaluation
    from jaxlv.studies.evaluate import METRICS, REPORT

    metrics, seen = found.metrics, found.metrics.protocol.seen_in_training or ()
    warning = f"warning: the run trained or was validated on {len(seen)} of these series: their errors are no test"
    tables = (evaluation.format_table(metrics), evaluation.format_samples(metrics))
    lines = [*(f"\n{text}" for text in tables if text), f"\n{evaluation.summary(metrics)}", warning if seen else ""]
    tree = {"metrics": metrics.tree(), "repeats": found.repeats}
    return made(out, [*lines, found.repeats], tree, metrics=METRICS, report=REPORT)


app = verb(evaluate)
