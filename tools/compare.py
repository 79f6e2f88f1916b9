"""Run the protocols of the four reports on their data set, and put their figures beside ours and the baselines'.

    jaxlv compare --data FILE --out DIR                 # tunes the embedded base on each report's training split first
    jaxlv compare RUN --data FILE --out DIR             # a run of your own, where it has not seen the test series
    jaxlv compare --data FILE --out DIR --resume        # goes on where an interrupted comparison stopped

DIR gets a CSV of forecasts and a figure for each part of a protocol (mao-768.csv, rai.csv, xu.csv, liu.csv, ...; the untuned
model's end in -untuned), compare.json with every figure, its unit and its series, compare.txt, report.html, and under runs/
the tuned adapters with their ledgers: each has a budget of 1 % of the reports' 1e17 FLOPs. About an hour on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxlv.configs
from jaxlv.config import RunConfig, load_config
from jaxlv.data import series
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.forecasting.evaluate import plain
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.model.weights import resolve
from jaxlv.published.protocols import PROTOCOLS, Part, Protocol, test_series
from jaxlv.report import comparison
from jaxlv.report.reported import entry
from jaxlv.runs import billing, run
from jaxlv.storage import foreign, shape
from jaxlv.storage.door import is_there
from jaxlv.storage.files import as_written, read_json, remove_unfinished, write_json, write_text
from jaxlv.tools.console import begun_folder, describe, program, whole
from jaxlv.tools.parts import baseline_rows, draw, drawings, forecast_part
from jaxlv.tools.train import train
from jaxlv.versions import versions

COMPARE = "compare.json"
# What the record of a base says of its cost.
BASE_COST = {"parameters": float, "tokens": float, "flops": (float, {"coursework": float, str: float})}


def arguments() -> argparse.ArgumentParser:
    parser = describe("compare", __doc__)
    parser.add_argument("run", type=Path, nargs="?", help="run folder (default: tune the embedded base, per protocol)")
    parser.add_argument("--data", type=Path, required=True, help="the course's data set (HDF5)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures, forecasts and runs")
    parser.add_argument("--config", type=Path, help="how the base is tuned (default configs/compare.toml)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting of the config")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help=f"some of {', '.join(PROTOCOLS)}")
    parser.add_argument("--max-series", type=whole(), help="at most so many series of each part: for a quick look")
    parser.add_argument("--tuned-only", action="store_true", help="leave the untuned model out, which halves the forecasts")
    parser.add_argument("--resume", action="store_true", help="go on in DIR: finished runs and parts are kept")
    return parser


def tuned_run(
    protocol: Protocol, config: RunConfig, scale: str, data: SeriesSet, folder: Path, resume: bool
) -> run.FinishedRun:
    """The run of a protocol's own split in `folder`; trained, or trained to its end, where it is not there yet."""
    if scale:
        config = replace(config, codec=replace(config.codec, scale=scale))  # type: ignore[arg-type]
    split = protocol.split(data.ids_N)
    train_ids, validation_ids, test_ids = (tuple(ids.tolist()) for ids in split.parts().values())
    shares = replace(config.data, train_ids=train_ids, validation_ids=validation_ids, test_ids=test_ids)
    config = replace(config, data=shares)
    remove_unfinished(folder)
    if not (folder / run.ADAPTER).is_dir():
        train(config, folder, resume=resume and folder.is_dir())
    return run.load_run(folder)


def measure(
    part: Part, chosen: SeriesSet, forecasters: dict[str, Forecaster], finished: run.FinishedRun, out: Path
) -> dict[str, Any]:
    """A part's entry of compare.json: its settings and a row for each model and baseline. Forecasts go to CSV files."""
    rows, drawing, settings = [], "", finished.config.evaluate
    for name, forecaster in forecasters.items():
        row, forecast = forecast_part(part, chosen, name, forecaster, settings)
        forecast.write_csv(out / f"{part.name}{'' if name == 'tuned' else f'-{name}'}.csv")
        if name == "tuned":
            drawing = draw(part, chosen, forecast, row["mae_by_series"], out)
        rows.append(row)
    scale = finished.config.codec.scale
    return entry(part, chosen, [*rows, *baseline_rows(part, chosen)], scale=scale, seed=settings.seed, drawing=drawing)


