"""Run one of the four reported systems again, from data to final tables, on one FLOP ledger.

    jaxlv reproduce xu --data FILE --out DIR                                # the embedded base, 5 % of the steps, two cores
    jaxlv reproduce mao --scale full --model Qwen/Qwen2.5-0.5B-Instruct --data FILE --out DIR       # the real model, one GPU
    jaxlv reproduce rai --scale full --model qwen2.5-0.5b --plan            # steps, FLOPs and hours; nothing is run

NAME is xu, rai, mao or liu; their settings are configs/NAME/STAGE.toml. The stages follow one another: the untrained model
(baseline), the first LoRA run, the grid, the context study, the final run. The best of the grid, by the report's own rule,
is what the context study trains, and the best of both is the final run's. Each run is an ordinary run folder in DIR/runs.
DIR/ledger.jsonl is the ledger of all, with an envelope for each stage; DIR/parts has the forecasts of the untrained, first
and final models by the report's own measure. What the report did wrong is done beside it, on a ledger of its own
(DIR/beside.jsonl), and the difference measured; so are the analyses of the final run (DIR/analyses).

DIR/reproduce.json holds every figure, DIR/report.html shows them. An interrupted one goes on with --resume; with --stage
only those stages are run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

import jaxlv.configs
from jaxlv.config import laid_over, override
from jaxlv.data import series
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.flops.family import architecture
from jaxlv.flops.ledger import FINAL, Meter
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.lora import overlay
from jaxlv.model.config import ModelConfig
from jaxlv.published import reproduction
from jaxlv.published.protocols import PROTOCOLS, Part, test_series
from jaxlv.published.reproduction import Stage
from jaxlv.published.systems import ALLOWANCE, STAGES, SYSTEMS, System
from jaxlv.report import dossier, folders, page, reproductions
from jaxlv.report.reported import entry as part_entry
from jaxlv.runs import billing, run, sources, sweep, validation
from jaxlv.runs.sweep import Cell
from jaxlv.storage import shape
from jaxlv.storage.door import is_there
from jaxlv.storage.files import as_written, read_json, remove_unfinished
from jaxlv.tools import beside, parts
from jaxlv.tools.console import begun_folder, describe, print_columns, program, whole
from jaxlv.tools.flops import measured_rate
from jaxlv.tools.sweep import show, train
from jaxlv.versions import versions

CONFIGS = Path(jaxlv.configs.__path__[0])
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
BENCHMARKS = {"small": "train_step-cpu.json", "full": "train_step-cuda-bfloat16.json"}
RESULT, STAGE_FILES, PARTS = "reproduce.json", "stages", "parts"
# What is read of their files when a reproduction goes on.
STAGE_SHAPE: shape.Shape = {"name": str, "best": str, "runs": list, "carried": dict, "chosen": dict}
PART_SHAPE: shape.Shape = {"stage": str, "place": int, "part": str, "row": dict}


def arguments() -> argparse.ArgumentParser:
    parser = describe("reproduce", __doc__)
    parser.add_argument("system", choices=list(SYSTEMS), metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--model", default="embedded", help="a Hugging Face folder, a hub id, or embedded (default)")
    parser.add_argument("--data", type=Path, help="the course's data set (HDF5)")
    parser.add_argument("--out", type=Path, help="folder for the runs, the figures and the page")
    parser.add_argument("--scale", choices=("small", "full"), default="small", help="of the steps (default small: 5 %%)")
    parser.add_argument("--stage", help=f"some of {','.join(STAGES)} (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting of every run")
    parser.add_argument("--plan", action="store_true", help="print what it will cost, and run nothing")
    parser.add_argument("--benchmark", type=Path, help="result of benchmarks.train_step on your device, for the hours")
    parser.add_argument(
        "--at-once", type=whole(0), default=0, help="runs computed side by side (default: what the memory holds)"
    )
    parser.add_argument("--resume", action="store_true", help="go on in DIR")
    return parser


@dataclass(frozen=True)
class Work:
    """One system at one scale, on one model and data set, in one folder."""

    system: System
    scale: str
    model_name: str
    stages: list[Stage]
    full: list[Stage]  # with the report's own number of steps and windows
    out: Path

    @functools.cached_property
    def model(self) -> ModelConfig:
        """The architecture; no weights are read."""
        return architecture(self.model_name)

    @functools.cached_property
    def parts(self) -> list[Part]:
        """The parts that are measured, with as many samples as the report drew."""
        samples = self.stages[-1].config.evaluate.samples
        return [replace(part, samples=samples) for part in reproduction.parts_of(self.system.name)]

    def counted(self, stages: Sequence[Stage]) -> list[tuple[Part, int]]:
        """The parts with the number of series that each is measured on."""
        most = stages[-1].config.evaluate.series or reproduction.test_share(self.system.name)
        return [(part, min(most, len(part.series) or most)) for part in self.parts]

    @functools.cached_property
    def planned(self) -> list[reproduction.Row]:
        """The plan at this scale."""
        return reproduction.plan(self.stages, self.counted(self.stages))

    @functools.cached_property
    def budget(self) -> dict[str, Any]:
        """The [budget] that all runs share. At the small scale, which promises its steps, every stage may take the dearest
        settings that those before can choose; at the full one it is what the report spent, and a dearer choice ends sooner.
        """
        rows = self.planned
        if self.scale == "small":
            priced = [stage for stage in self.stages if stage.name in reproduction.HANDS_ON]
            dearest = {stage.name: self.dearest(stage) for stage in priced}
            rows = [dearest.get(row.stage, row) for row in rows]
        return reproduction.budget_of(rows, self.model, self.system.convention)

    def dearest(self, stage: Stage) -> reproduction.Row:
        """The plan of a stage at its dearest."""
        before = [self.stage(name) for name in reproduction.HANDS_ON[stage.name]]
        return reproduction.at_dearest(stage, before, self.model, self.system.convention)

    @functools.cached_property
    def allowance(self) -> float:
        """The assignment's FLOPs, in proportion to the work at this scale."""
        full = reproduction.plan(self.full, self.counted(self.full))
        return reproduction.allowance(self.planned, full, self.model, self.system.convention)

    def stage(self, name: str) -> Stage:
        """A stage by name."""
        return next(stage for stage in self.stages if stage.name == name)

    def series_of(self, part: Part, data: SeriesSet) -> SeriesSet:
        """The test series of a part, as many as the config takes."""
        chosen = test_series(PROTOCOLS[self.system.name], part, data)
        return chosen.select(chosen.ids_N[: self.stages[-1].config.evaluate.series or None])

    def result(self, name: str) -> dict[str, Any] | None:
        """What came of a stage; None where it has not run."""
        path = self.out / STAGE_FILES / f"{name}.json"
        if not is_there(path):
            return None
        tree = read_json(path)
        return shape.check(tree, STAGE_SHAPE, path) if name in STAGES else tree

    def keep(self, name: str, result: Any) -> None:
        """Write what came of a stage."""
        sweep.write_result(self.out / STAGE_FILES / f"{name}.json", result)


