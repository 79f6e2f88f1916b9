"""The protocols of the four papers on their data set: runs, forecasts, and their figures beside ours and the baselines'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxlv.config import RunConfig
from jaxlv.data import loading
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.weights import resolve
from jaxlv.published.protocols import PROTOCOLS, PaperProtocol, Part, test_series
from jaxlv.report import page, papers
from jaxlv.results.papers import BaseCost, Comparison, PaperCost, PartResult, ProtocolResult, Spent
from jaxlv.runs import billing, interrupts, run
from jaxlv.storage import foreign, shape
from jaxlv.storage.door import is_there
from jaxlv.storage.files import begun_folder, new_folder, read_json, remove_unfinished, write_json, write_text
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.scoring import PARTS, baseline_rows, draw, drawings, forecast_part, part_result, pool_row
from jaxlv.studies.train import train
from jaxlv.versions import versions

RESULT = "compare.json"
RUNS = "runs"


@dataclass(frozen=True)
class Request:
    """A comparison that is asked for. `purpose` names its forecasts in the ledger of a run.

    The base is tuned on each paper's training split as `config` says, unless a `run` of one's own is given.
    """

    data: Path
    config: RunConfig
    protocols: Sequence[str] = tuple(PROTOCOLS)
    run: Path | None = None
    most: int | None = None  # series of each part
    tuned_only: bool = False
    pooled: bool = False  # whether the pool of the tuned model and some baselines is measured, too
    purpose: str = "compare"


@dataclass(frozen=True)
class _Comparison:
    """A comparison under way in a folder."""

    asked: Request
    data: SeriesSet
    given: run.FinishedRun | None
    out: Path
    resume: bool
    begin: Begin
    say: Say

    def protocol(self, name: str) -> ProtocolResult:
        """Measures the parts of a protocol that are not measured yet. Returns its entry of compare.json."""
        protocol, parts = PROTOCOLS[name], {}
        runs: dict[str, run.FinishedRun] = {}
        for part in protocol.parts:
            if self.given and part.scale not in ("", self.given.config.codec.scale):
                self.say(f"{part.name}: not scored; the run was not tuned with the scale {part.scale}")
                continue
            if part.scale not in runs:
                runs[part.scale] = self.given or self.tuned(protocol, part.scale)
            if found := self.part(protocol, part, runs[part.scale]):
                parts[part.name] = found
        return ProtocolResult(
            parts,
            PaperCost(protocol.flops_words, protocol.flops),
            {share: len(ids) for share, ids in protocol.split(self.data.ids_N).parts().items()},
            flops_of([*runs.values()]),
            None if self.asked.run is None else self.asked.run.name,
        )

    def tuned(self, protocol: PaperProtocol, scale: str) -> run.FinishedRun:
        """Returns the run of a protocol's own split, trained to its end if that was not done yet."""
        config, folder = self.asked.config, self.out / RUNS / "-".join(filter(None, [protocol.name, scale]))
        if scale:
            config = replace(config, codec=replace(config.codec, scale=scale))  # type: ignore[arg-type]
        train_ids, validation_ids, test_ids = (
            tuple(ids.tolist()) for ids in protocol.split(self.data.ids_N).parts().values()
        )
        shares = replace(config.data, train_ids=train_ids, validation_ids=validation_ids, test_ids=test_ids)
        config = replace(config, data=shares)
        remove_unfinished(folder)
        if not (folder / run.ADAPTER).is_dir():
            train(config, folder, resume=self.resume and folder.is_dir(), begin=self.begin, say=self.say)
        return run.load_run(folder)

    def part(self, protocol: PaperProtocol, part: Part, finished: run.FinishedRun) -> PartResult | None:
        """Returns a part's entry, measured if that was not done yet; None if the run has seen its test series."""
        chosen = test_series(protocol, part, self.data)
        chosen = chosen.select(chosen.ids_N[: self.asked.most])
        if seen := len(finished.seen(chosen)):
            self.say(f"{part.name}: not scored; the run has seen {seen} of its {len(chosen)} test series")
            return None
        kept = self.out / PARTS / f"{part.name}.json"
        if not is_there(kept):
            with finished.metered(f"{self.asked.purpose} {part.name}") as models:
                used = {name: one for name, one in models.items() if name == "tuned" or not self.asked.tuned_only}
                write_json(kept, self.measured(part, chosen, used, finished).tree(), indent=None)
        found = PartResult.read(read_json(kept), kept)
        self.say(f"\n{papers.format_part(found)}\n")
        return found

    def measured(
        self, part: Part, chosen: SeriesSet, models: Mapping[str, Sampler], finished: run.FinishedRun
    ) -> PartResult:
        """Returns a part's entry: its settings and a row for each model and baseline. Writes forecasts to CSV files."""
        rows, pooled, drawing, settings = [], [], "", finished.config.evaluate
        for name, model in models.items():
            row, forecast = forecast_part(part, chosen, name, model, settings, begin=self.begin)
            forecast.write_csv(self.out / f"{part.name}{'' if name == 'tuned' else f'-{name}'}.csv")
            if name == "tuned":
                drawing = draw(part, chosen, forecast, row.mae_by_series or {}, self.out)
                pooled = [pool_row(part, chosen, model, forecast, settings)] if self.asked.pooled else []
            rows.append(row)
        rows += [*pooled, *baseline_rows(part, chosen)]
        return part_result(part, chosen, rows, scale=finished.config.codec.scale, seed=settings.seed, drawing=drawing)


