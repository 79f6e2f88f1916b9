"""What a page says of an evaluation: the result in plain words, captions that state the protocol, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlv.report import terminal
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.format import duration, number, percent, plain, text
from jaxlv.report.page import Block, Drawing, Figure, Pairs, Section, figure
from jaxlv.report.table import NAME, Table, held
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import LEVELS, Errors, Evaluation, Picked, Protocol, Score

# ------------------------------------------------------------------------------------------ what is shown

MAIN = (
    "mae", "mae_ci95", "mae_median", "mae_first_5", "mse", "r2", "mase", "crps", *(f"coverage/{level}" for level in LEVELS),
    "valid_share", "valid_share_unmasked",
)  # fmt: skip
GIVE_UP = ("mse", "valid_share_unmasked", "r2", "mae_first_5", "crps", "coverage/50", "coverage/95", "mae_ci95",
           "coverage/80", "valid_share")  # fmt: skip
"""The columns that a narrow terminal goes without, the first one first."""
SAMPLES = (
    "crps", "energy_score", "energy_score_ci95", *(f"coverage/{level}" for level in LEVELS),
    *(f"interval_width/{level}" for level in LEVELS), "nats_per_value", "nats_per_value_ci95",
)  # fmt: skip
ADJUSTED = tuple(f"{key}_conformal/{level}" for key in ("coverage", "interval_width") for level in LEVELS)
BY_VARIABLE = ("mae", "mse", "r2", "mase")


def main_table(found: Evaluation) -> Table:
    """Returns the errors of every method."""
    caption = " ".join(filter(None, [protocol_text(found.protocol), _READING]))
    return Table("Forecast errors of each method", caption, found.rows, [NAME, *found.measures(*MAIN)])


def variable_table(found: Evaluation) -> Table:
    """Returns the errors by variable, without columns that no row has."""
    variables = dict.fromkeys(name for row in found.rows for name in row.per_variable or {})
    measures = Errors.columns(*BY_VARIABLE)
    columns = [one.within("per_variable", v, head=one.words, group=v, unit="") for v in variables for one in measures]
    units = ", ".join(f"{one.words} in {found.protocol.unit(one)}" for one in Errors.columns("mae", "mse"))
    caption = f"The same forecasts by variable: {units}."
    return Table("Errors by variable", caption, found.rows, [NAME, *held(columns, found.rows)])


def sampled(found: Evaluation) -> list[Score]:
    """Returns the rows that have more than the main table shows, which need samples."""
    return [row for row in found.rows if row.calibration or row.energy_score is not None]


def sample_table(found: Evaluation, *paths: str, label: str = "Sampled trajectories", caption: str = "") -> Table:
    """Returns the measures of the samples, without columns that no row has."""
    rows = sampled(found)
    return Table(label, caption, rows, [NAME, *held(found.measures(*(paths or SAMPLES)), rows)])


def format_table(found: Evaluation, width: int = terminal.WIDTH) -> str:
    """Returns the main table for a terminal of at most `width` columns."""
    columns = held(found.measures(*MAIN), found.rows)
    shown = [replace(one, group="inside" if one.key == "coverage" else "") for one in columns]
    return terminal.table(Table("", "", found.rows, [NAME, *shown]), width, GIVE_UP, grouped=True)


def format_samples(found: Evaluation) -> str:
    """Returns the measures of samples for a terminal, a column for each model; empty if no row has samples."""
    table = sample_table(found, "temperature", *SAMPLES, *ADJUSTED)
    return terminal.listed(table) if table.rows else ""


# ------------------------------------------------------------------------------------------ summary


def _against(ours: Score, other: Score, whom: str) -> str:
    """Says how two MAEs compare: "68 % below the error of the untuned model (0.157)"."""
    mae, reference = ours.mae, other.mae
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
    pair = (ours.mae_ci95, other.mae_ci95)
    overlap = pair[0] and pair[1] and max(pair[0][0], pair[1][0]) <= min(pair[0][1], pair[1][1])
    return f"{comparison} ({number(reference)}{'; the intervals overlap' if overlap else ''})"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f}" if ratio < 1e6 else f"{ratio:.0e}"


def summary(found: Evaluation) -> str:
    """Says the result in plain words: the model's error, the untuned model's and the best baseline's."""
    row, protocol = found.subject, found.protocol
    if row is None or row.mae is None:
        return "No forecast was measured."
    who = f"the {row.name} model" if row.is_model else row.name
    given = f"Given {protocol.context} steps of context, " if protocol.context else ""
    where = f" of the next {protocol.horizon} steps" if protocol.horizon else ""
    details = ["mean absolute error"]
    if row.mae_ci95:
        details.append(f"95 % interval {number(row.mae_ci95[0])} to {number(row.mae_ci95[1])}")
    if row.mae_median is not None:
        details.append(f"median over series {number(row.mae_median)}")
    opening = f"{given}the forecast{where} by {who} is off by {number(row.mae)} {_unit(found)} on average"
    sentences = [f"{opening[0].upper()}{opening[1:]} ({'; '.join(details)})."]
    untuned = found.row("untuned")
    comparisons = []
    if row.name == "tuned" and untuned and untuned.mae is not None:
        comparisons.append(_against(row, untuned, "the untuned model"))
    if found.rivals:
        best = min(found.rivals, key=lambda rival: rival.mae or 0.0)
        comparisons.append(_against(row, best, f"the best baseline, {best.name}"))
    if comparisons:
        sentences.append(f"This is {', and '.join(comparisons)}.")
    for bound in found.rows:
        if bound.knows_the_equations and bound is not row and bound.mae is not None:
            sentences.append(f"{bound.name}, which knows the equations, is off by {number(bound.mae)}.")
    return " ".join([*sentences, *_of_samples(row, untuned)])


