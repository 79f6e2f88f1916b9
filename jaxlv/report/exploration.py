"""The page and the closing table of `jaxlv explore`: what a set of series is like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlv.report.figures import exploration as figures
from jaxlv.report.format import MISSING, number, percent
from jaxlv.report.format import count as whole
from jaxlv.report.page import Block, Drawing, Figure, Page, Pairs, Section
from jaxlv.report.table import NAME, Table, count, marked, words
from jaxlv.report.terminal import ascii
from jaxlv.results.exploration import CLUSTERS, SHOWN, Exploration, PeakRule, Spread, WrittenStep
from jaxlv.results.quantities import RAW, Quantity

Drawings = Mapping[str, Drawing]  # by name
SPREAD = ("mean", "sd", "min", "p5", "median", "p95", "max")
EXAMPLES = 2  # series whose texts the page shows
CHECKED = 10  # steps of the step-by-step table


def _picture(drawings: Drawings, caption: str, *names: str, layout: Any = "cell") -> list[Block]:
    """Returns one figure of the drawings with these names, in a list; an empty list without them."""
    held = [drawings[name] for name in names if name in drawings]
    return [Figure(held, caption, layout)] if held else []


def _table(label: str, caption: str, rows: Sequence[Any], *columns: str | Quantity, best: Any = None) -> list[Block]:
    """Returns a table of records in a list, empty without records. Columns: keys, "key/name" in objects, or quantities."""
    shown: list[Quantity] = []
    for column in (columns or rows[0].quantities()) if rows else ():
        if isinstance(column, str):
            key, _, name = column.partition("/")
            column = rows[0].quantities()[key].named(name) if name else rows[0].quantities()[key]
        shown.append(column)
    return [Table(label, caption, rows, shown, best)] if rows else []


def facts(result: Exploration) -> list[tuple[str, str]]:
    """Returns the key figures in words, with their units."""
    t, (first, *others) = result.tables, result.variables
    found = {row.check: row.found for row in t.quality}
    bad = "; ".join(f"{row.found} {row.check}" for row in t.quality if row.ok is False)
    steps, time = result.cycles(f"period of {first}")
    means = f"{number(steps.mean)} steps = {number(time.mean)} time units"
    period = f"{means} (5–95 %: {number(steps.p5)}–{number(steps.p95)} steps)"
    lags = result.cycles(f"lag of {others[0]} behind {first}") if others else ()
    lag = f"{number(lags[0].mean)} steps, {percent(lags[-1].mean)} % of the period" if lags and lags[0].series else "none"
    (few,), (resting,) = ([row.few for row in t.prominence if row.used], [row.share for row in t.rest if row.used])
    clusters = " / ".join(percent(row.share) for row in t.centres)
    return [
        ("series", f"{result.series:,} of {result.steps} steps, one every {result.step:.5g} time units"),
        ("checks", bad or "no NaN, infinite or negative values, no duplicate series"),
        ("values", f"{number(found['minimum'])} to {number(found['maximum'])} raw units"),
        *((f"mean of {row.name}", f"{number(row.mean)} raw units (sd {number(row.sd)})") for row in t.values[1:]),
        (f"period of {first}", period if steps.series else "none: no series has two peaks"),
        ("no period", f"{few:,} series have fewer than two peaks"),
        *((f"lag of {name}", lag) for name in others[:1]),
        ("at rest", f"{percent(resting)} % of the series"),
        *([("four clusters", f"{clusters} % of the series")] if clusters else []),
    ]


def text_facts(result: Exploration) -> Iterator[tuple[str, str]]:
    """Yields the key figures of the text, in words."""
    t = result.tables
    (mao,) = (row for row in t.tokens if row.scheme == "mao")
    yield "mao's factor", f"{mao.alpha_max:.8g} raw units per written unit" if mao.series else MISSING
    for row, trip in zip(t.tokens, t.round_trip, strict=True):
        counts, error = " / ".join(map(whole, (row.least, row.median, row.most))), number(trip.mae)
        yield f"tokens, {row.scheme}", f"{counts} per series (least / median / most), rounding error {error} raw units"
    padded = [row for row in t.windows if (row.scheme, row.part) == ("rai", "validation")]
    shares, lengths = " / ".join(percent(row.padding) for row in padded), " / ".join(str(row.length) for row in padded)
    yield "padding, rai", f"{shares} % of validation positions in windows of {lengths} tokens"


def summary(result: Exploration) -> str:
    """Describes the set of series in a few sentences."""
    known, (name, *others), ours = dict(facts(result)), result.variables, result.tables.tokens[-1]
    sentences = [
        f"{result.data} holds {result.series:,} series of {result.steps} steps: {known['checks']}.",
        f"Period of {name}: {known[f'period of {name}']}.",
        *(f"{other.capitalize()} lags behind it by {known[f'lag of {other}']}." for other in others[:1]),
        f"{known['at rest']} are at rest in the last {result.window} steps.",
        *([f"Written by this project, a series has {number(ours.per_step)} tokens per step."] if ours.series else []),
    ]
    return " ".join(sentences)


def format_facts(result: Exploration) -> str:
    """Returns the key figures as plain text."""
    rows = [*facts(result), *text_facts(result)]
    width = max(len(name) for name, _ in rows)
    return ascii("\n".join(f"{name:<{width}}  {line}" for name, line in rows))


def quality(result: Exploration, drawings: Drawings) -> Section:
    """Shows what the file holds, and which checks it passes."""
    t = result.tables
    checks, plain = ([row for row in t.quality if (row.ok is None) == is_fact] for is_fact in (False, True))
    pairs = [(row.check, f"{row.found} ({row.first})" if row.first else str(row.found)) for row in plain]
    means = f"Mean over the {result.series:,} series, its standard deviation, and the band that holds 80 % of them."
    blocks = [
        *_picture(drawings, "Distribution of all values; dashed: percentiles of all of them together.", "values"),
        *_picture(drawings, means, "mean"),
        *_table("Checks", "Checks of the file.", checks, "check", "found", "expected", words("verdict"), "first"),
        *_table("Values", "All values, and those of each variable; sd: standard deviation.", t.values),
        Pairs("The file in numbers", pairs),
    ]
    return Section("The file", blocks)


def trajectories(result: Exploration, drawings: Drawings) -> Section:
    """Shows chosen series, and where all series begin and end."""
    stems = [row.stem(place) for place, row in enumerate(result.examples)]
    chosen = "Chosen series, with their regime by rule."
    phases = (
        "Phase planes of the same series, from the filled dot to the open one; an axis starts at 0 unless the series keeps"
        " away from it."
    )
    ends = "Every series at its first step and at its last. The axes differ; the frame is the range of the first step."
    spread = [replace(one, unit=RAW) for one in Spread.columns(*SPREAD)]
    blocks = [
        *_picture(drawings, chosen, *(f"series_{stem}" for stem in stems), layout="full"),
        *_picture(drawings, phases, *(f"phase_{stem}" for stem in stems), layout="full"),
        *_picture(drawings, ends, "states", layout="side"),
        *_table("States", "Populations at the first step and at the last.", result.tables.states, NAME, *spread),
    ]
    return Section("Trajectories", blocks, result.choice)


def periods(result: Exploration, drawings: Drawings) -> Section:
    """Shows periods, lags and rest, and how they depend on the rules."""
    t, names, step = result.tables, result.variables, number(result.step)
    note = f" xu reports periods of 20–25 “time units”: these are steps, and a step is {step} time units."
    by_rule = (
        f"The facts about {names[0]} by what counts as a peak: its least prominence, as a share of the series' maximum, and"
        " where it is put. Bold: the rule used."
    )
    at_rest = (
        "Series whose variables all deviate by at most that share of their mean (standard deviation, last"
        f" {result.window} steps). Bold: the rule used."
    )
    *period, lag, share = PeakRule.columns("period", "period_p5", "period_p95", "lag", "lag_share")
    rules = [replace(one, group=f"period of {names[0]}") for one in period]
    rules += [replace(lag, group=f"lag of {names[1]}"), share] if len(names) > 1 else []
    cycles = [NAME, *Spread.columns("series", *SPREAD)]
    peaks = [{"name": name, **{str(row.peaks): row.series[name] for row in t.peaks}} for name in names]
    counts = [count(str(row.peaks), group="series with so many peaks") for row in t.peaks]
    blocks = [
        *_picture(drawings, "Periods, of the series with two peaks or more of that variable.", "periods"),
        *_picture(drawings, f"Lag of {names[-1]} behind {names[0]}, of the series with a period.", "lags"),
        *_table("Cycles", "Each series counts once, with the mean of its periods or lags.", t.cycles, *cycles),
        *_table("What counts as a peak", by_rule, t.prominence, NAME, "few", *rules, best=marked("used")),
        *_table("Peaks", "Series by the number of their peaks.", peaks, NAME, *counts),
        *_table("Rest", at_rest, t.rest, NAME, "series", "share", best=marked("used")),
    ]
    return Section("Periods and lags", blocks, result.definitions["peaks"] + note * result.course)


def regimes(result: Exploration, drawings: Drawings) -> Section:
    """Shows K-means clusters beside rules."""
    found, t = result.regimes, result.tables
    if not found:
        return Section("Regimes", [])
    score, best = {row.clusters: row.silhouette for row in t.silhouettes}, max(t.silhouettes, key=lambda row: row.silhouette)
    said = (
        f"K-means on {len(found.features)} standardised features of whole series: {', '.join(found.features)}. The clusters"
        f" of other seeds agree with an adjusted Rand index of {number(found.least_rand)} or more. The mean silhouette is"
        f" {number(score[CLUSTERS])} for {CLUSTERS} clusters, and largest for {best.clusters}: {number(best.silhouette)}."
        f" With the regimes by rule the adjusted Rand index is {number(found.rand_with_rules)}."
    )
    bands = "The series nearest to the centre of each cluster, and the band that holds 80 % of the cluster's at each step."
    looks = "Clusters by size. In words: what lies half a standard deviation or more off the mean of all series."
    kinds = [(name if unit == "1" else f"{name} ({unit})", line) for name, unit, line in found.words]
    features, rules = (f"features/{name}" for name in found.features), (f"rules/{name}" for name in t.contingency[0].rules)
    blocks = [
        *_picture(drawings, bands, *(f"cluster_{row.cluster}" for row in t.centres), layout="full"),
        *_picture(drawings, "The series in the first two principal components of their standardised features.", "plane"),
        *_picture(drawings, "Mean silhouette by number of clusters; filled: the number used.", "silhouette"),
        *_table("Clusters", looks, t.centres, "cluster", "series", "share", *features, "looks"),
        *_table("Clusters and rules", "Series of each cluster, by their regime by rule.", t.contingency, "cluster", *rules),
        Pairs("Features and rules", [*kinds, ("regimes by rule", result.definitions["regimes by rule"])]),
    ]
    return Section("Regimes", blocks, said)


def agreement(result: Exploration, drawings: Drawings) -> Section:
    """Shows the clusters beside the paper's four regimes, and what K-means makes of other features."""
    t, ours = result.tables, ", ".join(result.regimes.features) if result.regimes else ""
    caption = "K-means with four clusters on other features; over 4 seeds: the least. Bold: the features used above."
    caption += " Distance: sum of the absolute differences of the shares, both sorted by size." * result.course
    keys = ["set", "share_1", "share_2", "share_3", "share_4", *["distance"] * result.course]
    keys += ["rand_with_rules", "least_rand", "silhouette", "features"]
    sets = _table("Sets of features", caption, t.feature_sets, *keys, best=lambda row, _: row.features == ours)
    if not (result.course and sets):
        return Section("Other features", sets)
    agreed = (
        "The regimes that xu names; the series that our rules call so; and the cluster that overlaps with these, each"
        " cluster once, the sum of the Jaccard indices at its largest."
    )
    keys = ["name", "reported", "by_rule", "clustered", "cluster", "jaccard", "looks"]
    blocks = [*_table("Agreement", agreed, t.regimes, *keys), *sets]
    return Section("Agreement with the paper xu", blocks, explanation(result))