def compare(
    asked: Request,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    begin: Begin = Silent,
    say: Say = unsaid,
) -> Comparison:
    """Runs the protocols, and writes forecasts, figures, compare.json, compare.txt and report.html to `out`.

    Returns compare.json. With `resume` finished runs and parts are kept; with `overwrite` an older comparison is replaced
    once the new one is complete. Raises JaxlvError if a protocol is unknown, if the data are not the papers', if `out`
    exists and is neither resumed nor replaced, or if a run cannot be trained.
    """
    if overwrite and resume:
        raise JaxlvError("a comparison goes on or begins anew, not both", where="--overwrite, --resume")
    if overwrite:
        with new_folder(out, replace=True, made_by=RESULT) as work, interrupts.nothing_kept():
            return compare(asked, work, begin=begin, say=say)
    for name in asked.protocols:
        if name not in PROTOCOLS:
            raise JaxlvError("unknown protocol", where="--protocols", expected=", ".join(PROTOCOLS), found=name)
    data = loading.load(asked.data)
    given = run.load_run(asked.run) if asked.run else None
    for name in asked.protocols:  # another data set is refused before anything is trained
        test_series(PROTOCOLS[name], PROTOCOLS[name].parts[0], data)
    going = _Comparison(asked, data, given, out, begun_folder(out, PARTS, resume), begin, say)
    remove_unfinished(out / RUNS)
    protocols = {name: going.protocol(name) for name in asked.protocols}
    cost = base_cost((given.config if given else asked.config).model.path)
    result = Comparison(protocols, Path(asked.data).name, data.source.get("sha256"), cost, versions())
    write_json(out / RESULT, result.tree())
    page.write(out / "report.html", papers.page_of(result, drawings(out / PARTS)))
    write_text(out / "compare.txt", papers.format_text(result))
    return result


def flops_of(runs: Sequence[run.FinishedRun]) -> Spent | None:
    """Returns what the runs' ledgers say was spent, by kind of work; None if a run has no ledger."""
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
    return Spent(**spent, total=sum(spent.values()), budget=budget, convention=convention, repeated=repeated)


def base_cost(model: str) -> BaseCost | None:
    """Returns what the base itself cost, if its folder says so. Raises JaxlvError if the record is not what it should be."""
    folder, name = resolve(model), "training.json"
    tree = foreign.settings(folder, name)
    if tree is None:
        return None
    shape.check(tree, {"flops": (float, {"coursework": float, str: float})}, folder / name)
    return BaseCost.read(tree, folder / name)