def work_of(options: argparse.Namespace) -> Work:
    """What the arguments name, from the configs."""
    folder, small = CONFIGS / options.system, CONFIGS / options.system / "small.toml"
    model = {"model": {"path": options.model}}
    changes = laid_over({**model, "data": {"path": str(options.data or "")}}, override({}, options.set))
    scale = small if options.scale == "small" and small.is_file() else CONFIGS / f"{options.scale}.toml"
    stages, full = (
        reproduction.read_stages(folder, scale, changes),
        reproduction.read_stages(folder, CONFIGS / "full.toml", model),
    )
    return Work(SYSTEMS[options.system], options.scale, options.model, stages, full, options.out or Path())


# ------------------------------------------------------------------------------------------------ the plan


def plan_of(work: Work, benchmark: Path | None) -> dict[str, Any]:
    """The plan as results have it: runs, steps, FLOPs and hours by stage, the allowance, and what the report spent."""
    rate, origin = rate_of(work, benchmark)
    rows = []
    for row in work.planned:
        flops, exact = (row.flops(work.model, name) for name in (work.system.convention, "exact"))
        counts = {"stage": row.stage, "runs": row.runs, "steps": row.steps}
        training = row.training(work.model, work.system.convention)
        hours = exact / rate / 3600 if rate else None
        rows.append({**counts, "flops": flops, "training": training, "exact": exact, "hours": hours})
    reported = PROTOCOLS[work.system.name]
    return {
        "convention": work.system.convention, "rows": rows, "total": sum(row["flops"] for row in rows),
        "budget": int(work.budget["flops"]), "margin": reproduction.MARGIN, "allowance": work.allowance, "hours": origin,
        "reported": {"flops": reported.flops, "words": reported.flops_words, "of_allowance": reported.flops / ALLOWANCE},
    }  # fmt: skip


