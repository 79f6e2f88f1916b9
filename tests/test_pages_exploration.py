"""The page of an exploration, read back: facts, tables and words, each number its own."""

from __future__ import annotations

from typing import Any

import records
from drawn import bold, cells, tables
from records import unlike

from jaxlv.report import exploration
from jaxlv.report.format import number, percent
from jaxlv.results.exploration import Exploration

MARKS = ("50", "90", "95", "99", "99.7", "99.9")  # percentiles
SPREAD = ("mean", "sd", "min", "p5", "median", "p95", "max")
NAMES = list(records.VARIABLES)


def numbers(seed: int, keys: Any) -> dict[str, float]:
    return dict(zip(keys, unlike(900 + seed, len(keys)), strict=True))


def explored() -> dict[str, Any]:
    """An exploration.json in which no two numbers are alike, of the course's data set."""
    marks = [f"p{mark}" for mark in MARKS]
    cycles = [
        {"quantity": quantity, "unit": unit, "series": 40 + n, **numbers(10 + n, SPREAD)}
        for n, (quantity, unit) in enumerate(
            (q, u) for q in ("period of hare", "period of lynx", "lag of lynx behind hare") for u in ("steps", "time units")
        )
    ]
    cycles.append({"quantity": "lag of lynx behind hare", "unit": "share of the period of hare", "series": 47,
                   **numbers(17, SPREAD)})  # fmt: skip
    keys = ("period", "period_p5", "period_p95", "lag", "lag_share")
    sets = ("share 1", "share 2", "share 3", "share 4", "distance to the report", "rand index with rules",
            "least rand index over 4 seeds", "silhouette")  # fmt: skip
    tokens = ("alpha min", "alpha max", "tokens min", "tokens median", "tokens max", "tokens per step", "written as zero",
              "above the top")  # fmt: skip
    trips = ("mae", "mae min", "mae median", "mae max", "mae of hare", "mae of lynx", "max error", "median half unit")
    tables_of = {
        "quality": [
            {"check": "minimum", "found": 0.5, "expected": "", "ok": None, "first": "series 1"},
            {"check": "maximum", "found": 9.5, "expected": "", "ok": None, "first": ""},
            {"check": "NaN values", "found": 3, "expected": "0", "ok": False, "first": "series 7"},
        ],
        "values": [
            {"values of": name, "count": 100 + n, **numbers(n, ("min", "max", "mean", "sd", *marks))}
            for n, name in enumerate(("all", *NAMES))
        ],
        "states": [
            {"state": state, "variable": name, "series": 9, **numbers(30 + n, SPREAD)}
            for n, (state, name) in enumerate((s, v) for s in ("initial", "final") for v in NAMES)
        ],
        "cycles": cycles,
        "prominence": [
            {
                "prominence": p,
                "places": "parabola",
                "used": p == 0.05,
                "fewer than two peaks": 50 + n,
                **numbers(40 + n, keys),
            }
            for n, p in enumerate((0.01, 0.05))
        ],
        "rest": [
            {"limit": limit, "used": limit == 0.02, "series": 60 + n, "share": 0.11 + n / 100}
            for n, limit in enumerate((0.01, 0.02, 0.05))
        ],
        "peaks": [{"peaks": k, "hare": 70 + k, "lynx": 80 + k} for k in range(3)],
        "regimes": [
            {
                "regime of the report": name,
                **numbers(50 + n, ("reported share", "share by rule", "share of the cluster", "jaccard")),
                "cluster": n + 1,
                "looks": f"look {n}",
            }
            for n, name in enumerate(("classic oscillatory", "prey-dominant", "equilibrium", "predator collapse"))
        ],
        "centres": [
            {"cluster": k, "series": 90 + k, "share": 0.1 * k, "period": 5.0 + k, "looks": f"look {k}"} for k in (1, 2)
        ],
        "contingency": [{"cluster": k, "oscillatory": 20 + k, "collapse": 30 + k} for k in (1, 2)],
        "feature sets": [
            {"set": f"set {n}", "features": names, **numbers(60 + n, sets)}
            for n, names in enumerate(("period", "ratio", "lag"))
        ],
        "silhouettes": [{"clusters": k, "silhouette": s} for k, s in ((3, 0.41), (4, 0.32), (5, 0.53))],
        "tokens": [
            {
                "scheme": name,
                "top": "ten",
                "looks at": "x",
                "decimals": 2,
                "series": 5,
                "not written": 0,
                "reason": "",
                **{key: 1000 * value for key, value in numbers(70 + n, tokens).items()},
            }
            for n, name in enumerate(("rai", "mao", "jaxlv"))
        ],
        "round trip": [
            {"scheme": name, "series": 5, **numbers(80 + n, trips)} for n, name in enumerate(("rai", "mao", "jaxlv"))
        ],
        "texts": [
            {
                "series": 4,
                "scheme": "mao",
                "text": "1.20,3.40;5.60,7.80;9.00,1.10;",
                "ids": " ".join(map(str, range(30))),
                "tokens": 30,
                "alpha": "0.79",
            }
        ],
        "steps": [
            {
                "series": 4,
                "scheme": "mao",
                "step": t,
                "variable": v,
                "written": f"{t}.{k}",
                **numbers(90 + 2 * t + k, ("value", "read", "difference")),
            }
            for t in range(12)
            for k, v in enumerate(NAMES)
        ],
        "series": [
            {
                "series": 3,
                "regime by rule": "collapse",
                "peaks of hare": 2,
                "period of hare (steps)": None,
                "lag (steps)": 1.5,
                "lag (share of the period)": None,
                "cluster": 1,
                "feature: ratio": 1.25,
            }
        ],
        "windows": [
            {
                "scheme": "rai",
                "part": part,
                "length": 64,
                "stride": 32 + n,
                "windows kept": "padded",
                "series": 5 + n,
                "windows": 700 + n,
                "series without their tail": 3 + n,
                **numbers(200 + n, ("padding", "tokens left out")),
            }
            for n, part in enumerate(("training", "validation"))
        ],
    }
    return {
        "data": "x.h5", "series": 12, "steps": 60, "step": 2.02, "variables": NAMES, "course": True, "window": 20,
        "windowed": 1000, "tokenizer": "Qwen2.5's ids", "examples": [], "choice": "", "data_sha256": "0",
        "tables": tables_of, "versions": {},
        "definitions": {"peaks": "A peak.", "regimes by rule": "A rule."},
        "regimes": {"features": ["period"], "words": [], "silhouette": 0.32, "least rand index over seeds": 0.87,
                    "rand index with rules": 0.28},
    }  # fmt: skip


