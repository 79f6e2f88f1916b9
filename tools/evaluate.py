"""Measure a run (tuned and untuned) or a bare model beside the baselines, on the same series.

    jaxlv evaluate runs/demo --out DIR
    jaxlv evaluate MODEL --data FILE --series 850-999 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR

MODEL is a Hugging Face folder, a hub id, or "embedded". DIR gets metrics.json, report.html, and a CSV of forecasts per
model. Without --series, the test series of the run are measured (those of the default split for a bare model).

--choose-temperature and --conformal first draw validation series (the run's own; those of the default split for a bare
model), never one that is measured: to choose each model's temperature, and to adjust its bands to hold their share. With
both, either has series of its own.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.config import EvaluateConfig, RunConfig, SamplingConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting.conformal import Bands
from jaxlv.forecasting.evaluate import (
    LEVELS,
    TEMPERATURES,
    check_fits,
    choose_temperature,
    evaluate,
    fit_conformal,
    truth_of,
)  # fmt: skip
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.report import evaluation
from jaxlv.report.figures.panels import panels
from jaxlv.runs import billing, run, sources
from jaxlv.storage.files import Watched, new_folder, write_json
from jaxlv.tools.bare import add_bare, bare_forecasters, open_subject
from jaxlv.tools.console import (
    Progress,
    add_protocol,
    add_sampling,
    describe,
    held_series,
    option,
    parse_ids,
    peak_memory,
    program,
    sampling_of,
    versions,
    whole,
)  # fmt: skip

SHOWN = ("context", "horizon", "samples", "seed", "batch_series", "unmasked_samples")


def arguments() -> argparse.ArgumentParser:
    parser = describe("evaluate", __doc__)
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, model folder, hub id, or embedded")
    parser.add_argument("--data", type=Path, help="series file (default: the run's own; simulated for a bare model)")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 or 850-999 (default: the test series)")
    parser.add_argument("--max-series", type=whole(), help="at most so many of the default series")
    add_protocol(parser)
    add_sampling(parser)
    parser.add_argument("--choose-temperature", action="store_true", help="the one of least CRPS on validation series")
    parser.add_argument(
        "--temperatures", type=replace(option(SamplingConfig, "temperature")["type"], several=True), metavar="T,T,...",
        default=TEMPERATURES,
        help=f"to choose from (default {','.join(map(str, TEMPERATURES))})",
    )  # fmt: skip
    parser.add_argument("--conformal", action="store_true", help="adjust the bands on validation series, and measure both")
    parser.add_argument(
        "--validation-series", type=whole(), default=24,
        help="at most so many for the temperature, and as many for the bands (default 24; a 95 %% band needs 19)",
    )  # fmt: skip
    parser.add_argument("--batch-series", **option(EvaluateConfig, "batch_series"))
    parser.add_argument("--unmasked-samples", **option(EvaluateConfig, "unmasked_samples"))
    add_bare(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json, report.html and the forecasts")
    return parser


@dataclass(frozen=True)
class Fitted:
    """Forecasters with what validation series settled: their temperatures, their bands, and what the protocol says of it."""

    forecasters: dict[str, Forecaster]
    bands: dict[str, Bands] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)


def validation_series(
    finished: run.FinishedRun | None, config: RunConfig, data: SeriesSet, measured: SeriesSet
) -> SeriesSet:
    """The validation series of a run, from its own data, or those of the default split of `data` for a bare model.

    A series that is measured, by its values, is left out; so is a test series of the run. JaxlvError where none is left,
    or where the run's own data are not what they were.
    """
    kept_away = set(run.series_marks(measured))
    if finished is None:
        held = data.select(sources.split_series(config, data).validation)
    else:
        marks = finished.split["validation"]
        if not marks:
            raise JaxlvError("the run has no validation series", where=finished.folder)
        held = sources.load_series(config, finished.folder).select([int(i) for i in marks])
        if run.series_marks(held) != list(marks.values()):
            raise JaxlvError("the validation series are not those of the run", where=held.source.get("path"))
        kept_away |= set(finished.split.get("test", {}).values())
    free = held.ids_N[[mark not in kept_away for mark in run.series_marks(held)]]
    if not len(free):
        raise JaxlvError("every validation series is measured", hint="measure other series with --series")
    return held.select(free)


def fit_on_validation(
    forecasters: dict[str, Forecaster],
    validation: SeriesSet,
    config: EvaluateConfig,
    *,
    temperatures: Sequence[float] = (),
    conformal: bool = False,
    most: int = 24,
) -> Fitted:
    """Each forecaster's temperature, where there are some to choose from, and its conformal bands, where wanted.

    At most `most` series serve each purpose, no series both: a temperature chosen on the series that the bands are fitted
    to would make these look narrower than they are.
    """
    share = len(validation) // 2 if temperatures and conformal else len(validation)
    if not share:
        raise JaxlvError("too few validation series", expected="at least 2", found=len(validation))
    ids, bands, protocol = validation.ids_N.tolist(), {}, {}
    forecasters = dict(forecasters)
    if temperatures:
        chosen_on = validation.select(ids[: min(share, most)])
        table, chosen = {}, {}
        for name, forecaster in forecasters.items():
            with Progress(f"temperature ({name})", len(set(temperatures))) as bar:
                chosen[name], table[name] = choose_temperature(forecaster, chosen_on, config, temperatures, bar.update)
            forecasters[name] = forecaster.with_sampling(temperature=chosen[name])
        used = chosen_on.ids_N.tolist()
        protocol["temperature_chosen_on"] = {"validation": used, "crps": table, "chosen": chosen}
        ids = ids[len(used) :]
    if conformal:
        fitted_on = validation.select(ids[:most])
        for name, forecaster in forecasters.items():
            with Progress(f"bands ({name})", len(fitted_on)) as bar:
                bands[name] = fit_conformal(forecaster, fitted_on, config, bar.update)
        factors = {
            name: {str(level): float(factor_HV.mean()) for level, factor_HV in band.factors.items()}
            for name, band in bands.items()
        }
        left_out = [level for level in LEVELS if str(level) not in next(iter(factors.values()))]
        protocol["conformal"] = {
            "validation": fitted_on.ids_N.tolist(), "mean_factor": factors, "levels_with_too_few_series": left_out,
        }  # fmt: skip
    return Fitted(forecasters, bands, protocol)


def evaluate_to(
    out: Path,
    forecasters: dict[str, Forecaster],
    chosen: SeriesSet,
    config: EvaluateConfig,
    *,
    finished: run.FinishedRun | None = None,
    seen: np.ndarray | None = None,
    fitted: Fitted | None = None,
    title: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate, and leave metrics.json, report.html and the forecasts in `out`; the metrics."""
    fitted = fitted or Fitted(forecasters)
    with Watched() as watched, contextlib.ExitStack() as bars:
        shown_as: dict[str, Progress] = {}

        watched.add(out)

        def on_batch(name: str, done: int) -> None:
            watched.check()  # what was removed or renamed while it is filled is not found at the end alone
            if name not in shown_as:
                bars.close()  # that of the model before
                shown_as[name] = bars.enter_context(Progress(f"forecast ({name})", len(chosen)))
            shown_as[name].update(done)

        measured, forecasts = evaluate(fitted.forecasters, chosen, config, bands=fitted.bands, on_batch=on_batch)
    measured["protocol"] |= fitted.protocol
    measured["protocol"]["seen_in_training"] = [] if seen is None else [int(i) for i in seen]
    write_json(out / "metrics.json", measured)
    for name, forecast in forecasts.items():
        forecast.write_csv(out / f"forecast_{name}.csv")
    shown = forecasts.get("tuned") or next(iter(forecasts.values()))
    picked = evaluation.choose_series(measured, list(shown.ids_N))
    found = versions()
    evaluation.write_report(
        out / "report.html",
        title=title,
        metrics=measured,
        forecasts=[panel for panel in panels(shown, chosen) if panel.series_id in picked],
        history=run.read_metrics(finished.folder / run.METRICS) if finished else (),
        settings=settings,
        versions=found,
        bill={**finished.bill(), "device": found["device"], "peak_memory_bytes": peak_memory()} if finished else None,
    )
    return measured


