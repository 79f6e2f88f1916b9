"""Forecast series with a run, or with a model and an adapter: sampled trajectories as CSV, and a figure of each series.

    jaxlv forecast runs/demo --data FILE --series 3,7 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR
    jaxlv forecast MODEL --adapter ADAPTER --data FILE --series 3,7 --out DIR

MODEL is a Hugging Face folder, a hub id, or "embedded"; ADAPTER a folder in PEFT's format. In forecast.csv a text that a
spreadsheet program would take as a formula (it begins with = + - or @) stands behind an apostrophe.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path

from jaxlv.config import RunConfig, config_tree
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.figures import svg
from jaxlv.report.figures.panels import panels
from jaxlv.runs import sources
from jaxlv.storage.files import new_folder, write_json
from jaxlv.tools.bare import add_bare, bare_forecasters, open_subject
from jaxlv.tools.console import (
    Progress,
    add_protocol,
    add_sampling,
    describe,
    held_series,
    parse_ids,
    program,
    sampling_of,
    versions,
    whole,
)  # fmt: skip

Models = dict[str, Forecaster]


def arguments() -> argparse.ArgumentParser:
    parser = describe("forecast", __doc__)
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, model folder, hub id, or embedded")
    parser.add_argument("--data", type=Path, help="series file (default: the run's own; simulated for a bare model)")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 or 990-999 (default: the first 4 test series)")
    add_protocol(parser)
    add_sampling(parser)
    add_bare(parser)
    words = "steps forecast at a time: each sample then goes on from its own last --context steps (default: all at once)"
    parser.add_argument("--reach", type=whole(), help=words)
    parser.add_argument("--out", type=Path, required=True, help="folder for forecast.csv, settings.json and the figures")
    return parser


@program(arguments)
def main(options: argparse.Namespace) -> None:
    finished, config, data = open_subject(options)
    if finished:
        held = held_series(finished, data)
        paid: contextlib.AbstractContextManager[Models] = finished.metered(options.purpose)
    else:
        held = sources.split_series(config, data).test
        paid = contextlib.nullcontext(bare_forecasters(config, options.subject, data, options)[1])
    chosen = data.select(options.series if options.series is not None else held[:4])
    with paid as forecasters, new_folder(options.out) as out:
        valid_share = forecast_to(out, options, chosen, config, forecasters)
    print(f"{options.out / 'forecast.csv'}: {len(chosen)} series, {valid_share:.0%} of the samples complete")


def forecast_to(out: Path, options: argparse.Namespace, chosen: SeriesSet, config: RunConfig, forecasters: Models) -> float:
    """Forecast, and leave the table, the settings and the figures in `out`; the share of samples that are complete."""
    sampling = sampling_of(options)
    shown = replace(config.sampling, **sampling)
    print("sampling:", ", ".join(f"{key} {value}" for key, value in config_tree(shown).items()))
    protocol = config.evaluate
    settings = {name: getattr(options, name) or getattr(protocol, name) for name in ("context", "horizon", "samples")}
    seed = protocol.seed if options.seed is None else options.seed
    with Progress("forecast", len(chosen)) as progress:
        forecaster = forecasters["tuned" if "tuned" in forecasters else "untuned"].with_sampling(**sampling)
        more = {"seed": seed, "batch_series": min(8, len(chosen)), "on_batch": progress.update}
        if options.reach:
            forecast = forecaster.rolling(chosen, **settings, reach=options.reach, **more)
        else:
            forecast = forecaster(chosen, **settings, **more)
    forecast.write_csv(out / "forecast.csv")
    record = {
        "data": Path(chosen.source["path"]).name if "path" in chosen.source else "simulated series",
        "data_sha256": chosen.source.get("sha256"),
        "series": [int(i) for i in forecast.ids_N],
        **settings,
        "reach": options.reach,
        "seed": seed,
        "codec": {"scale": forecaster.codec.scale, "decimals": forecaster.codec.decimals},
        "sampling": config_tree(forecaster.sampling),
        "valid_share": forecast.valid_share,
        "stops": forecast.stops,
        "versions": versions(),
    }
    write_json(out / "settings.json", record)
    for panel in panels(forecast, chosen):
        svg.save_png(figures.forecast_figure(panel), out / f"series_{panel.series_id}.png")
        svg.save_png(figures.phase_figure(panel), out / f"series_{panel.series_id}_phase.png")
    return forecast.valid_share


if __name__ == "__main__":
    main()