def explanation(result: Exploration) -> str:
    """Says how far the clusters agree with the paper's regimes, and why not further."""
    t, known = result.tables, {row.name: row for row in result.tables.regimes}
    shares, nearest = sorted(row.share_4 for row in t.feature_sets), sorted(t.feature_sets, key=lambda row: row.distance)
    collapse, equilibrium, dominant = (known[name] for name in ("predator collapse", "equilibrium", "prey-dominant"))
    (looser,) = (row.share for row in t.rest if row.limit == 0.05)
    return (
        "xu names its features as “period, amplitude, and phase relationships”: not how they are computed, what stands for"
        " the period of a series without one, the scaling or the seed. Its clusters cannot be made again. What agrees is the"
        f" rarest regime: {percent(collapse.clustered)} % against {percent(collapse.reported)} %, and {percent(shares[0])}"
        f" to {percent(shares[-1])} % with any features below. The other series form no groups with gaps between them, and"
        " where K-means cuts depends on the features: the shares below are at a distance of"
        f" {number(nearest[0].distance)} to {number(nearest[-1].distance)} from xu's. The nearest, with"
        f" {nearest[0].features}, was found by trying: it shows that the shares are within reach, not that these were the"
        f" features. By rule, {percent(dominant.by_rule)} % of the series oscillate with more than 1.5 times as much prey as"
        f" predators (xu: {percent(dominant.reported)} %), and {percent(equilibrium.by_rule)} % come to rest, or"
        f" {percent(looser)} % if a deviation of 5 % of the mean counts as rest (xu: {percent(equilibrium.reported)} %)."
    )