def _of_samples(row: Score, untuned: Score | None) -> list[str]:
    """Says what a summary has of a model's samples."""
    sentences = []
    if (eighty := (row.coverage or {}).get("80")) is not None:
        sentences.append(f"Its 80 % bands hold {percent(eighty)} % of the true values.")
    if row.nats_per_value is not None:
        before = untuned.nats_per_value if untuned and untuned is not row else None
        against = f" ({number(before)} by the untuned model)" if before is not None else ""
        sentences.append(f"The truth costs it {number(row.nats_per_value)} nats per value{against}.")
    if row.valid_share is not None:
        sentences.append(f"Of its samples, {percent(row.valid_share)} % are valid.")
    return sentences


def _unit(found: Evaluation) -> str:
    """Returns the unit of the MAE."""
    return found.measures("mae")[0].unit


# ----------------------------------------------------------------------------------------- captions


def protocol_text(p: Protocol) -> str:
    """Says the evaluation's settings, a sentence each, as far as the protocol has them."""
    parts = [f"{p.count} series" if p.count is not None else "", f"of {p.data}" if p.data else ""]
    steps = [f"{steps} steps of {word}" for steps, word in ((p.context, "context"), (p.horizon, "forecast")) if steps]
    draws = [f"{p.samples} samples per series, their median scored"] if p.samples else []
    sentences = ["; ".join(filter(None, [" ".join(filter(None, parts)), *steps, *draws]))]
    if p.scale:
        sight = {True: ", fitted on values that include the future", False: ", fitted on the context alone", None: ""}
        decimals = f", {p.decimals} decimals" if p.decimals is not None else ""
        sentences.append(f"Scale rule “{p.scale}”{sight[p.scale_peeks_at_future]}{decimals}")
    if told := _sampling_words(p):
        sentences.append(f"Sampling: {', '.join(told)}")
    return ". ".join(filter(None, sentences)) + "." if any(sentences) else ""


def _sampling_words(p: Protocol) -> list[str]:
    """Says how samples were drawn."""
    sampling, picked = p.sampling or {}, p.temperature_chosen_on
    told = [f"{key.replace('_', ' ')} {plain(value)}" for key, value in sampling.items() if not isinstance(value, bool)]
    told = ["top-k off" if word == "top k 0" else word.replace("top ", "top-") for word in told]
    if "grammar" in sampling:
        told.append("number grammar " + ("on" if sampling["grammar"] else "off"))
    if picked:
        each = ", ".join(f"{name} {plain(value)}" for name, value in picked.chosen.items())
        told = [word for word in told if not word.startswith("temperature ")]
        told.insert(0, f"temperature of least CRPS on {len(picked.validation)} validation series ({each})")
    return told + ([f"seed {p.seed}"] if p.seed is not None else [])