def record(tree: dict[str, Any]) -> Exploration:
    return Exploration.read(tree, "exploration.json")


def test_the_facts_of_an_exploration():
    found, t = dict(exploration.facts(record(explored()))), explored()["tables"]
    assert found["values"] == "0.500 to 9.50 raw units" and found["checks"] == "3 NaN values"
    for row in t["values"][1:]:
        assert found[f"mean of {row['values of']}"] == f"{number(row['mean'])} raw units (sd {number(row['sd'])})"
    steps, time, lag, share = (t["cycles"][n] for n in (0, 1, 4, 6))
    assert found["period of hare"] == (
        f"{number(steps['mean'])} steps = {number(time['mean'])} time units"
        f" (5–95 %: {number(steps['p5'])}–{number(steps['p95'])} steps)"
    )
    assert found["lag of lynx"] == f"{number(lag['mean'])} steps, {percent(share['mean'])} % of the period"
    assert found["at rest"] == "12.0 % of the series" and found["no period"] == "51 series have fewer than two peaks"
    assert found["four clusters"] == "10.0 / 20.0 % of the series"
    texts = dict(exploration.text_facts(record(explored())))
    ours, trip = t["tokens"][2], t["round trip"][2]
    counts = " / ".join(f"{ours[f'tokens {key}']:,.0f}" for key in ("min", "median", "max"))
    assert texts["tokens, jaxlv"].startswith(f"{counts} per series") and number(trip["mae"]) in texts["tokens, jaxlv"]
    assert texts["mao's factor"] == f"{t['tokens'][1]['alpha max']:.8g} raw units per written unit"
    assert texts["padding, rai"].startswith(f"{percent(t['windows'][1]['padding'])} % of validation positions")


def test_the_tables_of_an_exploration():
    result = explored()
    t, shown = result["tables"], tables(exploration.page_of(record(result)))
    spread = dict(zip(("mean", "sd", "min", "5 %", "median", "95 %", "max"), SPREAD, strict=True))
    for row in t["values"]:
        own = cells(shown["Values"])[row["values of"]]
        assert [own[f"all values: {key} [raw units]"] for key in ("min", "max", "mean", "sd")] == [
            number(row[key]) for key in ("min", "max", "mean", "sd")
        ]
        for mark in MARKS:
            assert own[f"percentiles: {mark} % [raw units]"] == number(row[f"p{mark}"])
    for row in t["states"]:
        own = cells(shown["States"])[f"{row['state']} {row['variable']}"]
        assert own == {f"over series: {head} [raw units]": number(row[key]) for head, key in spread.items()}
    for row in t["cycles"]:
        own = cells(shown["Cycles"])[f"{row['quantity']}, {row['unit']}"]
        assert own.pop("over series: series") == str(row["series"])
        assert own == {f"over series: {head}": number(row[key]) for head, key in spread.items()}
    for row in t["prominence"]:
        own = cells(shown["What counts as a peak"])[f"{100 * row['prominence']:g} %, parabola"]
        assert own == {
            "series: with under two peaks": str(row["fewer than two peaks"]),
            "period of hare: mean [steps]": number(row["period"]),
            "period of hare: 5 % [steps]": number(row["period_p5"]),
            "period of hare: 95 % [steps]": number(row["period_p95"]),
            "lag of lynx: mean [steps]": number(row["lag"]),
            "the same: mean [% of the period]": percent(row["lag_share"]),
        }
    assert {name for name, _ in bold(shown["What counts as a peak"])} == {"5 %, parabola"}
    assert cells(shown["Peaks"])["lynx"] == {f"series with so many peaks: {k}": str(80 + k) for k in range(3)}
    assert cells(shown["Rest"])["5 %"] == {"series at rest: number": "62", "of all series: share [%]": "13.0"}
    for row in t["regimes"]:
        own = cells(shown["Agreement"])[row["regime of the report"]]
        shares = [own[f"share of the series: {head} [%]"] for head in ("xu", "by rule", "cluster")]
        assert shares == [percent(row[key]) for key in ("reported share", "share by rule", "share of the cluster")]
        assert (own["cluster: number"], own["cluster: Jaccard index"]) == (str(row["cluster"]), number(row["jaccard"]))
    for row in t["feature sets"]:
        own = cells(shown["Sets of features"])[row["set"]]
        assert [own[f"shares by size: {k} [%]"] for k in range(1, 5)] == [percent(row[f"share {k}"]) for k in range(1, 5)]
        assert own["distance: to xu"] == number(row["distance to the report"])
        assert own["adjusted Rand index: with rules"] == number(row["rand index with rules"])
        assert own["adjusted Rand index: over 4 seeds"] == number(row["least rand index over 4 seeds"])
        assert own["silhouette: mean"] == number(row["silhouette"])