def text(result: Exploration, drawings: Drawings) -> Section:
    """Shows tokens and rounding errors of every scheme, and the chosen series in it."""
    t, lacking = result.tables, [row for row in result.tables.tokens if row.absent]
    fault = "".join(f" {row.scheme} cannot write {row.absent:,} series ({row.reason})." for row in lacking)
    every = "Every character is one token. The papers leave the last step open; jaxlv closes it with “;”."
    trip = (
        "Values written and read again: mean absolute error over the steps and variables of a series, and its distribution"
        " over series. A single error is at most half a unit of the last decimal, alpha / 2 / 10^decimals."
    )
    merged = (
        "Every pair of the 13 symbols, “-” and space (␣) that is one token of this tokenizer, then some longer texts. In the"
        " format two delimiters never meet, so its text has none of the pairs."
    )
    opening = f"The first {SHOWN} steps of series in every scheme. texts.csv has the whole texts of all chosen series."
    ids = list(dict.fromkeys(row.series for row in t.texts))[:EXAMPLES]
    texts = [row for row in t.texts if row.series in ids]
    own = [words("opening", "text"), words("opening_ids", "token ids"), count("opening_tokens", "of these", "tokens")]
    merges = ["ids", "tokens", "characters", "in_format"]
    tokens = ["top", "looks_at", "decimals", "alpha_min", "alpha_max", "least", "median", "most", "zero", "above"]
    errors = ["series", "mae", "least", "median", "most", *(f"by_variable/{name}" for name in result.variables)]
    blocks = [
        *_picture(drawings, "Tokens per series in each scheme.", "tokens"),
        *_picture(drawings, "Errors of rounding: from values to text and back.", "round_trip"),
        *_table("Tokens", every, t.tokens, "scheme", *tokens),
        *_table("Round trip", trip, t.round_trip, "scheme", *errors, "bound", "largest"),
        *_table("Texts and token ids", opening, texts, NAME, *own, "tokens", "alpha"),
        *_steps(t.steps, result.variables),
        *_table("What the tokenizer merges", merged, t.merges, words("name", "text"), *merges),
    ]
    return Section("As text", blocks, f"Token ids: {result.tokenizer}.{fault}")


