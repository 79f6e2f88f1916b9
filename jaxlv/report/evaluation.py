"""The report of a run: the result in plain words, captions that state the protocol, the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.forecasting.panels import ForecastPanel
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.page import (
    Block,
    Figure,
    Page,
    Pairs,
    Section,
    duration,
    number,
    percent,
    plain,
    svg,
    write,
)
from jaxlv.report.tables.metrics import (
    conformal_measures,
    format_samples,
    format_table,
    measures,
    sample_measures,
    table,
    unit_of,
    value_at,
    variable_measures,
)

__all__ = ["ForecastPanel", "choose_series", "format_samples", "format_table", "run_page", "summary", "write_report"]

MODELS = ("tuned", "untuned")  # rows with these names are the model's; the others are baselines

# ------------------------------------------------------------------------------------------ summary


def _row(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((row for row in metrics["rows"] if row["name"] == name), None)


def subject(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that the report is about: the tuned model, else the untuned one, else the first."""
    return _row(metrics, "tuned") or _row(metrics, "untuned") or next(iter(metrics["rows"]), None)


def _against(ours: Mapping[str, Any], other: Mapping[str, Any], whom: str) -> str:
    """How two MAEs compare, in words: "68 % below the error of the untuned model (0.157)"."""
    mae, reference = ours["mae"], other["mae"]
    if not mae or not reference:
        return f"against {number(reference)} for {whom}"
    ratio = max(mae, reference) / min(mae, reference)
    side = "below" if mae < reference else "above"
    if number(mae) == number(reference):
        comparison = f"the same as the error of {whom}"
    elif ratio >= 2:
        comparison = f"{_times(ratio)} times {'smaller' if mae < reference else 'larger'} than the error of {whom}"
    else:
        comparison = f"{number(100 * abs(1 - mae / reference))} % {side} the error of {whom}"
    pair = (value_at(ours, "mae_ci95"), value_at(other, "mae_ci95"))
    overlap = all(pair) and max(pair[0][0], pair[1][0]) <= min(pair[0][1], pair[1][1])
    return f"{comparison} ({number(reference)}{'; the intervals overlap' if overlap else ''})"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f}" if ratio < 1e6 else f"{ratio:.0e}"


def summary(metrics: Mapping[str, Any]) -> str:
    """The result in plain words: the model's error, the untuned model's and the best baseline's."""
    row, protocol = subject(metrics), metrics.get("protocol", {})
    if row is None or value_at(row, "mae") is None:
        return "No forecast was measured."
    who = f"the {row['name']} model" if row["name"] in MODELS else str(row["name"])
    given = f"Given {protocol['context']} steps of context, " if protocol.get("context") else ""
    where = f" of the next {protocol['horizon']} steps" if protocol.get("horizon") else ""
    details = ["mean absolute error"]
    interval, median = value_at(row, "mae_ci95"), value_at(row, "mae_median")
    if interval:
        details.append(f"95 % interval {number(interval[0])} to {number(interval[1])}")
    if median is not None:
        details.append(f"median over series {number(median)}")
    error = f"{number(row['mae'])} {unit_of(metrics, 'mae')}"
    opening = f"{given}the forecast{where} by {who} is off by {error} on average"
    sentences = [f"{opening[0].upper()}{opening[1:]} ({'; '.join(details)})."]
    untuned = _row(metrics, "untuned")
    others = [r for r in metrics["rows"] if r["name"] not in MODELS and r is not row]
    baselines = [other for other in others if value_at(other, "mae") is not None]
    comparisons = []
    if row["name"] == "tuned" and untuned and value_at(untuned, "mae") is not None:
        comparisons.append(_against(row, untuned, "the untuned model"))
    oracles = [other for other in baselines if "oracle" in other["name"]]  # they know the equations: no rivals, but a bound
    if rivals := [other for other in baselines if other not in oracles]:
        best = min(rivals, key=lambda r: r["mae"])
        comparisons.append(_against(row, best, f"the best baseline, {best['name']}"))
    if comparisons:
        sentences.append(f"This is {', and '.join(comparisons)}.")
    for oracle in oracles:
        sentences.append(f"{oracle['name']}, which knows the equations, is off by {number(oracle['mae'])}.")
    eighty, valid = value_at(row, "coverage", "80"), value_at(row, "valid_share")
    if eighty is not None:
        sentences.append(f"Its 80 % bands hold {percent(eighty)} % of the true values.")
    nats, before = value_at(row, "nats_per_value"), value_at(untuned or {}, "nats_per_value")
    if nats is not None:
        against = f" ({number(before)} by the untuned model)" if before is not None and untuned is not row else ""
        sentences.append(f"The truth costs it {number(nats)} nats per value{against}.")
    if valid is not None:
        sentences.append(f"Of its samples, {percent(valid)} % are valid.")
    return " ".join(sentences)


