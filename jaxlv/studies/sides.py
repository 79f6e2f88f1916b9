"""What a reproduction does beside a paper's own work: its errors, done both ways, and the analyses of the final run.

Paid from a ledger of its own, so that the paper's budget is not charged with what the paper did not do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from jaxlv.config import RunConfig
from jaxlv.data.series import SeriesSet
from jaxlv.flops.ledger import Meter
from jaxlv.forecasting.evaluate import protocol
from jaxlv.forecasting.sampler import Sampler
from jaxlv.published import reproduction
from jaxlv.published.systems import NONE, Fault, Settings
from jaxlv.results.papers import BothWays, PartRow
from jaxlv.results.record import Number
from jaxlv.results.sweeps import LOSS
from jaxlv.runs import billing, run, sources, sweep, validation
from jaxlv.runs.sweep import Cell
from jaxlv.storage.files import new_folder
from jaxlv.studies import scoring
from jaxlv.studies.analyse import REPORT, measured
from jaxlv.studies.analyse import write as write_analyses
from jaxlv.studies.papers import Reproduction
from jaxlv.studies.sweeping import train
from jaxlv.versions import versions

FILE = "beside.jsonl"


def paid_beside(work: Reproduction, config: RunConfig, phase: str) -> RunConfig:
    """Returns the config, paid from the ledger of what stands beside the paper's own work."""
    return reproduction.with_budget(config, phase, replace(work.beside, ledger=f"../../{FILE}"))


@contextlib.contextmanager
def meter_of(work: Reproduction, config: RunConfig, name: str, purpose: str) -> Iterator[Meter]:
    """Yields a meter of that ledger for a model with a config's adapters; of one `name` each purpose is other work."""
    architecture = sources.load_base(config)[1]
    with billing.ledger_of(config, work.out / sweep.RUNS / name, architecture) as book:
        assert book is not None
        yield Meter(book, config.budget.phase, billing.event_of(config), name, purpose)


def changed(config: RunConfig, settings: Settings) -> RunConfig:
    """Returns the config with settings ("section.key") laid over it."""
    return sweep.cells(config, [settings])[0].config if settings else config


# ------------------------------------------------------------------------------------- what the paper did wrong


def measure_faults(work: Reproduction, data: SeriesSet) -> None:
    """Measures each error of the paper beside what is right; the figures of both are in DIR/stages/faults.json."""
    if work.result("faults") is not None or work.result("grid") is None:
        return
    work.say("\ndone both ways: what the paper did wrong, or also tried")
    measures: dict[str, Callable[[Reproduction, Fault, SeriesSet], list[BothWays]]] = {
        "loss": losses, "lengths": lengths, "forecast": forecasts, "training": trainings, "steps": steps,
    }  # fmt: skip
    found = []
    for fault in work.system.faults:
        kept = f"fault-{fault.key}"
        if work.result(kept) is None:
            work.keep(kept, [line.tree() for line in measures[fault.kind](work, fault, data)])
        for tree in work.result(kept):
            line = BothWays.read(tree, kept)
            work.say(f"{fault.words}: {line.measured} {line.reported_way:.4g}, not {line.right_way:.4g}")
            found.append(tree)
    work.keep("faults", found)


def both(fault: Fault, measured: str, unit: str, reported_way: Number | None, right_way: Number | None) -> BothWays:
    """Returns what was measured of a fault."""
    return BothWays(fault.words, fault.right, measured, unit, reported_way, right_way, fault.key)


def losses(work: Reproduction, fault: Fault, data: SeriesSet) -> list[BothWays]:
    """Returns the final model's validation loss both ways, in batches of the paper's size."""
    finished = run.load_run(work.out / sweep.RUNS / "final")
    config = changed(finished.config, {"train.batch_size": work.full[-1].config.train.batch_size})
    return [both(fault, "validation loss of the final model", LOSS, *read_both_ways(work, fault, config, finished))]


def lengths(work: Reproduction, fault: Fault, data: SeriesSet) -> list[BothWays]:
    """Trains the context study as the paper did. Returns for each length the validation loss that it would print, that of
    the same adapter read rightly, and beside this the one that was trained rightly.
    """
    stage, ended, grid = work.stage("context"), work.ended("context"), work.ended("grid")
    found = []
    for cell in stage.cells(grid.chosen if grid else {}):
        right = paid_beside(work, cell.config, "faults")
        length = right.windows.length
        wrong = Cell(f"fault-{fault.key}-{length}", fault.settings, changed(right, fault.settings))
        train([wrong], work.out / sweep.RUNS, resume=True, begin=work.begin)
        pair = read_both_ways(work, fault, right, run.load_run(work.out / sweep.RUNS / wrong.name))
        found.append(both(fault, f"validation loss after training so, {length} tokens", LOSS, *pair))
        for own in (own for own in (ended.runs if ended else ()) if own.settings == dict(cell.settings)):
            measured = f"validation loss over real tokens, trained so or not, {length} tokens"
            found.append(both(fault, measured, LOSS, pair.right_way, own.validation_loss))
    return found


class Pair(NamedTuple):
    """A figure, got the paper's way and the right one."""

    reported_way: float
    right_way: float


