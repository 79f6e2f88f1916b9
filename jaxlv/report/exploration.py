"""The page and the closing table of `jaxlv explore`: what a set of series is like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlv.report.exploration_text import Drawings, figure, text, windows
from jaxlv.report.format import MISSING, number, percent
from jaxlv.report.format import count as whole
from jaxlv.report.page import Block, Page, Pairs, Section, write
from jaxlv.report.table import Rows, Table, column, count, find, marked, of, share, words

Tree = Mapping[str, Any]
SPREAD = [
    ("mean", "mean"),
    ("sd", "sd"),
    ("min", "min"),
    ("p5", "5 %"),
    ("median", "median"),
    ("p95", "95 %"),
    ("max", "max"),
]
MARKS = ("50", "90", "95", "99", "99.7", "99.9")  # percentiles


# ---------------------------------------------------------------------------------------------------- facts


def facts(result: Tree) -> list[tuple[str, str]]:
    """The key figures in words, with their units."""
    t, first = result["tables"], result["variables"][0]
    checks = {row["check"]: row["found"] for row in t["quality"]}
    found = [
        ("series", f"{result['series']:,} of {result['steps']} steps, one every {result['step']:.5g} time units"),
        ("checks", checks_in_words(t["quality"])),
        ("values", f"{number(checks['minimum'])} to {number(checks['maximum'])} raw units"),
        *(
            (f"mean of {row['values of']}", f"{number(row['mean'])} raw units (sd {number(row['sd'])})")
            for row in t["values"][1:]
        ),
        (f"period of {first}", _period(t["cycles"], first)),
        ("no period", f"{find(t['prominence'], used=True)['fewer than two peaks']:,} series have fewer than two peaks"),
        *((f"lag of {name}", _lag(t["cycles"])) for name in result["variables"][1:2]),
        ("at rest", f"{percent(find(t['rest'], used=True)['share'])} % of the series"),
    ]
    if result["regimes"]:
        found.append(("four clusters", " / ".join(percent(row["share"]) for row in t["centres"]) + " % of the series"))
    return found


def checks_in_words(rows: Rows) -> str:
    """Which checks a file fails, or that it fails none."""
    bad = [f"{row['found']} {row['check']}" for row in rows if row["ok"] is False]
    return "; ".join(bad) or "no NaN, infinite or negative values, no duplicate series"


def _period(rows: Rows, name: str) -> str:
    if not find(rows, quantity=f"period of {name}")["series"]:
        return "none: no series has two peaks"
    steps, time = (find(rows, quantity=f"period of {name}", unit=unit) for unit in ("steps", "time units"))
    means = f"{number(steps['mean'])} steps = {number(time['mean'])} time units"
    return f"{means} (5–95 %: {number(steps['p5'])}–{number(steps['p95'])} steps)"


def _lag(rows: Rows) -> str:
    lags = [row for row in rows if row["quantity"].startswith("lag")]
    if not lags[0]["series"]:
        return "none"
    return f"{number(lags[0]['mean'])} steps, {percent(lags[-1]['mean'])} % of the period"


def text_facts(result: Tree) -> Iterator[tuple[str, str]]:
    """The key figures of the text, in words."""
    t = result["tables"]
    mao = find(t["tokens"], scheme="mao")
    yield "mao's factor", f"{mao['alpha max']:.8g} raw units per written unit" if mao["series"] else MISSING
    for row in t["tokens"]:
        error = number(find(t["round trip"], scheme=row["scheme"])["mae"])
        counts = " / ".join(whole(row[f"tokens {key}"]) for key in ("min", "median", "max"))
        yield f"tokens, {row['scheme']}", f"{counts} per series (least / median / most), rounding error {error} raw units"
    padded = [row for row in t["windows"] if (row["scheme"], row["part"]) == ("rai", "validation")]
    shares = " / ".join(percent(row["padding"]) for row in padded)
    lengths = " / ".join(str(row["length"]) for row in padded)
    yield "padding, rai", f"{shares} % of validation positions in windows of {lengths} tokens"


def summary(result: Tree) -> str:
    """The set of series in a few sentences."""
    known, names = dict(facts(result)), result["variables"]
    rest = known["at rest"].replace(" of the series", "")
    sentences = [
        f"{result['data']} holds {result['series']:,} series of {result['steps']} steps: {known['checks']}.",
        f"Period of {names[0]}: {known[f'period of {names[0]}']}.",
        f"{names[1].capitalize()} lags behind it by {known[f'lag of {names[1]}']}." if len(names) > 1 else "",
        f"{rest} of the series are at rest in the last {result['window']} steps.",
    ]
    ours = result["tables"]["tokens"][-1]
    if ours["series"]:
        sentences.append(f"Written by this project, a series has {number(ours['tokens per step'])} tokens per step.")
    return " ".join(filter(None, sentences))


def format_facts(result: Tree) -> str:
    """The key figures as plain text."""
    rows = [*facts(result), *text_facts(result)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {line}" for name, line in rows]
    return "\n".join(lines).translate({ord("–"): "-", ord("−"): "-"})


# ------------------------------------------------------------------------------------------------- sections


def quality(result: Tree, drawings: Drawings) -> Section:
    """What the file holds, and which checks it passes."""
    t = result["tables"]
    checks = [{**row, "verdict": "passed" if row["ok"] else "failed"} for row in t["quality"] if row["ok"] is not None]
    plain = [row for row in t["quality"] if row["ok"] is None]
    pairs = [(row["check"], f"{row['found']} ({row['first']})" if row["first"] else str(row["found"])) for row in plain]
    columns = [words("found"), words("expected"), words("verdict"), words("first", "where the first is")]
    ranges = of([(key, key) for key in ("min", "max", "mean", "sd")], "all values", "raw units")
    marks = of([(f"p{mark}", f"{mark} %") for mark in MARKS], "percentiles", "raw units")
    means = f"Mean over the {result['series']:,} series, its standard deviation, and the band that holds 80 % of them."
    values = "All values, and those of each variable; sd: standard deviation."
    return Section(
        "The file",
        [
            Table("Checks", "Checks of the file.", checks, [words("check"), *columns]),
            *figure(drawings, ["values"], "Distribution of all values; dashed: percentiles of all of them together."),
            *figure(drawings, ["mean"], means),
            Table("Values", values, t["values"], [words("values of"), count("count", "values"), *ranges, *marks]),
            Pairs("The file in numbers", pairs),
        ],
    )


def trajectories(result: Tree, drawings: Drawings) -> Section:
    """Chosen series, and where all of them begin and end."""
    ids = [row["series"] for row in result["examples"]]
    states = [{**row, "name": f"{row['state']} {row['variable']}"} for row in result["tables"]["states"]]
    spread = of(SPREAD, "over series", "raw units")
    phases = (
        "Phase planes of the same series, from the filled dot to the open one; an axis starts at 0 unless the series keeps"
        " away from it."
    )
    ends = "Every series at its first step and at its last. The axes differ; the frame is the range of the first step."
    return Section(
        "Trajectories",
        [
            *figure(drawings, [f"series_{i}" for i in ids], "Chosen series, with their regime by rule.", "full"),
            *figure(drawings, [f"phase_{i}" for i in ids], phases, "full"),
            *figure(drawings, ["states"], ends, "side"),
            Table("States", "Populations at the first step and at the last.", states, [words("name", " "), *spread]),
        ],
        result["choice"],
    )


def periods(result: Tree, drawings: Drawings) -> Section:
    """Periods, lags and rest, and how they depend on the rules."""
    t, names = result["tables"], result["variables"]
    cycles = [{**row, "name": f"{row['quantity']}, {row['unit']}"} for row in t["cycles"]]
    rules = [{**row, "name": f"{100 * row['prominence']:g} %, {row['places']}"} for row in t["prominence"]]
    rest = [{**row, "name": f"{100 * row['limit']:g} %"} for row in t["rest"]]
    peaks = [{"name": name, **{str(row["peaks"]): row[name] for row in t["peaks"]}} for name in names]
    step = number(result["step"])
    note = (
        f" xu reports periods of 20–25 “time units”: these are steps, and a step is {step} time units."
        if result["course"]
        else ""
    )
    columns = [
        count("fewer than two peaks", "with under two peaks", "series"),
        *of([("period", "mean"), ("period_p5", "5 %"), ("period_p95", "95 %")], f"period of {names[0]}", "steps"),
    ]
    if len(names) > 1:
        columns += [
            column("lag", "mean", f"lag of {names[1]}", "steps"),
            share("lag_share", "mean", "the same", "% of the period"),
        ]
    by_rule = (
        f"The facts about {names[0]} by what counts as a peak: its least prominence, as a share of the series' maximum, and"
        " where it is put. Bold: the rule used."
    )
    at_rest = (
        "Series whose variables all deviate by at most that share of their mean (standard deviation, last"
        f" {result['window']} steps). Bold: the rule used."
    )
    return Section(
        "Periods and lags",
        [
            *figure(drawings, ["periods"], "Periods, of the series with two peaks or more of that variable."),
            *figure(drawings, ["lags"], f"Lag of {names[-1]} behind {names[0]}, of the series with a period."),
            Table(
                "Cycles",
                "Each series counts once, with the mean of its periods or lags.",
                cycles,
                [words("name", " "), count("series", "series", "over series"), *of(SPREAD, "over series")],
            ),
            Table("What counts as a peak", by_rule, rules, [words("name", " "), *columns], marked("used")),
            Table(
                "Peaks",
                "Series by the number of their peaks.",
                peaks,
                [
                    words("name", " "),
                    *[count(str(row["peaks"]), str(row["peaks"]), "series with so many peaks") for row in t["peaks"]],
                ],
            ),
            Table(
                "Rest",
                at_rest,
                rest,
                [words("name", " "), count("series", "number", "series at rest"), share("share", "share", "of all series")],
                marked("used"),
            ),
        ],
        result["definitions"]["peaks"] + note,
    )


def regimes(result: Tree, drawings: Drawings) -> Section:
    """K-means clusters, beside rules."""
    found, t = result["regimes"], result["tables"]
    if not found:
        return Section("Regimes", [])
    features = of([(name, name) for name in found["features"]], "medians of the cluster")
    rules = [count(key, key, "series with this regime by rule") for key in t["contingency"][0] if key != "cluster"]
    scores = {row["clusters"]: row["silhouette"] for row in t["silhouettes"]}
    best = max(scores, key=lambda k: scores[k])
    bands = "The series nearest to the centre of each cluster, and the band that holds 80 % of the cluster's at each step."
    plane = "The series in the first two principal components of their standardised features."
    looks = "Clusters by size. In words: what lies half a standard deviation or more off the mean of all series."
    by_rule = "Series of each cluster, by their regime by rule."
    kinds = [(name if unit == "1" else f"{name} ({unit})", line) for name, unit, line in found["words"]]
    said = (
        f"K-means on {len(found['features'])} standardised features of whole series: {', '.join(found['features'])}. The"
        f" clusters of other seeds agree with an adjusted Rand index of {number(found['least rand index over seeds'])} or"
        f" more. The mean silhouette is {number(scores[4])} for 4 clusters, and largest for {best}: {number(scores[best])}."
        f" With the regimes by rule the adjusted Rand index is {number(found['rand index with rules'])}."
    )
    return Section(
        "Regimes",
        [
            *figure(drawings, [f"cluster_{row['cluster']}" for row in t["centres"]], bands, "full"),
            *figure(drawings, ["plane"], plane),
            *figure(drawings, ["silhouette"], "Mean silhouette by number of clusters; filled: the number used."),
            Table(
                "Clusters",
                looks,
                t["centres"],
                [
                    count("cluster"),
                    count("series"),
                    share("share", "share", "of all"),
                    *features,
                    words("looks", "in words"),
                ],
            ),
            Table("Clusters and rules", by_rule, t["contingency"], [count("cluster"), *rules]),
            Pairs("Features and rules", [*kinds, ("regimes by rule", result["definitions"]["regimes by rule"])]),
        ],
        said,
    )


def agreement(result: Tree, drawings: Drawings) -> Section:
    """The clusters beside the report's four regimes, and what K-means makes of other features."""
    found, t = result["regimes"], result["tables"]
    if not found:
        return Section("Other features", [])
    shares = [share(f"share {k}", str(k), "shares by size") for k in range(1, 5)]
    indices = of(
        [("rand index with rules", "with rules"), ("least rand index over 4 seeds", "over 4 seeds")], "adjusted Rand index"
    )
    columns = [*shares, *indices, column("silhouette", "mean", "silhouette"), words("features")]
    rows = [{**row, "ours": row["features"] == ", ".join(found["features"])} for row in t["feature sets"]]
    caption = "K-means with four clusters on other features; over 4 seeds: the least. Bold: the features used above."
    if not result["course"]:
        return Section(
            "Other features", [Table("Sets of features", caption, rows, [words("set"), *columns], marked("ours"))]
        )
    columns.insert(4, column("distance to the report", "to xu", "distance"))
    caption += " Distance: sum of the absolute differences of the shares, both sorted by size."
    against: list[Block] = [
        Table(
            "Agreement",
            "The regimes that xu names; the series that our rules call so; and the cluster that overlaps with"
            " these, each cluster once, the sum of the Jaccard indices at its largest.",
            t["regimes"],
            [
                words("regime of the report", "regime"),
                *of(
                    [("reported share", "xu"), ("share by rule", "by rule"), ("share of the cluster", "cluster")],
                    "share of the series",
                    "%",
                    "share",
                ),
                count("cluster", "number", "cluster"),
                column("jaccard", "Jaccard index", "cluster"),
                words("looks", "in words"),
            ],
        ),
        Table("Sets of features", caption, rows, [words("set"), *columns], marked("ours")),
    ]
    return Section("Agreement with the report xu", against, explanation(t))