# ----------------------------------------------------------------------------------------- captions


def protocol_text(metrics: Mapping[str, Any]) -> str:
    """The evaluation's settings in a sentence each, as far as `metrics["protocol"]` has them."""
    p = metrics.get("protocol", {})
    series = p.get("series")
    count = len(series) if isinstance(series, (list, tuple)) else series
    parts = [f"{count} series" if count is not None else "", f"of {p['data']}" if p.get("data") else ""]
    steps = [f"{p[key]} steps of {word}" for key, word in (("context", "context"), ("horizon", "forecast")) if p.get(key)]
    draws = [f"{p['samples']} samples per series, their median scored"] if p.get("samples") else []
    sentences = ["; ".join(filter(None, [" ".join(filter(None, parts)), *steps, *draws]))]
    if p.get("scale"):
        peeks = p.get("scale_peeks_at_future")
        sight = {
            True: ", fitted on values that include the future",
            False: ", fitted on the context alone",
        }.get(peeks, "")
        decimals = f", {p['decimals']} decimals" if p.get("decimals") is not None else ""
        sentences.append(f"Scale rule “{p['scale']}”{sight}{decimals}")
    sampling = p.get("sampling") or {}
    words = [f"{key.replace('_', ' ')} {plain(value)}" for key, value in sampling.items() if not isinstance(value, bool)]
    words = ["top-k off" if word == "top k 0" else word.replace("top ", "top-") for word in words]
    if "grammar" in sampling:
        words.append("number grammar " + ("on" if sampling["grammar"] else "off"))
    picked = p.get("temperature_chosen_on")
    if picked:
        each = ", ".join(f"{name} {plain(value)}" for name, value in picked["chosen"].items())
        series_of = f"{len(picked['validation'])} validation series"
        words = [word for word in words if not word.startswith("temperature ")]
        words.insert(0, f"temperature of least CRPS on {series_of} ({each})")
    if p.get("seed") is not None:
        words.append(f"seed {p['seed']}")
    if words:
        sentences.append(f"Sampling: {', '.join(words)}")
    return ". ".join(filter(None, sentences)) + "." if any(sentences) else ""


_READING = (
    "Bold: the best of its column (coverage: nearest to its band). Intervals are bootstrapped over series;"
    " the median is over series; “first 5” is the mean over the first five steps. MASE: error over the mean"
    " step-to-step change of the context. Valid samples: with the number grammar (masked) and without it"
    " (free). “–”: does not apply."
)


def choose_series(
    metrics: Mapping[str, Any],
    ids: Iterable[int] | None = None,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
) -> dict[int, str]:
    """The series at `quantiles` of the model's MAE, with words that say so; the first ids if unknown.

    The series are all that were evaluated, or those of `ids`.
    """
    by_series = (subject(metrics) or {}).get("mae_by_series") or {}
    errors = {int(key): mae for key, mae in by_series.items()}
    held = sorted(errors if ids is None else set(ids))
    ranked = sorted((errors[i], i) for i in held if errors.get(i) is not None and math.isfinite(errors[i]))
    if not ranked:
        return {i: "" for i in held[: len(quantiles)]}
    chosen: dict[int, str] = {}
    for q in quantiles:
        mae, series_id = ranked[round(q * (len(ranked) - 1))]
        rank = f", the {100 * q:.0f}th percentile of {len(ranked)} series" if len(ranked) > len(quantiles) else ""
        chosen.setdefault(series_id, f"MAE {number(mae)} {unit_of(metrics, 'mae')}{rank}")
    return chosen