def flops_of(runs: Sequence[run.FinishedRun]) -> dict[str, Any] | None:
    """What the runs' ledgers say was spent, by kind of work; None where a run has no ledger."""
    kinds = {"train_step": "tuning", "validation": "validation", "generation": "forecasts"}
    spent, convention, budget, repeated = dict.fromkeys(kinds.values(), 0), "", 0, 0
    for finished in runs:
        book = billing.book_of(finished.config, finished.folder)
        if book is None:
            return None
        terms, entries = book.terms, book.entries
        convention, budget = terms.convention, budget + terms.budget
        repeated += ledger.totals(entries).repeated
        for kind, words in kinds.items():
            spent[words] += sum(e.flops for e in entries if e.event.kind == kind)
    return {"convention": convention, "budget": budget, **spent, "total": sum(spent.values()), "repeated": repeated}


def base_cost(model: str) -> dict[str, Any] | None:
    """What the base itself cost, where its folder says so."""
    folder, name = resolve(model), "training.json"
    tree = foreign.settings(folder, name)
    if tree is None:
        return None
    shape.check(tree, BASE_COST, folder / name)
    return {key: tree[key] for key in BASE_COST}


@program(arguments)
def main(options: argparse.Namespace) -> None:
    names = [name.strip() for name in options.protocols.split(",")]
    for name in names:
        if name not in PROTOCOLS:
            raise JaxlvError("unknown protocol", where="--protocols", expected=", ".join(PROTOCOLS), found=name)
    data = series.load(options.data)
    given = run.load_run(options.run) if options.run else None
    default = Path(jaxlv.configs.__path__[0]) / "compare.toml"
    config = load_config(options.config or default, [f"data.path={str(options.data)!r}", *options.set])
    for name in names:
        test_series(
            PROTOCOLS[name], PROTOCOLS[name].parts[0], data
        )  # another data set is refused before anything is trained
    out, resume = options.out, begun_folder(options.out, "parts", options.resume)
    remove_unfinished(out / "runs")
    result: dict[str, Any] = {"data": Path(options.data).name, "data_sha256": data.source.get("sha256"), "protocols": {}}
    for name in names:
        protocol, parts = PROTOCOLS[name], {}
        runs: dict[str, run.FinishedRun] = {}
        for part in protocol.parts:
            if given and part.scale not in ("", given.config.codec.scale):
                print(f"{part.name}: not scored; the run was not tuned with the scale {part.scale}")
                continue
            if part.scale not in runs:
                folder = out / "runs" / "-".join(filter(None, [name, part.scale]))
                runs[part.scale] = given or tuned_run(protocol, config, part.scale, data, folder, resume)
            finished = runs[part.scale]
            chosen = test_series(protocol, part, data)
            chosen = chosen.select(chosen.ids_N[: options.max_series])
            seen = finished.seen(chosen)
            if len(seen):
                print(f"{part.name}: not scored; the run has seen {len(seen)} of its {len(chosen)} test series")
                continue
            kept = out / "parts" / f"{part.name}.json"
            if not is_there(kept):
                with finished.metered(f"{options.purpose} {part.name}") as forecasters:
                    used = {n: f for n, f in forecasters.items() if n == "tuned" or not options.tuned_only}
                    write_json(kept, measure(part, chosen, used, finished, out), indent=None)
            parts[part.name] = read_json(kept)
            with as_written("not the result of a part", kept, kept.name):
                print(f"\n{comparison.format_part(parts[part.name])}\n", flush=True)
        result["protocols"][name] = {
            "parts": parts,
            "flops": flops_of([*runs.values()]),
            "reported_flops": {"total": protocol.flops, "words": protocol.flops_words},
            "split": {share: len(ids) for share, ids in protocol.split(data.ids_N).parts().items()},
            "run": None if given is None else options.run.name,
        }
    result |= {"base": base_cost((given.config if given else config).model.path), "versions": versions()}
    write_json(out / COMPARE, plain(result))
    with as_written("the comparison does not read as one", out, "results of parts"):
        comparison.write_page(out / "report.html", result, drawings(out / "parts"))
        write_text(out / "compare.txt", comparison.format_text(result))
        print(f"{comparison.format_overview(result)}\n\n{comparison.format_bill(result)}")
    print(f"figures: {out / COMPARE}\nreport:  {out / 'report.html'}")


if __name__ == "__main__":
    main()
