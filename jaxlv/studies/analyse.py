"""A look into a tuned run: training, costs of tokens, text format, errors, LM head, adapters and padding, in a folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.analysis import analyses, anatomy, logits
from jaxlv.config import EvaluateConfig
from jaxlv.data.series import SeriesSet
from jaxlv.errors import JaxlvError, NotFinite
from jaxlv.forecasting.evaluate import protocol, truth_of
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.memory import TooLarge
from jaxlv.model.weights import base_of
from jaxlv.report import analyses as report
from jaxlv.report import page
from jaxlv.results.analyses import Analyses
from jaxlv.results.anatomy import TokenCosts
from jaxlv.runs import run
from jaxlv.storage.files import check_free, new_folder, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Asked, Models, open_subject
from jaxlv.text.tokens import token_texts
from jaxlv.versions import versions

RESULT, REPORT = "analyses.json", "report.html"
SHOWN = 972  # the series whose text is read back if the data have it: the one that a paper shows


def analyse(
    asked: Asked,
    out: Path | None = None,
    headroom: float | None = None,
    begin: Begin = Silent,
    say: Say = unsaid,
    *,
    overwrite: bool = False,
) -> Analyses:
    """Analyses a run, and writes analyses.json, tables, figures and report.html into `out`, or RUN/analyses if it is None.

    Series are written with this `headroom` if it is not None. Returns what analyses.json holds. Raises JaxlvError if
    the subject is not a run, if the series or the settings do not fit, or if `out` exists (with `overwrite`, if it is not
    such a folder).
    """
    run.read_manifest(Path(asked.subject))  # raises if it is not a run
    place = out or Path(asked.subject) / "analyses"
    check_free(place, overwrite, RESULT)
    subject = open_subject(asked)
    assert subject.run
    chosen = subject.chosen(asked.series, asked.most)
    config = replace(subject.config.evaluate, **asked.protocol)
    truth_of(chosen, config.context, config.horizon)  # raises if the series are too short
    written_so = with_headroom(subject.run.tuned, headroom)
    with subject.paying(asked.purpose) as models, new_folder(place, replace=overwrite, made_by=RESULT) as work:
        models = {name: with_headroom(model, headroom) for name, model in models.items()}
        found = measured(subject.run, models, chosen, subject.data, config, begin, say)
        settings = replace(protocol(chosen, config, written_so), seen_in_training=tuple(subject.seen(chosen)))
        result = replace(found, protocol=settings, bill=subject.run.bill(), versions=versions())
        write(work, result, f"Analyses of {subject.name}")
    return result


def measured(
    finished: run.FinishedRun,
    forecasters: Models,
    chosen: SeriesSet,
    data: SeriesSet,
    config: EvaluateConfig,
    begin: Begin = Silent,
    say: Say = unsaid,
) -> Analyses:
    """Returns every analysis. One that its run or its budget does not allow is in `left_out`, with the reason."""
    for forecaster in forecasters.values():
        forecaster.check_fits(chosen, Request.of(config))

    @functools.cache
    def drawn() -> analyses.Drawn:
        with begin("forecasts", len(chosen) * len(forecasters)) as bar:
            before = dict(zip(forecasters, range(0, len(chosen) * len(forecasters), len(chosen)), strict=True))
            return analyses.draw(forecasters, chosen, config, lambda name, done: bar.update(before[name] + done, name))

    parts = {
        **_parts_of_text(finished, forecasters, chosen, data, config),
        **_parts_of_errors(forecasters, drawn),
        **_parts_of_weights(finished),
        "padding": lambda: logits.padding_sides(forecasters["tuned"], chosen, config.context),
    }
    found, left_out = Analyses(), dict[str, str]()
    for number, (name, compute) in enumerate(parts.items(), 1):
        say(f"{number}/{len(parts)} {name}")
        try:
            found = replace(found, **{name: compute()})
        except (NotFinite, TooLarge):
            raise
        except JaxlvError as fault:
            left_out[name] = str(fault)
            say(f"left out: {fault}")
    return replace(found, left_out=left_out)


Parts = dict[str, Callable[[], Any]]


def _parts_of_text(
    finished: run.FinishedRun, forecasters: Models, chosen: SeriesSet, data: SeriesSet, config: EvaluateConfig
) -> Parts:
    tuned, history = forecasters["tuned"], run.read_metrics(finished.folder / run.METRICS)
    shown = SHOWN if SHOWN in data.ids_N.tolist() else chosen.ids_N.tolist()[0]
    written = data.select(list(dict.fromkeys([shown, *chosen.ids_N.tolist()])))

    def tokens() -> dict[str, TokenCosts]:
        size = config.read_together
        return {name: logits.token_costs(model, chosen, config.context, size) for name, model in forecasters.items()}

    return {
        "training": lambda: anatomy.training_curves(history, finished.config.optimizer.clip_norm),
        "tokens": tokens,
        "round_trip": lambda: analyses.round_trip(written, tuned.codec, tuned.alphabet, config.context, shown),
    }


def _parts_of_errors(forecasters: Models, drawn: Callable[[], analyses.Drawn]) -> Parts:
    return {
        "growth": lambda: analyses.error_growth(drawn()),
        "errors": lambda: analyses.error_distribution(drawn()),
        "series": lambda: analyses.series_errors(drawn()),
        "extremes": lambda: analyses.extremes(drawn()),
        "ceiling": lambda: {name: analyses.ceiling(drawn(), model, name) for name, model in forecasters.items()},
    }


def _parts_of_weights(finished: run.FinishedRun) -> Parts:
    params, lora = finished.tuned.variables["params"], finished.tuned.variables["lora"]
    base = base_of(finished.config.model)
    return {
        "head": lambda: anatomy.head_change(lora, params, finished.tuned.alphabet, lambda ids: token_texts(base, ids)),
        "spectra": lambda: anatomy.adapter_spectra(lora, params),
    }


def with_headroom(forecaster: Sampler, headroom: float | None) -> Sampler:
    """Returns the forecaster, writing with this head-room alone. Raises JaxlvError if its scale has none."""
    if headroom is None:
        return forecaster
    if forecaster.codec.scale != "context":
        raise JaxlvError("the run's scale has no head-room", where="--headroom", found=forecaster.codec.scale)
    return replace(forecaster, codec=replace(forecaster.codec, headroom=headroom, headrooms=()))


def write(out: Path, result: Analyses, title: str) -> None:
    """Writes analyses.json, the tables, the figures and the page into a folder."""
    write_json(out / RESULT, result.tree())
    for folder in ("tables", "figures"):
        (out / folder).mkdir()
    for name, sheet in result.sheets.items():
        frame = pd.DataFrame(sheet.rows, columns=list(sheet.columns))
        write_csv(out / "tables" / f"{name}.csv", frame, float_format="%.6g")
    page.write(out / REPORT, report.page_of(result, title), out / "figures")