def explanation(tables: Mapping[str, Rows]) -> str:
    """How far the clusters agree with the report's regimes, and why not further, in words."""
    sets, known = tables["feature sets"], {row["regime of the report"]: row for row in tables["regimes"]}
    rare = [row["share 4"] for row in sets]
    distances = [row["distance to the report"] for row in sets]
    near = min(sets, key=lambda row: row["distance to the report"])
    collapse, equilibrium, dominant = (known[name] for name in ("predator collapse", "equilibrium", "prey-dominant"))
    looser = find(tables["rest"], limit=0.05)["share"]
    return (
        "xu names its features as “period, amplitude, and phase relationships”: not how they are computed, what stands for"
        " the period of a series without one, the scaling or the seed. Its clusters cannot be made again. What agrees is the"
        f" rarest regime: {percent(collapse['share of the cluster'])} % against {percent(collapse['reported share'])} %, and"
        f" {percent(min(rare))} to {percent(max(rare))} % with any features below. The other series form no groups with gaps"
        " between them, and where K-means cuts depends on the features: the shares below are at a distance of"
        f" {number(min(distances))} to {number(max(distances))} from xu's. The nearest, with {near['features']}, was found"
        " by trying: it shows that the shares are within reach, not that these were the features. By rule,"
        f" {percent(dominant['share by rule'])} % of"
        " the series oscillate with more than 1.5 times as much prey as predators (xu:"
        f" {percent(dominant['reported share'])} %), and {percent(equilibrium['share by rule'])} % come to rest, or"
        f" {percent(looser)} % where a deviation of 5 % of the mean counts as rest (xu:"
        f" {percent(equilibrium['reported share'])} %)."
    )


def page_of(result: Tree, drawings: Drawings) -> Page:
    """The page of an exploration."""
    parts = (quality, trajectories, periods, regimes, agreement, text, windows)
    sections = [part(result, drawings) for part in parts]
    made = [*result["definitions"].items(), *((name, str(value)) for name, value in result["versions"].items())]
    sections.append(Section("How it was made", [Pairs("Definitions and versions", made)]))
    bill = [(name[0].upper() + name[1:], line) for name, line in facts(result) if name not in ("series", "checks")]
    return Page(f"Exploration of {result['data']}", summary(result), bill, sections)


def write_page(path: Path, result: Tree, drawings: Drawings) -> None:
    """Write the page, whole or not at all."""
    write(path, page_of(result, drawings))