def _steps(rows: Sequence[WrittenStep], names: Sequence[str]) -> list[Block]:
    """Shows the first steps of the first series as mao printed them: value, text, value read, difference."""
    own = [row for row in rows if row.series == rows[0].series and row.step < CHECKED]
    scheme = "mao" if any(row.scheme == "mao" for row in own) else "".join(row.scheme for row in own[:1])
    own = [row for row in own if row.scheme == scheme]
    steps = [{row.variable: row for row in own if row.step == t} for t in dict.fromkeys(row.step for row in own)]
    shown = WrittenStep.columns("value", "written", "read_as", "difference")
    columns = [one.within(name, group=name) for name in names for one in shown]
    caption = (
        f"Series {own[0].series if own else ''} in the scheme {scheme}, the first {len(steps)} steps; raw units except for"
        " what is written. steps.csv has all steps of the chosen series in every scheme."
    )
    return _table("Step by step", caption, steps, count("step").within(names[0]), *columns)


def windows(result: Exploration, drawings: Drawings) -> Section:
    """Shows windows of tokens: padding, and what full windows leave out."""
    split = "of the papers' splits" if result.course else "all, in both parts"
    picture = "Padding of the schemes that pad short windows, and tokens left out by schemes that keep full windows only."
    caption = (
        "Without their tail: series whose last token no window holds. jaxlv writes each window in a scale of its own, so"
        " that no token is left out or kept."
    )
    said = (
        f"A training window starts every stride, validation windows lie end to end. Series: {split}, at most"
        f" {result.windowed:,} of each part. A loss that counts padding is smaller than the loss per token."
    )
    keys = ["stride", "kept", "series", "windows", "padding", "left_out", "without_tail"]
    table = _table("Windows", caption, result.tables.windows, words("name", "scheme: part, length (tokens)"), *keys)
    return Section("Windows", [*_picture(drawings, picture, "windows", layout="side"), *table], said)


def page_of(result: Exploration) -> Page:
    """Returns the page of an exploration."""
    drawings = {name: Drawing(*drawn, name) for name, drawn in figures.drawings(result).items()}
    parts = (quality, trajectories, periods, regimes, agreement, text, windows)
    made = [*result.definitions.items(), *((name, str(value)) for name, value in result.versions.items())]
    bill = [(name[0].upper() + name[1:], line) for name, line in facts(result) if name not in ("series", "checks")]
    last = Section("How it was made", [Pairs("Definitions and versions", made)])
    return Page(f"Exploration of {result.data}", summary(result), bill, [*(part(result, drawings) for part in parts), last])