def _forecast_block(panel: ForecastPanel, why: str, first: bool, name: str) -> Figure:
    label = f"Series {panel.series_id}"
    svgs = [
        svg(
            figures.forecast_figure(panel),
            f"{label}: forecast of {' and '.join(panel.variables)} by the {name} model",
        )
    ]
    if len(panel.variables) > 1:
        pair = " against ".join(reversed(panel.variables[:2]))
        svgs.append(svg(figures.phase_figure(panel), f"{label}: phase plane, {pair}"))
    total = len(panel.samples_SHV)
    broken = int((~np.isfinite(panel.samples_SHV).all(axis=(1, 2))).sum())
    words = [f"{label} ({why})." if why else f"{label}."]
    if first:
        words.append(
            f"Against time: context and truth in ink, the {name} model’s median in colour with its 50, 80 and"
            f" 95 % bands over {total} samples. In the phase plane: the same with up to five single samples;"
            " the dot marks the last step of context."
        )
    if broken:
        words.append(
            f"{broken} of {total} samples stopped early or did not parse; they stay at their last complete step, and count."
        )
    if panel.is_cut:
        words.append("The axes end at three times the largest observed value; the 95 % band goes on.")
    return Figure(svgs, " ".join(words), "full")


def _error_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    rows, unit = metrics["rows"], unit_of(metrics, "mae")
    blocks: list[Block] = []
    if any(value_at(row, "mae") for row in rows):
        caption = (
            "Mean absolute error of each method: mean over series with its 95 % bootstrap interval, and"
            " median over series. A median well below the mean shows that few series carry the error."
        )
        label = "Mean absolute error of each method with 95 % intervals"
        blocks.append(Figure([svg(figures.interval_figure(rows, unit=unit), label)], caption))
    if any(row.get("mae_by_step") for row in rows):
        caption = "Mean absolute error by step ahead, averaged over series and variables; logarithmic axis."
        blocks.append(
            Figure(
                [svg(figures.step_error_figure(rows, unit=unit), "Mean absolute error by step ahead")],
                caption,
            )
        )
    return blocks


def _sample_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    """The table and the calibration of the rows that have samples, where they have more than the main table shows."""
    rows = [row for row in metrics["rows"] if row.get("calibration") or value_at(row, "energy_score") is not None]
    if not rows:
        return []
    protocol = metrics.get("protocol", {})
    words = [
        "The forecasts as distributions; smaller scores are better. CRPS: of each variable alone; energy: the same for"
        " the variables together. Width: mean width of the band, better if smaller at equal coverage. Likelihood: the"
        " mean cost of a true value given all before it, −log of the model’s density per raw unit; below zero where"
        " the density exceeds one."
    ]
    chosen = {**metrics, "rows": rows}
    blocks: list[Block] = [table("Sampled trajectories", " ".join(words), chosen, sample_measures(chosen))]
    conformal = protocol.get("conformal")
    if conformal and conformal_measures(chosen):
        adjusted = (
            "The same bands, adjusted: stretched about the median by split-conformal factors, one for each step and"
            f" variable, found on {len(conformal['validation'])} validation series."
        )
        left_out = conformal.get("levels_with_too_few_series")
        if left_out:
            adjusted += f" These are too few for the band of {' and '.join(f'{level} %' for level in left_out)}."
        blocks.append(table("Adjusted bands", adjusted, chosen, conformal_measures(chosen)))
    if any(row.get("calibration") for row in rows):
        words = [
            "Calibration: the share of true values inside each central band of the samples, against the share that it"
            " should hold. Below the diagonal the bands are too narrow, above it too wide. Shaded: 95 % bootstrap over"
            " series."
        ]
        ceiling = next((value_at(row, "calibration_ceiling") for row in rows if row.get("calibration")), None)
        if ceiling is not None and protocol.get("samples"):
            words.append(
                f"{protocol['samples']} samples of the right distribution hold {percent(ceiling)} % on average between the"
                " least and the greatest of them: no band can reach further, and wider ones are left out."
            )
        if any(row.get("calibration_as_intervals") for row in rows):
            words.append(
                "Dashed: with each sample read as the interval that its text stands for, one unit of the last decimal. Of"
                " a calibrated model the diagonal lies between the two lines; the gap between them is the rounding."
            )
        if conformal:
            words.append("Diamonds: the adjusted bands, which may reach beyond the samples.")
        drawing = svg(figures.calibration_figure(metrics["rows"]), "Observed against nominal coverage of the bands")
        blocks.append(Figure([drawing], " ".join(words), "side"))
    return blocks


def _training_blocks(history: Sequence[Mapping[str, Any]], unit: str) -> list[Block]:
    if not any(len(figures.curve(history, key)[0]) for key in ("loss", "forecast_mae")):
        return []
    words = ["Training against the step."]
    if len(figures.curve(history, "loss")[0]):
        words.append("Loss: cross-entropy per real token, on the training batch")
        words[-1] += " and on held-out windows." if len(figures.curve(history, "validation_loss")[0]) else "."
    if len(figures.curve(history, "forecast_mae")[0]):
        words.append("Forecast MAE: on validation series, during training.")
    rate_S = figures.curve(history, "learning_rate")[1]
    if len(rate_S) and np.ptp(rate_S) == 0:
        words.append(f"The learning rate is {rate_S[0]:g} throughout.")
    return [
        Figure(
            [svg(figures.loss_figure(history, unit=unit), "Loss curves of the training")],
            " ".join(words),
            "side",
        )
    ]


