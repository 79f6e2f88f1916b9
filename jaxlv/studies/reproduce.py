"""A paper's system from data to final tables, stage by stage, on one FLOP ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from jaxlv.data import loading
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.flops.ledger import FINAL, Meter
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora import overlay
from jaxlv.published import reproduction
from jaxlv.published.reproduction import Stage
from jaxlv.published.systems import STAGES, Setting, Settings
from jaxlv.report import page
from jaxlv.report.sweeps import format_runs
from jaxlv.results.papers import Bill, PartResult, PartRow, Phase, Plan, StageResult
from jaxlv.results.papers import Reproduction as Reproduced
from jaxlv.results.sweeps import Outcome
from jaxlv.runs import billing, run, sources, sweep, validation
from jaxlv.runs.sweep import Cell
from jaxlv.storage import shape
from jaxlv.storage.door import is_there
from jaxlv.storage.files import as_written, begun_folder, read_json, remove_unfinished
from jaxlv.studies import scoring, sides
from jaxlv.studies.pages import made
from jaxlv.studies.papers import STAGE_FILES, Reproduction
from jaxlv.studies.scoring import PARTS
from jaxlv.studies.sweeping import train
from jaxlv.versions import versions

RESULT = "reproduce.json"
PART_SHAPE: shape.Shape = {"stage": str, "place": int, "part": str, "row": dict}


def reproduce(
    work: Reproduction,
    data: Path,
    plan: Plan,
    *,
    stages: Sequence[str] = STAGES,
    at_once: int = 0,
    resume: bool = False,
) -> Reproduced:
    """Runs the `stages` of a paper's system, and writes runs, forecasts, reproduce.json and report.html to its folder.

    Returns reproduce.json, which holds the `plan`. As many runs as the memory holds are computed side by side, or `at_once`.
    With `resume` what is done is kept. Raises JaxlvError if the data are not the paper's, if the folder exists and is not
    resumed, or if a run cannot be trained.
    """
    loaded = loading.load(data)
    work.series_of(work.parts[0], loaded)  # another data set is refused before anything is trained
    begun_folder(work.out, STAGE_FILES, resume)
    for folder in (sweep.RUNS, PARTS):
        remove_unfinished(work.out / folder)
    known: list[Cell] = []
    for stage in work.stages:
        if stage.name in stages and not work.result(stage.name):
            work.keep(stage.name, run_stage(work, stage, known, at_once).tree())
        if stage.trains and work.result(stage.name):
            known += cells_of(work, stage)
        if stage.name in stages and stage.name in reproduction.MODELS:
            evaluate_stage(work, stage, loaded)
    if "final" in stages:
        sides.measure_faults(work, loaded)
        sides.analyse_final(work, loaded)
    return write(work, plan, loaded)


def check_stages(names: Sequence[str]) -> None:
    """Raises JaxlvError if one of the names is not a stage's."""
    for name in names:
        if name not in STAGES:
            raise JaxlvError("unknown stage", where="--stage", expected=", ".join(STAGES), found=name)


# ----------------------------------------------------------------------------------------------- the stages


def handed_on(work: Reproduction, stage: Stage) -> Settings:
    """Returns the settings that the stages before chose. If one has not run, the configs' own stand, the paper's choice."""
    found: dict[str, Setting] = {}
    for before in reproduction.HANDS_ON.get(stage.name, ()):
        ended = work.ended(before)
        found |= ended.chosen if ended else {}
    return found


def cells_of(work: Reproduction, stage: Stage) -> list[Cell]:
    """Returns the runs of a stage, with what stages before chose and the shared budget."""
    found = stage.cells(handed_on(work, stage))
    return [replace(cell, config=reproduction.with_budget(cell.config, stage.name, work.budget)) for cell in found]


def run_stage(work: Reproduction, stage: Stage, known: Sequence[Cell], at_once: int) -> StageResult:
    """Trains the runs of a stage, or measures the untrained model. Returns what came of them, and which is the best.

    A run that is the same as one of `known` is not trained again.
    """
    found, folder, carried = cells_of(work, stage), work.out / sweep.RUNS, handed_on(work, stage)
    twins = {cell.name: reproduction.twin(cell, known) for cell in found} if stage.trains else {}
    fresh = [cell for cell in found if not twins.get(cell.name)]
    again = f", {len(found) - len(fresh)} trained before" if len(fresh) < len(found) else ""
    work.say(f"\n{stage.name}: {len(found)} run{'s' * (len(found) > 1)}{again}")
    if carried:
        work.say("chosen before: " + ", ".join(f"{name} {value}" for name, value in carried.items()))
    if not stage.trains:
        outcomes = [measure_untrained(cell, work.out) for cell in found]
    else:
        ended = train(fresh, folder, resume=True, at_once=at_once, begin=work.begin) if fresh else []
        by_name = {one.name: one for one in ended}
        for cell in found:
            if known_as := twins[cell.name]:
                same = sweep.outcome(replace(known_as, settings=cell.settings), folder)
                by_name[cell.name] = replace(same, name=cell.name, same_as=known_as.name)
        outcomes = [by_name[cell.name] for cell in found]
    outcomes = [
        replace(one, reported=work.system.of(stage.name, reproduction.telling(cell.config)))
        for one, cell in zip(outcomes, found, strict=True)
    ]
    best = sweep.choose(outcomes, work.system.rule)
    work.say(format_runs(outcomes, best.name))
    chosen = {**carried, **best.settings} if any(stage.name in names for names in reproduction.HANDS_ON.values()) else {}
    return StageResult(stage.name, tuple(outcomes), stage.trains, work.system.rule, best.name, carried, chosen)


