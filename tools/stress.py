"""Measure a run again under harder conditions: noise, missing steps, short contexts, other origins, amplitudes, systems.

    jaxlv stress RUN --data FILE --out DIR
    jaxlv stress embedded --data FILE --groups noise,context --max-series 16 --samples 4 --out DIR

DIR gets stress.json (every row of every condition, and its series) and report.html. The series are the run's test series,
as `jaxlv evaluate` takes them, or simulated ones. On two cores all groups take about half an hour. DIR is written in the
end, as a whole: one that is interrupted begins anew.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.forecasting.baselines import baselines_for
from jaxlv.forecasting.evaluate import plain, score, truth_of
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.forecasting.robustness import GROUPS, Condition
from jaxlv.report import stress
from jaxlv.runs import sources
from jaxlv.storage.files import new_folder, write_json
from jaxlv.text.codec import TOP
from jaxlv.tools.bare import bare_forecasters, open_subject
from jaxlv.tools.console import Progress, add_protocol, describe, held_series, parse_ids, program, whole
from jaxlv.versions import versions

SAMPLES, SERIES = 8, 32


def arguments() -> argparse.ArgumentParser:
    parser = describe("stress", __doc__)
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, model folder, hub id, or embedded")
    parser.add_argument("--data", type=Path, help="series file (default: the run's own; simulated for a bare model)")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 or 850-999 (default: the test series)")
    parser.add_argument(
        "--max-series", type=whole(), default=SERIES, help=f"at most so many of them, of each regime (default {SERIES})"
    )
    parser.add_argument("--groups", default=",".join(GROUPS), help=f"some of {', '.join(GROUPS)}")
    add_protocol(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for stress.json and report.html")
    return parser


def measure(condition: Condition, forecasters: dict[str, Forecaster], samples: int, seed: int, batch: int) -> dict[str, Any]:
    """A condition's entry of stress.json: a row for each model and baseline."""
    given, context_NCV = condition.given, condition.given.values_NTV[:, : condition.context]
    rows = []
    for name, forecaster in forecasters.items():
        forecast = forecaster(given, condition.context, condition.horizon, samples, seed, min(batch, len(given)))
        row = score(name, forecast.median(), condition.truth_NHV, context_NCV, given, forecast.filled())
        top_N1V = TOP * forecaster.scales(given, condition.context)[:, None]
        row["above_top"] = {
            "truth": (condition.truth_NHV > top_N1V).mean(),
            "forecast": (forecast.filled() > top_N1V[:, None]).mean(),
        }
        rows.append(row)
    for name, baseline in baselines_for(given).items():
        point_NHV = baseline(context_NCV, condition.horizon)
        rows.append(score(name, point_NHV, condition.truth_NHV, context_NCV, given))
    return {
        "group": condition.group, "level": condition.level, "value": condition.value, "context": condition.context,
        "horizon": condition.horizon, "series": given.ids_N, "samples": samples, "rows": rows,
    }  # fmt: skip


@program(arguments)
def main(options: argparse.Namespace) -> None:
    names = [name.strip() for name in options.groups.split(",")]
    for name in names:
        if name not in GROUPS:
            raise JaxlvError("unknown group", where="--groups", expected=", ".join(GROUPS), found=name)
    finished, config, data = open_subject(options)
    ids = options.series
    if ids is None:
        ids = held_series(finished, data) if finished else sources.split_series(config, data).test
    held = data.select(ids)
    protocol = config.evaluate
    context, horizon = options.context or protocol.context, options.horizon or protocol.horizon
    samples, seed = options.samples or SAMPLES, protocol.seed if options.seed is None else options.seed
    truth_of(held, context, horizon)  # says where the series are too short
    bare = {} if finished else bare_forecasters(config, options.subject, data)[1]
    subject = finished.tuned if finished else bare["untuned"]
    subject.check_fits(held.select(held.ids_N[:1]), context, horizon, samples, 1)  # before systems are simulated
    conditions = [c for name in names for c in GROUPS[name](held, options.max_series, context, horizon, seed)]
    if not conditions:
        raise JaxlvError("no condition of these groups fits the series", where="--groups", found=options.groups)
    entries = []
    with (
        finished.metered(options.purpose) if finished else contextlib.nullcontext(bare) as forecasters,
        new_folder(options.out) as out,
        Progress("stress", len(conditions)) as bar,
    ):
        for done, condition in enumerate(conditions, 1):
            entries.append(measure(condition, forecasters, samples, seed, protocol.batch_series))
            bar.update(done, f"{condition.group} {condition.level}")
        result = plain(
            {
                "data": Path(data.source["path"]).name if "path" in data.source else "simulated series",
                "data_sha256": data.source.get("sha256"),
                "seen_in_training": [] if finished is None else finished.seen(held),
                "units": {"mae": "raw units"},
                "conditions": entries,
                "versions": versions(),
            }
        )
        write_json(out / "stress.json", result)
        stress.write_page(out / "report.html", result)
    print(stress.format_tables(result))
    print(f"figures: {options.out / 'stress.json'}\nreport:  {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