def rate_of(work: Work, benchmark: Path | None) -> tuple[float, str]:
    """(FLOP/s, where it was measured) from a result of benchmarks.train_step; 0 where there is none."""
    path = benchmark or RESULTS / BENCHMARKS[work.scale]
    if not is_there(path):
        return 0.0, "not estimated; give --benchmark, a result of benchmarks.train_step on your device"
    config = work.stages[-1].config
    rate, origin = measured_rate(path, billing.event_of(config).flops(work.model, "exact"), config.model.loss == "alphabet")
    return rate, f"at {rate:.3g} FLOP/s (exact), the rate of a train step on {origin}"


def show_plan(work: Work, plan: dict[str, Any]) -> None:
    """Print the plan, and how it stands to the allowance."""
    keys = ("runs", "steps", "training", "flops", "exact", "hours")
    total = {key: sum(row[key] or 0 for row in plan["rows"]) for key in keys}
    table = [("stage", "runs", "steps", "training", f"FLOPs ({plan['convention']})", "of all", "exact", "hours")]
    for row in [*plan["rows"], {"stage": "together", **total}]:
        counts = (f"{row[key]:,}" if row[key] else "" for key in ("runs", "steps"))
        share, hours = row["flops"] / plan["total"], f"{row['hours']:.2f}" if row["hours"] else ""
        prices = (f"{row[key]:.4g}" if row[key] else "" for key in ("training", "flops"))
        table.append((row["stage"], *counts, *prices, f"{share:.1%}", f"{row['exact']:.4g}", hours))
    print(f"{work.system.name}, scale {work.scale}, model {work.model_name}")
    print_columns(table, right=range(1, 8))
    theirs, share = plan["reported"], plan["total"] / plan["allowance"]
    of = f"{plan['allowance']:.4g}, which is to this series what 1e17 is to the report's"
    print(f"the report spent {theirs['flops']:.4g} FLOPs ({theirs['words']}), {theirs['of_allowance']:.1%} of 1e17")
    print(f"this series: {plan['total']:.4g} FLOPs, {share:.1%} of {of}{over(share)}")
    more, again = plan["budget"] / plan["total"] - 1, f"{reproduction.MARGIN:.0%} for repeats after interruptions"
    rest = ", the rest for a choice of longer windows" if work.scale == "small" else ""
    print(f"the ledger holds {more:.0%} more: {again}{rest}; repeats that take more are billed beyond it")
    print(f"hours: {plan['hours']}", flush=True)


def over(share: float) -> str:
    """The flag of what exceeds an allowance."""
    return f": {share - 1:.1%} MORE than allowed" if share > 1 else ""


# ----------------------------------------------------------------------------------------------- the stages


def handed_on(work: Work, stage: Stage) -> dict[str, Any]:
    """The settings that the stages before chose. Where one has not run, the configs' own stand, the report's choice."""
    found: dict[str, Any] = {}
    for before in reproduction.HANDS_ON.get(stage.name, ()):
        found |= (work.result(before) or {"chosen": {}})["chosen"]
    return found


def cells_of(work: Work, stage: Stage) -> list[Cell]:
    """The runs of a stage, with what stages before chose and the shared budget."""
    found = stage.cells(handed_on(work, stage))
    return [replace(cell, config=reproduction.with_budget(cell.config, stage.name, work.budget)) for cell in found]


def run_stage(work: Work, stage: Stage, known: Sequence[Cell], at_once: int) -> dict[str, Any]:
    """Train the runs of a stage, or measure the untrained model; what came of them, and which is the best.

    A run that is the same as one of `known` is not trained again.
    """
    found, folder, carried = cells_of(work, stage), work.out / sweep.RUNS, handed_on(work, stage)
    twins = {cell.name: reproduction.twin(cell, known) for cell in found} if stage.trains else {}
    fresh = [cell for cell in found if not twins.get(cell.name)]
    again = f", {len(found) - len(fresh)} trained before" if len(fresh) < len(found) else ""
    print(f"\n{stage.name}: {len(found)} run{'s' * (len(found) > 1)}{again}", flush=True)
    if carried:
        print("chosen before: " + ", ".join(f"{name} {value}" for name, value in carried.items()))
    if not stage.trains:
        outcomes = [measure_untrained(cell, work.out) for cell in found]
    else:
        by_name = {one["name"]: one for one in (train(fresh, folder, True, at_once) if fresh else [])}
        for cell in found:
            if known_as := twins[cell.name]:
                same = sweep.outcome(replace(known_as, settings=cell.settings), folder)
                by_name[cell.name] = {**same, "name": cell.name, "same_as": known_as.name}
        outcomes = [by_name[cell.name] for cell in found]
    for one, cell in zip(outcomes, found, strict=True):
        one["reported"] = work.system.of(stage.name, reproduction.telling(cell.config))
    best = sweep.choose(outcomes, work.system.rule)
    show(outcomes, best["name"])
    chosen = {**carried, **best["settings"]} if any(stage.name in names for names in reproduction.HANDS_ON.values()) else {}
    return {
        "name": stage.name, "trains": stage.trains, "rule": work.system.rule, "best": best["name"], "runs": outcomes,
        "carried": carried, "chosen": chosen,
    }  # fmt: skip