def measure_untrained(cell: Cell, out: Path) -> Outcome:
    """Returns the untrained model's validation figures."""
    inputs, folder = sources.load_inputs(cell.config), out / sweep.RUNS / cell.name
    with billing.ledger_of(cell.config, folder, inputs.model) as book:
        assert book is not None
        meter = Meter(book, cell.config.budget.phase, billing.event_of(cell.config, "nothing"), cell.name)
        record = validation.validated(cell.config, inputs, None, meter)
    flops = sweep.spent_by(cell.config, folder)
    return Outcome.read({"name": cell.name, "settings": dict(cell.settings), "steps": 0, "flops": flops, **record}, folder)


# -------------------------------------------------------------------------------------------- the evaluation


@contextlib.contextmanager
def models_of(work: Reproduction, stage: Stage) -> Iterator[dict[str, Sampler]]:
    """Yields the models of a stage, by the name that a table gives them; they spend from the ledger's evaluation."""
    found: dict[str, Sampler] = {}
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


def untrained(cell: Cell) -> tuple[Sampler, billing.Held]:
    """Returns the base of a cell's config, with a trained bias of zero if it may: the program is then the tuned model's."""
    inputs = sources.load_inputs(cell.config)
    lora = overlay.init_lora(jax.random.key(0), inputs.params, cell.config.lora)  # B is zero, and so is the bias
    merged, held = run.decoder(inputs.forecaster(lora, cell.config))
    return (inputs.forecaster({}, cell.config), "nothing") if held == "adapters" else (merged, held)


def evaluate_stage(work: Reproduction, stage: Stage, data: SeriesSet) -> None:
    """Forecasts every part with a stage's models: rows and CSV files in DIR/parts, kept on resuming.

    The row is written last: if it is there, the part is done.
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
            settings, point = stage.config.evaluate, work.system.point
            row, forecast = scoring.forecast_part(part, chosen, name, paid, settings, point, work.begin)
            forecast.write_csv(path.with_suffix(".csv"))
            if stage.name == "final":
                row = replace(row, drawing=scoring.draw(part, chosen, forecast, row.mae_by_series or {}, work.out))
            sweep.write_result(path, {"stage": stage.name, "place": place, "part": part.name, "row": row.tree()})


def part_entries(work: Reproduction, data: SeriesSet) -> dict[str, PartResult]:
    """Returns every part with its rows so far, in the order of the stages, and the baselines' behind them."""
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
        rows = [PartRow.read(one["row"], work.out / PARTS) for one in own] + scoring.baseline_rows(part, chosen)
        drawing = next((row.drawing for row in rows if row.drawing), "")
        found[part.name] = scoring.part_result(
            part, chosen, rows, scale=config.codec.scale, seed=config.evaluate.seed, point=work.system.point, drawing=drawing
        )
    return found


def shown(model: str) -> str:
    """Returns a model's name as results have it: of a folder the last part alone."""
    return Path(model).name if Path(model).is_dir() else model


def bill_of(work: Reproduction, file: str) -> Bill | None:
    """Returns what a ledger says was spent, by phase, in its own convention and as executed; None if it was not begun."""
    book = ledger.begun(work.out / file)
    if book is None:
        return None
    terms, spent = book.terms, {}
    for phase in dict.fromkeys([*terms.envelopes, FINAL, *(entry.phase for entry in book.entries)]):
        own = [entry for entry in book.entries if entry.phase == phase]
        if own:
            totals = {name: ledger.totals(own, terms.model, name) for name in (terms.convention, "exact")}
            counted, exact = totals[terms.convention], totals["exact"].executed
            spent[phase] = Phase(counted.executed, exact, counted.repeated)
    return Bill(spent, terms.convention, terms.budget)


def write(work: Reproduction, plan: Plan, data: SeriesSet) -> Reproduced:
    """Writes reproduce.json and the page, from what lies in the folder. Returns reproduce.json."""
    result = Reproduced(
        system=work.system.name, scale=work.scale, model=shown(work.model_name), rule=work.system.rule,
        figure=work.system.figure, data=Path(data.source["path"]).name, data_sha256=data.source["sha256"],
        plan=plan, bill=bill_of(work, run.LEDGER), beside=bill_of(work, sides.FILE),
        stages=tuple(found for stage in work.stages if (found := work.ended(stage.name))),
        parts=part_entries(work, data), faults=work.result("faults") or (), versions=versions(),
    )  # fmt: skip
    sweep.write_result(work.out / RESULT, result.tree())
    with as_written("the reproduction does not read as one", work.out, "results of stages and parts"):
        page.write(work.out / "report.html", made([work.out]))
    return result
