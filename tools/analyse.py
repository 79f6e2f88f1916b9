"""Look into a tuned run: training, costs of tokens, text format, errors of forecasts, LM head, adapters, padding.

    jaxlv analyse RUN --data FILE
    jaxlv analyse RUN --data FILE --series 850-865 --samples 8 --out DIR

DIR (default RUN/analyses) gets analyses.json with every number, its units and definitions, tables as CSV, figures as SVG
and PNG, and report.html. The series are the run's test series, as `jaxlv evaluate` takes them. One set of forecasts serves
every analysis of forecasts; with 16 series and a small model all takes about two minutes on two cores. With --headroom 0
many truths lie above the top of the scale: then the analysis of the top shows whether forecasts are held below it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxlv.analysis import analyses, anatomy, logits
from jaxlv.config import CodecConfig, EvaluateConfig
from jaxlv.data import series
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.forecasting.evaluate import plain, protocol, truth_of
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.memory import TooLarge
from jaxlv.model.weights import base_of
from jaxlv.report import analyses as report
from jaxlv.report import page
from jaxlv.report.figures import svg
from jaxlv.runs import run, sources
from jaxlv.storage.files import new_folder, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.text.tokens import token_texts
from jaxlv.tools.console import (
    Progress,
    add_protocol,
    describe,
    held_series,
    option,
    parse_ids,
    program,
    versions,
    whole,
)  # fmt: skip

SERIES, SHOWN = 16, 972  # the series whose text is read back, where the data have it: the one that a report shows
NAMED = ("context", "horizon", "samples", "seed")


def arguments() -> argparse.ArgumentParser:
    parser = describe("analyse", __doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="series file (default: the run's own)")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 or 850-999 (default: the test series)")
    parser.add_argument("--max-series", type=whole(), default=SERIES, help=f"at most so many of them (default {SERIES})")
    add_protocol(parser)
    words = "of the scale that series are written in; 0 puts its top at the context's maximum"
    parser.add_argument("--headroom", **option(CodecConfig, "headroom", words))
    parser.add_argument("--out", type=Path, help="folder for analyses.json, the tables, figures and report.html")
    return parser


def analyse(
    finished: run.FinishedRun, forecasters: dict[str, Forecaster], chosen: SeriesSet, data: SeriesSet, config: EvaluateConfig
) -> dict[str, Any]:
    """Every analysis by name; one that its run or its budget does not allow stands in "left_out", with the reason."""
    params, lora = finished.tuned.variables["params"], finished.tuned.variables["lora"]
    codec, alphabet = forecasters["tuned"].codec, finished.tuned.alphabet
    base = base_of(finished.config.model)
    shown = SHOWN if SHOWN in data.ids_N else int(chosen.ids_N[0])
    written = data.select(list(dict.fromkeys([shown, *chosen.ids_N.tolist()])))

    for forecaster in forecasters.values():
        forecaster.check_fits(chosen, config.context, config.horizon, config.samples, config.batch_series)

    @functools.cache
    def drawn() -> analyses.Drawn:
        with Progress("forecasts", len(chosen) * len(forecasters)) as bar:
            before = dict(zip(forecasters, range(0, len(chosen) * len(forecasters), len(chosen)), strict=True))
            return analyses.draw(forecasters, chosen, config, lambda name, done: bar.update(before[name] + done, name))

    def of_each(measure: Callable[[str, Forecaster], Any]) -> dict[str, Any]:
        return {name: measure(name, forecaster) for name, forecaster in forecasters.items()}

    history = run.read_metrics(finished.folder / run.METRICS)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "training": lambda: anatomy.training_curves(history, finished.config.optimizer.clip_norm),
        "tokens": lambda: of_each(lambda _, f: logits.token_costs(f, chosen, config.context, config.batch_series)),
        "round_trip": lambda: analyses.round_trip(written, codec, alphabet, config.context, shown),
        "growth": lambda: analyses.error_growth(drawn()),
        "errors": lambda: analyses.error_distribution(drawn()),
        "series": lambda: analyses.series_errors(drawn()),
        "extremes": lambda: analyses.extremes(drawn()),
        "ceiling": lambda: of_each(lambda name, f: analyses.ceiling(drawn(), f, name)),
        "head": lambda: anatomy.head_change(lora, params, alphabet, lambda ids: token_texts(base, ids)),
        "spectra": lambda: anatomy.adapter_spectra(lora, params),
        "padding": lambda: logits.padding_sides(forecasters["tuned"], chosen, config.context),
    }
    found: dict[str, Any] = {"left_out": {}}
    for number, (name, compute) in enumerate(parts.items(), 1):
        print(f"{number}/{len(parts)} {name}", flush=True)
        try:
            found[name] = compute()
        except (NotFinite, TooLarge):
            raise
        except JaxlvError as fault:
            found["left_out"][name] = str(fault)
            print(f"left out: {fault}", flush=True)
    return found


def with_headroom(forecaster: Forecaster, headroom: float | None) -> Forecaster:
    """The forecaster, writing with this head-room alone; JaxlvError where its scale has none."""
    if headroom is None:
        return forecaster
    if forecaster.codec.scale != "context":
        raise JaxlvError("the run's scale has no head-room", where="--headroom", found=forecaster.codec.scale)
    return replace(forecaster, codec=replace(forecaster.codec, headroom=headroom, headrooms=()))


def write(out: Path, result: dict[str, Any], title: str) -> None:
    """analyses.json, the tables, the figures and the page."""
    write_json(out / "analyses.json", result)
    for folder in ("tables", "figures"):
        (out / folder).mkdir()
    for name, frame in report.frames(result).items():
        write_csv(out / "tables" / f"{name}.csv", frame, float_format="%.6g")
    parts = report.parts_of(result)
    for picture in report.pictures(parts):
        svg.save_pair(picture.drawing, picture.svg, out / "figures" / picture.name)
    page.write(out / "report.html", report.page_of(result, parts, title))


@program(arguments)
def main(options: argparse.Namespace) -> None:
    finished = run.load_run(options.run)
    data = series.load(options.data) if options.data else sources.load_series(finished.config, finished.folder)
    ids = options.series if options.series is not None else held_series(finished, data)[: options.max_series]
    chosen = data.select(ids)
    given = {name: getattr(options, name) for name in NAMED if getattr(options, name) is not None}
    config = replace(finished.config.evaluate, **given)
    truth_of(chosen, config.context, config.horizon)  # says where the series are too short
    tuned = with_headroom(finished.tuned, options.headroom)
    out, seen = options.out or finished.folder / "analyses", finished.seen(chosen)
    with finished.metered(options.purpose) as forecasters, new_folder(out) as work:
        chosen_scale = {name: with_headroom(forecaster, options.headroom) for name, forecaster in forecasters.items()}
        found = analyse(finished, chosen_scale, chosen, data, config)
        result = plain(
            {
                "protocol": {**protocol(chosen, config, tuned), "seen_in_training": seen},
                **found,
                "bill": finished.bill(),
                "versions": versions(),
            }
        )
        write(work, result, f"Analyses of {finished.folder.name}")
    print()
    print(report.summary(result))
    if len(seen):
        print(f"warning: the run trained or was validated on {len(seen)} of these series: their errors are no test")
    print(f"numbers: {out / 'analyses.json'}\nreport:  {out / 'report.html'}")


if __name__ == "__main__":
    main()