def measure_untrained(cell: Cell, out: Path) -> dict[str, Any]:
    """The untrained model's validation figures."""
    inputs, folder = sources.load_inputs(cell.config), out / sweep.RUNS / cell.name
    with billing.ledger_of(cell.config, folder, inputs.model) as book:
        assert book is not None
        meter = Meter(book, cell.config.budget.phase, billing.event_of(cell.config, "nothing"), cell.name)
        record = validation.validated(cell.config, inputs, None, meter)
    flops = sweep.spent_by(cell.config, folder)
    return {"name": cell.name, "settings": dict(cell.settings), "steps": 0, "seconds": None, "flops": flops, **record}


# -------------------------------------------------------------------------------------------- the evaluation


@contextlib.contextmanager
def models_of(work: Work, stage: Stage) -> Iterator[dict[str, Forecaster]]:
    """The models of a stage, by the name that a table gives them; they spend from the ledger's evaluation."""
    found: dict[str, Forecaster] = {}
    with contextlib.ExitStack() as opened:
        book = None
        for cell in cells_of(work, stage):
            folder = work.out / sweep.RUNS / cell.name
            model, held = run.decoder(run.load_run(folder).tuned) if stage.trains else untrained(cell)
            book = book or opened.enter_context(billing.ledger_of(cell.config, folder, model.model))
            assert book is not None
            meter = Meter(book, FINAL, billing.event_of(cell.config, held), cell.name)
            found[reproduction.label(stage, cell)] = replace(model, meter=meter)
        yield found


def untrained(cell: Cell) -> tuple[Forecaster, billing.Held]:
    """The base of a cell's config, where it may with a trained bias of zero: the program is then that of the tuned model."""
    inputs = sources.load_inputs(cell.config)
    lora = overlay.init_lora(jax.random.key(0), inputs.params, cell.config.lora)  # B is zero, and so is the bias
    merged, held = run.decoder(inputs.forecaster(lora, cell.config))
    return (inputs.forecaster({}, cell.config), "nothing") if held == "adapters" else (merged, held)


def evaluate_stage(work: Work, stage: Stage, data: SeriesSet) -> None:
    """The forecasts of a stage's models for every part: rows and CSV files in DIR/parts, kept on resuming.

    The row is written last: where it is, the part is done.
    """
    folder = work.out / PARTS
    folder.mkdir(exist_ok=True)
    names = [reproduction.label(stage, cell) for cell in cells_of(work, stage)]
    paths = [folder / f"{part.name}-{n.replace(', ', '-').replace(' ', '-')}.json" for part in work.parts for n in names]
    left = [place for place, path in enumerate(paths) if not is_there(path)]
    if not left:
        return
    with models_of(work, stage) as forecasters:
        for number in left:
            path, (which, place) = paths[number], divmod(number, len(names))
            part, name = work.parts[which], names[place]
            chosen, model = work.series_of(part, data), forecasters[name]
            assert isinstance(model.meter, Meter)
            paid = replace(model, meter=replace(model.meter, purpose=path.stem))
            row, forecast = parts.forecast_part(part, chosen, name, paid, stage.config.evaluate, work.system.point)
            forecast.write_csv(path.with_suffix(".csv"))
            if stage.name == "final":
                row["drawing"] = parts.draw(part, chosen, forecast, row["mae_by_series"], work.out)
            sweep.write_result(path, {"stage": stage.name, "place": place, "part": part.name, "row": row})