_READING = (
    "Bold: the best of its column (coverage: nearest to its band). Intervals are bootstrapped over series;"
    " the median is over series; “first 5” is the mean over the first five steps. MASE: error over the mean"
    " step-to-step change of the context. Valid samples: with the number grammar (masked) and without it"
    " (free). “–”: does not apply."
)


def _why(one: Picked, unit: str) -> str:
    """Says why a series is shown: its error, and its rank if others have one."""
    rank = f", the {one.percentile}th percentile of {one.of} series" if one.of > 3 else ""
    return "" if one.mae is None else f"MAE {number(one.mae)} {unit}{rank}"


def _forecast_block(panel: ForecastPanel, why: str, first: bool, name: str) -> Figure:
    label, total = f"Series {panel.series_id}", len(panel.samples_SHV)
    forecast = f"forecast of {' and '.join(panel.variables)} by the {name} model"
    drawings = [Drawing(figures.forecast_figure(panel), f"{label}: {forecast}")]
    if len(panel.variables) > 1:
        against = " against ".join(panel.variables[1::-1])
        drawings.append(Drawing(figures.phase_figure(panel), f"{label}: phase plane, {against}"))
    words = [f"{label} ({why})." if why else f"{label}."]
    if first:
        words.append(
            f"Against time: context and truth in ink, the {name} model’s median in colour with its 50, 80 and"
            f" 95 % bands over {total} samples. In the phase plane: the same with up to five single samples;"
            " the dot marks the last step of context."
        )
    if panel.broken:
        words.append(
            f"{panel.broken} of {total} samples stopped early or did not parse; they stay at their last complete step,"
            " and count."
        )
    if panel.is_cut:
        words.append("The axes end at three times the largest observed value; the 95 % band goes on.")
    return Figure(drawings, " ".join(words), "full")