def read_both_ways(work: Reproduction, fault: Fault, config: RunConfig, finished: run.FinishedRun) -> Pair:
    """Returns the validation loss of a run's adapter by a config, and by the same with the fault's settings."""
    found = {}
    for name, settings in (("reported_way", fault.settings), ("right_way", NONE)):
        way = changed(paid_beside(work, config, "faults"), {**settings, "train.forecast_series": 0})
        with meter_of(work, way, f"fault-{fault.key}", f"{name}, {way.windows.length} tokens") as meter:
            lora = finished.tuned.variables["lora"]
            found[name] = validation.validated(way, sources.load_inputs(way), lora, meter)["validation_loss"]
    return Pair(**found)


def forecasts(work: Reproduction, fault: Fault, data: SeriesSet) -> list[BothWays]:
    """Returns errors of the final model's forecasts of the first part both ways."""
    finished = run.load_run(work.out / sweep.RUNS / "final")
    config = changed(paid_beside(work, finished.config, "faults"), fault.settings)
    codec = replace(finished.tuned.codec, parsing=config.codec.parsing)
    changed_model = replace(finished.tuned, sampling=config.sampling, codec=codec)
    wrong = forecast_row(work, fault, data, "reported_way", config, changed_model)
    right = forecast_row(work, fault, data, "right_way", paid_beside(work, finished.config, "faults"), finished.tuned)
    return both_rows(fault, "the final model", work, wrong, right)


def trainings(work: Reproduction, fault: Fault, data: SeriesSet) -> list[BothWays]:
    """Trains the best settings of the grid as the paper did. Returns errors of this run and the right one, first part."""
    grid = work.ended("grid")
    assert grid
    best = next(one for one in grid.runs if one.name == grid.best)
    right = run.load_run(work.out / sweep.RUNS / (best.same_as or best.name))
    config = paid_beside(work, right.config, "faults")
    cell = Cell(f"fault-{fault.key}", fault.settings, changed(config, fault.settings))
    train([cell], work.out / sweep.RUNS, resume=True, begin=work.begin)
    wrong = run.load_run(work.out / sweep.RUNS / cell.name)
    ways = (("reported_way", cell.config, wrong.tuned), ("right_way", config, right.tuned))
    rows = (forecast_row(work, fault, data, *way) for way in ways)
    return both_rows(fault, "the grid's best settings", work, *rows)


def forecast_row(work: Reproduction, fault: Fault, data: SeriesSet, way: str, config: RunConfig, model: Sampler) -> PartRow:
    """Returns a model's row of the first part; `way` says which of both it is."""
    part = work.parts[0]
    merged, held = run.decoder(model)
    with meter_of(work, config, f"fault-{fault.key}", way) as meter:
        paid = replace(merged, meter=replace(meter, template=billing.event_of(config, held)))
        chosen, point = work.series_of(part, data), work.system.point
        return scoring.forecast_part(part, chosen, fault.key, paid, config.evaluate, point, work.begin).row


def both_rows(fault: Fault, what: str, work: Reproduction, wrong: PartRow, right: PartRow) -> list[BothWays]:
    """Returns lines of two rows of the same series: mean and median error, and the complete samples if they differ."""
    measures = {"mae": ("MAE, mean over series", "raw units"), "mae_median": ("MAE, median over series", "raw units")}
    if wrong.valid_share != right.valid_share:
        measures["valid_share"] = ("complete samples", "share of samples")
    return [
        both(fault, f"{what}, {work.parts[0].name}: {words}", unit, getattr(wrong, key), getattr(right, key))
        for key, (words, unit) in measures.items()
    ]


def steps(work: Reproduction, fault: Fault, data: SeriesSet) -> list[BothWays]:
    """Returns the FLOPs of the steps both ways."""
    event, count, convention = billing.event_of(work.full[-1].config), fault.settings["train.steps"], work.system.convention
    assert isinstance(count, int)
    prices = (replace(event, count=n).flops(work.model, convention) for n in (count, count - 1))
    return [both(fault, "FLOPs of the steps", f"FLOPs ({convention})", *prices)]


# ------------------------------------------------------------------------------------------------- the analyses


def analyse_final(work: Reproduction, data: SeriesSet) -> None:
    """Writes the analyses of the final run to DIR/analyses."""
    folder = work.out / "analyses"
    if (folder / REPORT).is_file():
        return
    work.say("\nanalyses of the final run")
    finished = run.load_run(work.out / sweep.RUNS / "final")
    most, samples = reproduction.ANALYSED
    chosen = work.series_of(work.parts[0], data)
    chosen = chosen.select(chosen.ids_N[:most])
    size = min(finished.config.evaluate.batch_series, len(chosen))
    config = replace(finished.config.evaluate, samples=samples, series=len(chosen), batch_series=size)
    paid = paid_beside(work, finished.config, "analyses")
    found_models, held = finished.models()
    with meter_of(work, paid, "analyses", "analyses") as meter:
        meters = {name: replace(meter, template=billing.event_of(paid, held[name])) for name in held}
        models = {name: replace(model, meter=meters[name]) for name, model in found_models.items()}
        found = measured(finished, models, chosen, data, config, work.begin, work.say)
    settings = replace(protocol(chosen, config, finished.tuned), seen_in_training=tuple(finished.seen(chosen)))
    result = replace(found, protocol=settings, bill=finished.bill(), versions=versions())
    with new_folder(folder, replace=True) as aside:
        write_analyses(aside, result, f"Analyses of the final run, {work.system.name}")
