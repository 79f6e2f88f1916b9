"""Measure a run (tuned and untuned) or a bare model beside the baselines, on the same series.

    jaxlv evaluate runs/demo --out DIR
    jaxlv evaluate MODEL --data FILE --series 850-999 --context 50 --horizon 50 --samples 20 --seed 0 --out DIR

MODEL is a Hugging Face folder, a hub id, or "embedded". DIR gets metrics.json, report.html, and a CSV of forecasts per
model. Without --series, the test series of the run are measured (those of the default split for a bare model).
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv import run, series
from jaxlv.codec import Codec
from jaxlv.config import CodecConfig, EvaluateConfig, RunConfig, config_tree
from jaxlv.errors import JaxlvError
from jaxlv.evaluate import evaluate
from jaxlv.forecast import Forecaster
from jaxlv.report import evaluation
from jaxlv.series import SeriesSet
from jaxlv.weights import hub_revision
from jaxlv_tools.console import (
    Progress,
    add_protocol,
    add_sampling,
    describe,
    fresh_folder,
    held_series,
    parse_ids,
    peak_memory,
    program,
    sampling_of,
    versions,
)  # fmt: skip
from jaxlv_tools.forecast import panels

SHOWN = ("context", "horizon", "samples", "seed", "batch_series", "unmasked_samples")


def arguments() -> argparse.ArgumentParser:
    parser = describe("evaluate", __doc__)
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, model folder, hub id, or embedded")
    parser.add_argument("--data", type=Path, help="series file (default: the run's own; simulated for a bare model)")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 or 850-999 (default: the test series)")
    parser.add_argument("--max-series", type=int, help="at most so many of the default series")
    add_protocol(parser)
    add_sampling(parser)
    parser.add_argument("--batch-series", type=int, help="series decoded together")
    parser.add_argument("--unmasked-samples", type=int, help="samples per series without the grammar (0 = none)")
    parser.add_argument("--scale", help="scale rule of a bare model (default context)")
    parser.add_argument("--decimals", type=int, help="decimals of a bare model's text (default 2)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of a bare model")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json, report.html and the forecasts")
    return parser


def evaluate_to(
    out: Path,
    forecasters: dict[str, Forecaster],
    chosen: SeriesSet,
    config: EvaluateConfig,
    *,
    finished: run.FinishedRun | None = None,
    seen: np.ndarray | None = None,
    title: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate, and leave metrics.json, report.html and the forecasts in `out`; the metrics."""
    bars: dict[str, Progress] = {}

    def on_batch(name: str, done: int) -> None:
        if name not in bars:
            bars[name] = Progress(f"forecast ({name})", len(chosen)).__enter__()
        bars[name].update(done)
        if done >= len(chosen):
            bars[name].__exit__()

    measured, forecasts = evaluate(forecasters, chosen, config, on_batch=on_batch)
    measured["protocol"]["seen_in_training"] = [] if seen is None else [int(i) for i in seen]
    (out / "metrics.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
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
    print(evaluation.summary(measured))
    seen = measured["protocol"]["seen_in_training"]
    if seen:
        print(f"warning: the run trained or was validated on {len(seen)} of these series: their errors are no test")
    print(f"metrics: {out / 'metrics.json'}")
    print(f"report:  {out / 'report.html'}")


@program(arguments)
def main(options: argparse.Namespace) -> None:
    is_run = (Path(options.subject) / run.CONFIG).is_file()
    finished = run.load_run(Path(options.subject)) if is_run else None
    config = finished.config if finished else RunConfig()
    if finished and (options.scale or options.decimals):
        raise JaxlvError("a run keeps the text format that it was trained with", where="--scale, --decimals")
    data = series.load(options.data) if options.data else run.load_series(config, finished.folder if finished else None)
    protocol = replace(
        config.evaluate, **{name: getattr(options, name) for name in SHOWN if getattr(options, name) is not None}
    )
    sampling = sampling_of(options)
    forecasters: dict[str, Forecaster] = {}
    if not finished:
        codec = replace(CodecConfig(), **{k: v for k in ("scale", "decimals") if (v := getattr(options, k)) is not None})
        model_settings = replace(config.model, path=options.subject, dtype=options.dtype)
        base, model, params, alphabet = run.load_base(replace(config, model=model_settings))
        config = replace(config, codec=codec, model=replace(model_settings, path=_model_name(options.subject, base)))
        bare = Forecaster(model, {"params": params}, alphabet, Codec.for_data(codec, data.values_NTV), config.sampling)
        forecasters = {"untuned": bare}
    ids = options.series
    if ids is None:
        held = held_series(finished, data) if finished else run.split_series(config, data).test
        ids = held[: options.max_series or protocol.series or None]
    chosen = data.select(ids)
    out = fresh_folder(options.out)
    with finished.metered() if finished else contextlib.nullcontext(forecasters) as forecasters:
        measured = evaluate_to(
            out,
            {name: forecaster.with_sampling(**sampling) for name, forecaster in forecasters.items()},
            chosen,
            protocol,
            finished=finished,
            seen=finished.seen(chosen) if finished else None,
            title=f"Evaluation of {Path(options.subject).name}",
            settings=config_tree(config),
        )
    show(measured, options.out)


def _model_name(subject: str, base: Path) -> str:
    revision = hub_revision(base)
    return f"{subject}@{revision}" if revision else Path(subject).name


if __name__ == "__main__":
    main()