def _error_blocks(found: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    if any(row.mae for row in found.rows):
        caption = (
            "Mean absolute error of each method: mean over series with its 95 % bootstrap interval, and"
            " median over series. A median well below the mean shows that few series carry the error."
        )
        drawing, label = figures.interval_figure(found.rows, unit=_unit(found)), "Mean absolute error of each method"
        blocks.append(figure(drawing, f"{label} with 95 % intervals", caption))
    return [*blocks, *step_errors(found.rows, _unit(found))]


def step_errors(rows: Sequence[Score], unit: str, whose: str = "") -> list[Block]:
    """Returns error against the step ahead of every method, as far as it was measured."""
    if not any(row.mae_by_step for row in rows):
        return []
    caption = "Mean absolute error by step ahead, averaged over series and variables; logarithmic axis."
    label = f"{whose}: mean absolute error by step ahead" if whose else "Mean absolute error by step ahead"
    return [figure(figures.step_error_figure(rows, unit=unit), label, caption)]


def _sample_blocks(found: Evaluation) -> list[Block]:
    """Returns calibration and tables of the rows that have samples, if they have more than the main table."""
    if not sampled(found):
        return []
    caption = (
        "The forecasts as distributions; smaller scores are better. CRPS: of each variable alone; energy: the same for"
        " the variables together. Width: mean width of the band, better if smaller at equal coverage. Likelihood: the"
        " mean cost of a true value given all before it, −log of the model’s density per raw unit; below zero if"
        f" the density exceeds one.{_same_bands(found.protocol)}"
    )
    blocks = [*_calibration_block(found), sample_table(found, caption=caption)]
    conformal, adjusted = found.protocol.conformal, sample_table(found, *ADJUSTED, label="Adjusted bands")
    if conformal and len(adjusted.columns) > 1:
        caption = (
            "The same bands, adjusted: stretched about the median by split-conformal factors, one for each step and"
            f" variable, found on {len(conformal.validation)} validation series."
        )
        if left_out := conformal.levels_with_too_few_series:
            caption += f" These are too few for the band of {' and '.join(f'{level} %' for level in left_out)}."
        blocks.append(replace(adjusted, caption=caption))
    return blocks


def _same_bands(p: Protocol) -> str:
    same = f"{', '.join(p.equal_levels[:-1])} and {p.equal_levels[-1]} %" if p.equal_levels else ""
    told = f" With {p.samples} samples the {same} bands are the same: from the least sample to the greatest."
    return told if same else ""


def _calibration_block(found: Evaluation) -> list[Block]:
    rows, protocol = [row for row in found.rows if row.calibration], found.protocol
    if not rows:
        return []
    told = [
        "Calibration: the share of true values inside each central band of the samples, against the share that it"
        " should hold. Below the diagonal the bands are too narrow, above it too wide."
    ]
    if any(rows[0].calibration_ci95 or ()):
        told.append("Shaded: 95 % bootstrap over series.")
    if rows[0].calibration_ceiling is not None and protocol.samples:
        told.append(
            f"{protocol.samples} samples of the right distribution hold {percent(rows[0].calibration_ceiling)} % on average"
            " between the least and the greatest of them: no band can reach further, and wider ones are left out."
        )
    if any(row.calibration_as_intervals for row in rows):
        told.append(
            "Dashed: with each sample read as the interval that its text stands for, one unit of the last decimal. Of"
            " a calibrated model the diagonal lies between the two lines; the gap between them is the rounding."
        )
    if protocol.conformal:
        told.append("Diamonds: the adjusted bands, which may reach beyond the samples.")
    label = "Observed against nominal coverage of the bands"
    return [figure(figures.calibration_figure(found.rows), label, " ".join(told), "side")]


# ---------------------------------------------------------------------------------- costs and settings

# How values of a bill are written that have forms of their own.
_WRITTEN: Mapping[str, Callable[[Any], str]] = {
    "seconds": duration, "peak_memory_bytes": lambda value: f"{number(value / 2**30)} GiB",
}  # fmt: skip


def bill_pairs(cost: RunCost) -> list[tuple[str, str]]:
    """Returns what a run cost as names and values, without what is unknown."""
    held = [(one, value) for one in cost.quantities().values() if (value := one.of(cost)) is not None]
    return [(one.words, _WRITTEN[one.key](value) if one.key in _WRITTEN else text(value, one.form)) for one, value in held]


def _flat(tree: Mapping[str, object], written: Callable[[Any], str], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, written, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", written(value or None if isinstance(value, Mapping) else value)))
    return pairs


def result_sections(found: Evaluation, forecasts: Sequence[ForecastPanel] = ()) -> list[Section]:
    """Returns what an evaluation found: errors, forecasts of the chosen series, and the samples as distributions."""
    results: list[Block] = [*_error_blocks(found), main_table(found)]
    by_variable = variable_table(found)
    panels = {panel.series_id: panel for panel in forecasts}
    chosen = found.picked()
    if not chosen or not {one.series for one in chosen} <= panels.keys():
        chosen = found.picked(panels)
    name, unit = found.subject.name if found.subject else "tuned", _unit(found)
    drawn = [_forecast_block(panels[one.series], _why(one, unit), n == 0, name) for n, one in enumerate(chosen)]
    ranked = len(drawn) > 1 and all(one.mae is not None for one in chosen)
    rule = "The series are chosen by the rank of their error." if ranked else ""
    return [
        Section("Forecast errors", results + ([by_variable] if len(by_variable.columns) > 1 else [])),
        Section("Forecasts", drawn, rule),
        Section("Uncertainty", _sample_blocks(found)),
    ]


def settings_section(*lists: tuple[str, Mapping[str, object]], written: Callable[[Any], str] = plain) -> Section:
    """Returns settings, versions and the like, by their headings, as `written`; an empty one is left out."""
    return Section("Settings and versions", [Pairs(label, _flat(tree, written)) for label, tree in lists if tree])