def show(measured: dict[str, Any], out: Path) -> None:
    """Print the table and where the page lies."""
    print()
    print(evaluation.format_table(measured))
    print()
    if samples := evaluation.format_samples(measured):
        print(f"{samples}\n")
    print(evaluation.summary(measured))
    seen = measured["protocol"]["seen_in_training"]
    if seen:
        print(f"warning: the run trained or was validated on {len(seen)} of these series: their errors are no test")
    print(f"metrics: {out / 'metrics.json'}")
    print(f"report:  {out / 'report.html'}")


@program(arguments)
def main(options: argparse.Namespace) -> None:
    finished, config, data = open_subject(options)
    protocol = replace(
        config.evaluate, **{name: getattr(options, name) for name in SHOWN if getattr(options, name) is not None}
    )
    sampling = sampling_of(options)
    if options.choose_temperature and "temperature" in sampling:
        raise JaxlvError("a temperature is given or chosen, not both", where="--temperature, --choose-temperature")
    forecasters: dict[str, Forecaster] = {}
    if not finished:
        config, forecasters = bare_forecasters(config, options.subject, data, options)
    ids = options.series
    if ids is None:
        held = held_series(finished, data) if finished else sources.split_series(config, data).test
        ids = held[: options.max_series or protocol.series or None]
    chosen = data.select(ids)
    truth_of(chosen, protocol.context, protocol.horizon)  # says where the series are too short
    fits = options.choose_temperature or options.conformal
    validation = validation_series(finished, config, data, chosen) if fits else None
    with (
        finished.metered(options.purpose) if finished else contextlib.nullcontext(forecasters) as forecasters,
        new_folder(options.out) as out,
    ):
        forecasters = {name: forecaster.with_sampling(**sampling) for name, forecaster in forecasters.items()}
        check_fits(forecasters.values(), chosen, protocol)
        fitted = None
        if validation is not None:
            fitted = fit_on_validation(
                forecasters,
                validation,
                protocol,
                temperatures=options.temperatures if options.choose_temperature else (),
                conformal=options.conformal,
                most=options.validation_series,
            )
        measured = evaluate_to(
            out,
            forecasters,
            chosen,
            protocol,
            finished=finished,
            fitted=fitted,
            seen=finished.seen(chosen) if finished else None,
            title=f"Evaluation of {Path(options.subject).name}",
            settings=config_tree(config),
        )
    show(measured, options.out)
    if finished and (repeated := billing.repeats_of(finished.config, finished.folder)):
        print(repeated)


if __name__ == "__main__":
    main()