# ---------------------------------------------------------------------------------- the page of a run

# key of the bill -> its name and how it is written; other keys appear as they are
_BILL: dict[str, tuple[str, Callable[[Any], str]]] = {
    "steps": ("Training steps", lambda value: f"{value:,}"),
    "tokens": ("Tokens trained on", lambda value: f"{value:,}"),
    "seconds": ("Training time", duration),
    "trainable_parameters": ("Trainable parameters", lambda value: f"{value:,}"),
    "device": ("Device", str),
    "peak_memory_bytes": ("Peak memory", lambda value: f"{number(value / 2**30)} GiB"),
}


def bill_pairs(bill: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The bill as names and values, without what is unknown."""
    known = {key: value for key, value in bill.items() if value is not None and value == value}
    pairs = [(name, write(known.pop(key))) for key, (name, write) in _BILL.items() if key in known]
    return pairs + [(key.replace("_", " ").capitalize(), plain(value)) for key, value in known.items()]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", plain(value)))
    return pairs


def result_sections(metrics: Mapping[str, Any], forecasts: Sequence[ForecastPanel] = ()) -> list[Section]:
    """What an evaluation found: errors, forecasts of the chosen series, and the samples as distributions."""
    caption = " ".join(filter(None, [protocol_text(metrics), _READING]))
    results: list[Block] = [table("Forecast errors of each method", caption, metrics, measures(metrics))]
    by_variable = variable_measures(metrics)
    if by_variable:
        units = f"MAE in {unit_of(metrics, 'mae')}, MSE in {unit_of(metrics, 'mse')}"
        results.append(table("Errors by variable", f"The same forecasts by variable: {units}.", metrics, by_variable))
    panels = {panel.series_id: panel for panel in forecasts}
    chosen = choose_series(metrics)
    if not chosen or not chosen.keys() <= panels.keys():
        chosen = choose_series(metrics, panels)
    name = str((subject(metrics) or {}).get("name", "tuned"))
    drawn = [_forecast_block(panels[i], why, n == 0, name) for n, (i, why) in enumerate(chosen.items())]
    rule = "The series are chosen by the rank of their error." if len(drawn) > 1 and all(chosen.values()) else ""
    return [
        Section("Forecast errors", [*results, *_error_blocks(metrics)]),
        Section("Forecasts", drawn, rule),
        Section("Uncertainty", _sample_blocks(metrics)),
    ]


def settings_section(*lists: tuple[str, Mapping[str, Any]]) -> Section:
    """Settings, versions and the like, by their headings; an empty one is left out."""
    return Section("Settings and versions", [Pairs(label, _flat(tree)) for label, tree in lists if tree])


def run_page(
    *,
    title: str,
    metrics: Mapping[str, Any],
    forecasts: Sequence[ForecastPanel],
    history: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    versions: Mapping[str, Any],
    bill: Mapping[str, Any],
) -> Page:
    """The page of one run or evaluation; a part without data is absent."""
    return Page(
        title,
        summary(metrics),
        bill_pairs(bill),
        [
            *result_sections(metrics, forecasts),
            Section("Training", _training_blocks(history, unit_of(metrics, "mae"))),
            settings_section(
                ("Settings of the run", settings),
                ("Protocol of the evaluation", metrics.get("protocol", {})),
                ("Versions", versions),
            ),
        ],
    )


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    forecasts: Sequence[ForecastPanel] = (),
    history: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    bill: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of a run to `path`, whole or not at all.

    `metrics` is metrics.json; `history` the records of metrics.jsonl (see figures.loss_figure); `settings`
    and `versions` may nest; `bill` may hold steps, tokens, seconds, trainable_parameters, device,
    peak_memory_bytes, and others. Of `forecasts` (the tuned model's, else the untuned one's) the page
    draws those that `choose_series` picks.
    """
    page = run_page(
        title=title,
        metrics=metrics,
        forecasts=forecasts,
        history=history,
        settings=settings or {},
        versions=versions or {},
        bill=bill or {},
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, page)