def part_entries(work: Work, data: SeriesSet) -> dict[str, Any]:
    """Every part with the rows that there are, in the order of the stages, and the baselines' behind them."""
    order = {name: place for place, name in enumerate(STAGES)}
    kept = [read_json(path) for path in sorted((work.out / PARTS).glob("*.json"))]
    found, config = {}, work.stages[-1].config
    for one in kept:
        shape.check(one, PART_SHAPE, work.out / PARTS)
    for part in work.parts:
        own = [one for one in kept if one["part"] == part.name]
        own.sort(key=lambda one: (order.get(one["stage"], len(order)), one["place"]))
        if not own:
            continue
        chosen = work.series_of(part, data)
        rows = [one["row"] for one in own] + parts.baseline_rows(part, chosen)
        drawing = next((row["drawing"] for row in rows if "drawing" in row), "")
        found[part.name] = part_entry(
            part, chosen, rows, scale=config.codec.scale, seed=config.evaluate.seed, point=work.system.point, drawing=drawing
        )
    return found


# ------------------------------------------------------------------------------------------------- the program


def shown(model: str) -> str:
    """A model's name as results have it: of a folder the last part alone."""
    return Path(model).name if Path(model).is_dir() else model


def bill_of(work: Work, file: str) -> dict[str, Any] | None:
    """What a ledger says was spent, by phase, in its own convention and as executed; None where there is none."""
    book = ledger.begun(work.out / file)
    if book is None:
        return None
    terms, spent = book.terms, {}
    for phase in dict.fromkeys([*terms.envelopes, FINAL, *(entry.phase for entry in book.entries)]):
        own = [entry for entry in book.entries if entry.phase == phase]
        if own:
            totals = {name: ledger.totals(own, terms.model, name) for name in (terms.convention, "exact")}
            counted, exact = totals[terms.convention], totals["exact"].executed
            spent[phase] = {"flops": counted.executed, "repeated": counted.repeated, "exact": exact}
    return {"convention": terms.convention, "budget": terms.budget, "phases": spent}


def write(work: Work, plan: dict[str, Any], data: SeriesSet) -> None:
    """reproduce.json, the page and what is printed, from what lies in the folder."""
    result = {
        "system": work.system.name, "scale": work.scale, "model": shown(work.model_name), "rule": work.system.rule,
        "figure": work.system.figure, "data": Path(data.source["path"]).name, "data_sha256": data.source["sha256"],
        "plan": plan, "bill": bill_of(work, run.LEDGER), "beside": bill_of(work, beside.FILE),
        "stages": [found for stage in work.stages if (found := work.result(stage.name))],
        "parts": part_entries(work, data), "faults": work.result("faults") or [], "versions": versions(),
    }  # fmt: skip
    sweep.write_result(work.out / RESULT, result)
    with as_written("the reproduction does not read as one", work.out, "results of stages and parts"):
        page.write(work.out / "report.html", dossier.page_of_one(folders.read(work.out)))
        print(f"\n{reproductions.format_text(result)}")


@program(arguments)
def main(options: argparse.Namespace) -> None:
    work = work_of(options)
    wanted = STAGES if options.stage is None else tuple(part.strip() for part in options.stage.split(","))
    for name in wanted:
        if name not in STAGES:
            raise JaxlvError("unknown stage", where="--stage", expected=", ".join(STAGES), found=name)
    plan = plan_of(work, options.benchmark)
    show_plan(work, plan)
    if options.plan:
        return
    for name in ("data", "out"):
        if getattr(options, name) is None:
            raise JaxlvError("is needed", where=f"--{name}", hint="or --plan, to see what it will cost")
    data = series.load(options.data)
    work.series_of(work.parts[0], data)  # another data set is refused before anything is trained
    out = work.out
    begun_folder(out, STAGE_FILES, options.resume)
    for folder in (sweep.RUNS, PARTS):
        remove_unfinished(out / folder)
    known: list[Cell] = []
    for stage in work.stages:
        if stage.name in wanted and not work.result(stage.name):
            work.keep(stage.name, run_stage(work, stage, known, options.at_once))
        if stage.trains and work.result(stage.name):
            known += cells_of(work, stage)
        if stage.name in wanted and stage.name in reproduction.MODELS:
            evaluate_stage(work, stage, data)
    if "final" in wanted:
        beside.measure_faults(work, data)
        beside.analyse_final(work, data)
    write(work, plan, data)
    print(f"figures: {out / RESULT}\nreport:  {out / 'report.html'}")


if __name__ == "__main__":
    main()