def test_the_words_about_regimes():
    result = explored()
    t, sections = (
        result["tables"],
        {section.title: section.text for section in exploration.page_of(record(result)).sections},
    )
    assert "mean silhouette is 0.320 for 4 clusters, and largest for 5: 0.530" in sections["Regimes"]
    assert "index of 0.870 or more" in sections["Regimes"] and "adjusted Rand index is 0.280" in sections["Regimes"]
    words, known = sections["Agreement with the paper xu"], {row["regime of the report"]: row for row in t["regimes"]}
    collapse, equilibrium, dominant = (known[name] for name in ("predator collapse", "equilibrium", "prey-dominant"))
    near = min(t["feature sets"], key=lambda row: row["distance to the report"])
    rare = sorted(row["share 4"] for row in t["feature sets"])
    far = sorted(row["distance to the report"] for row in t["feature sets"])
    assert f"{percent(collapse['share of the cluster'])} % against {percent(collapse['reported share'])} %" in words
    assert (
        f"{percent(rare[0])} to {percent(rare[-1])} % with any" in words
        and f"The nearest, with {near['features']}," in words
    )
    assert f"distance of {number(far[0])} to {number(far[-1])} from xu's" in words
    assert f"By rule, {percent(dominant['share by rule'])} % of the series" in words
    assert f"(xu: {percent(dominant['reported share'])} %)" in words
    assert f"{percent(equilibrium['share by rule'])} % come to rest, or 13.0 % if" in words


def test_series_as_text():
    result = explored()
    t, shown = result["tables"], tables([part(record(result), {}) for part in (exploration.text, exploration.windows)])
    for row in t["tokens"]:
        own, alpha = cells(shown["Tokens"])[row["scheme"]], "alpha: {} [raw units per written unit]"
        assert [own[alpha.format(head)] for head in ("least", "most")] == [
            number(row["alpha min"]),
            number(row["alpha max"]),
        ]
        counts = [f"{row[f'tokens {key}']:,.0f}" for key in ("min", "median", "max")]
        assert [own[f"tokens per series: {head}"] for head in ("least", "median", "most")] == counts
        assert own["values written: as 0 [%]"] == percent(row["written as zero"])
        assert own["values written: 10 or more [%]"] == percent(row["above the top"])
    heads = {"mean": "mae", "least": "mae min", "median": "mae median", "most": "mae max", "hare": "mae of hare",
             "lynx": "mae of lynx"}  # fmt: skip
    for row in t["round trip"]:
        own = cells(shown["Round trip"])[row["scheme"]]
        for head, key in heads.items():
            assert own[f"mean absolute error: {head} [raw units]"] == number(row[key])
        assert own["single error: bound, median [raw units]"] == number(row["median half unit"])
        assert own["single error: largest [raw units]"] == number(row["max error"])
    (opening,) = cells(shown["Texts and token ids"]).values()
    assert opening["text"] == "1.20,3.40;5.60,7.80" and opening["token ids"] == " ".join(map(str, range(19)))
    steps = cells(shown["Step by step"])
    assert list(steps) == list(map(str, range(exploration.CHECKED)))
    for row in t["steps"][: 2 * exploration.CHECKED]:
        own, v = steps[str(row["step"])], row["variable"]
        assert own[f"{v}: value"] == f"{row['value']:.6f}" and own[f"{v}: read"] == f"{row['read']:.6f}"
        assert own[f"{v}: written"] == row["written"] and own[f"{v}: difference"] == f"+{number(row['difference'])}"
    for row in t["windows"]:
        own = cells(shown["Windows"])[f"rai: {row['part']}, 64"]
        assert own["padding: positions [%]"] == percent(row["padding"])
        assert own["left out: tokens [%]"] == percent(row["tokens left out"])
        assert (own["windows: number"], own["series: number"]) == (str(row["windows"]), str(row["series"]))
        assert own["without their tail: series"] == str(row["series without their tail"])
