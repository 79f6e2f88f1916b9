"""The page of a run, the terminal table and the summary: complete, true to the numbers, and safe."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_figures import HOSTILE, make_history, make_panel

from jaxlv.analysis.anatomy import training_curves
from jaxlv.report import evaluation as report
from jaxlv.report import page as pages
from jaxlv.report.format import MISSING, align, number, percent
from jaxlv.report.runs import page_of_evaluation
from jaxlv.report.table import Table, best_of, column, words
from jaxlv.results.folders import Measured
from jaxlv.results.runs import RunCost
from jaxlv.results.scores import MODELS, Evaluation, Picked, Score

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tree(HTMLParser):
    """Fails on wrongly nested tags; keeps start tags with their attributes, and text with its tag."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def make_metrics() -> dict:
    rows = []
    for i, name in enumerate(("tuned", "untuned", "last value", "seasonal naive", "VAR(3) on logs")):
        mae = 0.04567 * (1 + i * (6 - i) / 2)
        model = name in MODELS
        rows.append(
            {
                "name": name,
                "mae": mae,
                "mae_median": 0.7 * mae,
                "mae_ci95": [0.9 * mae, 1.1 * mae],
                "mse": mae**2,
                "rmse": mae,
                "mae_first_5": 0.2 * mae,
                "r2": 1 - 2 * mae,
                "mase": 8 * mae,
                "crps": 0.7 * mae if model else None,
                "coverage": {"50": 0.44 + i / 10, "80": 0.75, "95": 0.97} if model else None,
                "energy_score": 0.9 * mae if model else None,
                "energy_score_ci95": [0.8 * mae, mae] if model else None,
                "interval_width": {"50": mae, "80": 2 * mae, "95": 3 * mae} if model else None,
                "calibration": {str(n): n / 110 for n in range(10, 100, 10)} if model else None,
                "calibration_ci95": {str(n): [n / 120, n / 101] for n in range(10, 100, 10)} if model else None,
                "calibration_ceiling": 19 / 21 if model else None,
                "calibration_as_intervals": {str(n): n / 105 for n in range(10, 100, 10)} if model else None,
                "nats_per_value": i - 2.5 if model else None,
                "nats_per_value_ci95": [i - 2.75, i - 2.0] if model else None,
                "temperature": 1.0 if model else None,
                "valid_share": 1.0 if model else None,
                "valid_share_unmasked": 0.9996 - i / 10 if model else float("nan"),
                "per_variable": {
                    v: {"mae": mae * k, "mse": mae * k, "r2": 0.5} for k, v in enumerate(("prey", "predator"), 1)
                },
                "mae_by_step": [mae * (0.2 + 0.05 * step) for step in range(20)],
                "mae_by_series": {str(series): mae * (1 + (series * 7) % 11) for series in range(11)},
            }
        )
    protocol = {
        "data": "data.h5",
        "series": 11,
        "context": 20,
        "horizon": 20,
        "samples": 20,
        "seed": 0,
        "scale": "context",
        "scale_peeks_at_future": False,
        "decimals": 2,
        "sampling": {
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "grammar": True,
        },
        "units": {"mae": "raw units", "mse": "raw units²"},
    }
    return json.loads(json.dumps({"protocol": protocol, "rows": rows}))


def scores(tree: dict) -> Evaluation:
    return Evaluation.read(tree, "metrics.json")


def write(path, **changes) -> str:
    if "metrics" in changes:
        changes["found"] = scores(changes.pop("metrics"))
    arguments: dict = {
        "title": "A run",
        "found": scores(make_metrics()),
        "forecasts": [make_panel(series) for series in range(11)],
        "history": make_history(),
        "settings": {"lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}, "seed": 0},
        "versions": {"python": "3.11", "jax": "0.10"},
        "cost": RunCost(steps=1200, tokens=2_457_600, seconds=252.0, trainable_parameters=24_576, device="CPU"),
    }
    given = {**arguments, **changes}
    history = given.pop("history")
    given["curves"] = training_curves(history, 0.0) if history else None
    title, found, panels = given.pop("title"), given.pop("found"), given.pop("forecasts")
    pages.write(path, page_of_evaluation(Measured("", path.parent, found, panels, **given), title))
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("report") / "report.html")


def test_page_is_well_formed_and_needs_nothing_else(page, tmp_path):
    tree = Tree(page)
    assert set(re.findall(r"https?://[^\"'<> )]+", page)) == {"http://www.w3.org/2000/svg"}
    loaded = [attrs.get("src") or attrs.get("href") for _, attrs in tree.tags if "src" in attrs or "href" in attrs]
    assert all(target.startswith(("#", "data:")) for target in loaded)
    assert not re.search(r"@import|url\((?!#)", page)


def test_page_has_every_part_in_order(page):
    heads = [
        "A run",
        "Training steps",
        "2,457,600",
        "4 min 12 s",
        "<svg",
        "<table",
        "Forecasts</h2>",
        "Uncertainty</h2>",
        "Training</h2>",
        "Settings of the run",
    ]
    places = [page.index(head) for head in heads]
    assert places == sorted(places)
    for setting in ("lora.rank", "q_proj, v_proj", "sampling.top_p", "jax"):
        assert setting in page


def test_every_figure_has_size_label_and_caption(page):
    tree = Tree(page)
    drawings = [attrs for tag, attrs in tree.tags if tag == "svg"]
    assert len(drawings) == 3 * 2 + 2 + 1 + 1
    for attrs in drawings:
        assert attrs["role"] == "img" and len(attrs["aria-label"]) > 10
        assert float(attrs["width"]) > 0 and float(attrs["height"]) > 0 and attrs["viewbox"]
    assert tree.count("figure") == tree.count("figcaption")


def test_ids_are_unique_in_the_page(page):
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_tables_have_a_row_for_each_method_and_sortable_columns(page):
    names = [row["name"] for row in make_metrics()["rows"]]
    for place, table in enumerate(re.findall(r"<table.*?</table>", page, re.DOTALL)):
        sampled = place == 2
        assert re.findall(r'<th scope="row">([^<]+)</th>', table) == (names[:2] if sampled else names)
        columns = table.count("<button")
        for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", table, re.DOTALL):
            assert row.count("<td") == columns - 1
    main = re.findall(r"<table.*?</table>", page, re.DOTALL)[0]
    assert 'data-value="0.04567"' in main and "raw units²" in main


def test_bold_marks_the_best_of_each_column():
    mae, r2, eighty, width = Score.columns("mae", "r2", "coverage/80", "interval_width/80")
    assert best_of(mae, [0.2, 0.1, None]) == [False, True, False]
    assert best_of(r2, [0.2, 0.1, None]) == [True, False, False]
    assert best_of(eighty, [0.95, 0.79, 0.6]) == [False, True, False]
    assert best_of(mae, [0.1, 0.1]) == best_of(mae, [0.1, None]) == [False, False]
    assert best_of(width, [0.1, 0.2]) == [False, False]  # neither good nor bad by itself


def test_missing_numbers_are_dashes_and_never_words(page):
    visible = " ".join(text for tag, text in Tree(page).texts if tag not in ("style", "script"))
    assert not re.search(r"\b(None|nan|NaN|inf|True|False|null|undefined)\b", visible)
    assert MISSING in visible
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_table_of_samples_has_the_bands_that_were_measured():
    metrics = make_metrics()
    shown = lambda *paths: report.sample_table(scores(metrics), *paths).columns[1:]  # noqa: E731
    paths = [measure.key for measure in shown()]
    expected = ["crps", "energy_score", "energy_score_ci95", *["coverage"] * 3, *["interval_width"] * 3]
    assert paths == [*expected, "nats_per_value", "nats_per_value_ci95"]
    metrics["rows"][0]["coverage_conformal"] = {"50": 0.52, "80": 0.81, "95": None}
    metrics["rows"][0]["interval_width_conformal"] = {"50": 0.1, "80": 0.2, "95": None}
    assert [measure.key for measure in shown()] == paths
    groups = [measure.group for measure in shown(*report.ADJUSTED)]
    assert groups == ["Coverage, adjusted"] * 2 + ["Width, adjusted"] * 2


def test_old_metrics_without_calibration_still_make_a_page(tmp_path):
    metrics = make_metrics()
    new = ("energy_score", "interval_width", "calibration", "nats_per_value", "temperature")
    metrics["rows"] = [{k: v for k, v in row.items() if not k.startswith(new)} for row in metrics["rows"]]
    page = write(tmp_path / "r.html", metrics=metrics)
    assert "Uncertainty" not in page and "nats per value" not in report.summary(scores(metrics))
    Tree(page)


def test_captions_say_what_validation_series_settled(tmp_path):
    metrics = make_metrics()
    metrics["protocol"]["temperature_chosen_on"] = {
        "validation": [4, 5, 6],
        "crps": {"tuned": {"0.7": 0.1, "1": 0.2}, "untuned": {"0.7": 0.4, "1": 0.3}},
        "chosen": {"tuned": 0.7, "untuned": 1.0},
    }
    metrics["protocol"]["conformal"] = {"validation": [7, 8], "mean_factor": {}, "levels_with_too_few_series": [80, 95]}
    metrics["rows"][0]["coverage_conformal"] = {"50": 0.52, "80": None, "95": None}
    text = report.protocol_text(scores(metrics).protocol)
    assert "temperature of least CRPS on 3 validation series (tuned 0.7, untuned 1), top-k off" in text
    page = write(tmp_path / "r.html", metrics=metrics)
    assert "found on 2 validation series. These are too few for the band of 80\N{NO-BREAK SPACE}% and 95" in page
    assert "Diamonds" in page and "Coverage, adjusted" in page


def test_the_summary_says_what_the_truth_costs():
    assert "The truth costs it −2.50 nats per value (−1.50 by the untuned model)." in report.summary(scores(make_metrics()))
    bare = {"protocol": {}, "rows": make_metrics()["rows"][1:]}
    assert "The truth costs it −1.50 nats per value." in report.summary(scores(bare))


def test_bare_evaluation_has_no_empty_parts(tmp_path):
    metrics = make_metrics()
    metrics["rows"] = [{"name": "untuned", "mae": 0.3, "coverage": None}]
    metrics["protocol"] = {}
    page = write(
        tmp_path / "r.html",
        metrics=metrics,
        forecasts=[],
        history=[],
        settings={},
        versions={},
        cost=RunCost(),
    )
    tree = Tree(page)
    assert tree.count("svg") == 1 and tree.count("details") == 0 and tree.count("dl") == 0 and tree.count("table") == 1
    for head in ("Forecasts</h2>", "Training</h2>", "Settings and versions"):
        assert head not in page
    assert not re.search(r">\s*(None|nan)", page)


def test_what_a_page_is_given_stands_in_it_in_its_place():
    """A table's cells under its headings, the best marked; what was paid, names with values, and texts with their marks."""
    rows = [{"name": "a", "mean": 0.5, "median": 1.25, "words": "so"}, {"name": "b", "mean": 0.75, "words": "no"}]
    error = [replace(column(key, key, "error", "hares"), better="less") for key in ("mean", "median")]
    table = Table("A table", "What it is.", rows, [words("name", " "), *error, words("words")])
    passages = pages.Passages("A prompt", "a note", [pages.Passage("tuned", "its text", "pass", "3 tokens")])
    sections = [
        pages.Section("First", [table, pages.Pairs("Settings", [("rank", "8"), ("seed", "3")])], "Words."),
        pages.Section("Second", [passages]),
        pages.Section("Empty", []),
    ]
    html = pages.render(pages.Page("A title", "A summary.", [("steps", "12"), ("time", "3 s")], sections))
    tree = Tree(html)
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL) == [
        '<th scope="row">a</th><td data-value="0.5" class="best">0.500</td><td data-value="1.25">1.25</td>'
        '<td class=" words">so</td>',
        '<th scope="row">b</th><td data-value="0.75">0.750</td><td>–\u2008\u2007\u2007</td><td class=" words">no</td>',
    ]
    assert [int(attrs["colspan"]) for tag, attrs in tree.tags if "colspan" in attrs] == [1, 2, 1]
    assert [text for tag, text in tree.texts if tag == "button"] == ["mean", "median", "words"]
    assert "error" in [text for tag, text in tree.texts if tag == "th"] and ("small", "hares") in tree.texts
    pairs = [text for tag, text in tree.texts if tag in ("dt", "dd")]
    assert pairs == ["steps", "12", "time", "3 s", "rank", "8", "seed", "3"]
    assert [text for tag, text in tree.texts if tag in ("h1", "h2", "h3", "h4")] == [
        "A title", "First", "Second", "A prompt", "tuned",
    ]  # fmt: skip
    told = [text for tag, text in tree.texts if tag in ("span", "blockquote", "small")]
    assert told == ["hares", "pass", "its text", "3 tokens"] and ("p", "A summary.") in tree.texts


def test_a_table_that_is_wider_than_a_sheet_of_paper_is_printed_small():
    narrow, wide = ([column(f"{i}", f"{i}") for i in range(count)] for count in (10, 16))
    for columns, small in ((narrow, False), (wide, True)):
        rows = [{"name": "a method", **{one.key: 0.12345 for one in columns}}]
        assert ("small" in Table("", "", rows, [words("name"), *columns]).marks) == small
    prose = [{"name": "a method", "told": "words " * 40}]
    assert "small" not in Table("", "", prose, [words("name"), words("told")]).marks  # it wraps


def test_text_from_data_is_escaped_everywhere(tmp_path):
    metrics = make_metrics()
    metrics["rows"][2]["name"] = HOSTILE
    metrics["protocol"]["data"] = metrics["protocol"]["units"]["mae"] = HOSTILE
    for row in metrics["rows"]:
        row["per_variable"] = {HOSTILE: {"mae": 1.0}}
    bad = {HOSTILE: HOSTILE}
    panels = [make_panel(series, (HOSTILE, "b")) for series in range(3)]
    page = write(
        tmp_path / "r.html",
        title=HOSTILE,
        metrics=metrics,
        forecasts=panels,
        settings=bad,
        versions=bad,
        cost=RunCost(device=HOSTILE),
    )
    assert "<script>alert" not in page and page.count("<script") == 1
    assert page.count("&lt;script&gt;") > 10
    Tree(page)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("forecast of שם and prey: 3", "forecast of <bdi>שם</bdi> and prey: 3"),
        ("שם טוב 3", "<bdi>שם טוב</bdi> 3"),
        ("שם, אב (95 %)", "<bdi>שם</bdi>, <bdi>אב</bdi> (95 %)"),
        ("a\u202eb", "a<bdi>\u202e</bdi>b"),
        ("<b>ش</b>", "&lt;b&gt;<bdi>ش</bdi>&lt;/b&gt;"),
        ("名前 – 95 %", "名前 – 95 %"),
    ],
)
def test_what_is_read_from_right_to_left_turns_nothing_around_it(text, html):
    assert str(pages.isolated(text)) == html


def test_names_of_a_page_are_isolated_but_where_no_element_may_stand():
    name = "שם & <x>"
    table = Table(name, name, [{"name": name, "value": 1}], [words("name", " "), column("value", name, name, name)])
    blocks = [
        table,
        pages.Pairs(name, [(name, name)]),
        pages.Passages(name, name, [pages.Passage(name, name, "pass", name)]),
    ]
    html = pages.render(pages.Page(name, name, [(name, name)], [pages.Section(name, blocks, name, name)] * 4))
    known, escaped = "<bdi>שם</bdi> &amp; &lt;x&gt;", "שם &amp; &lt;x&gt;"
    Tree(html)
    bare = html.replace(known, "")
    assert html.count(known) > 40 and bare.count(escaped) == 13 and "<bdi>" not in bare
    assert f"<title>{escaped}</title>" in html and html.count(f'aria-label="{escaped}"') == 4


def test_what_no_page_may_hold_is_replaced(tmp_path):
    pages.write(tmp_path / "a.html", pages.Page("a\x1b\udcff", "b\x00", [], []))
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<title>a\ufffd\ufffd</title>" in html and "b\ufffd" in html


def test_same_input_gives_the_same_bytes(page, tmp_path):
    assert write(tmp_path / "again.html") == page
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_series_shown_are_ranked_by_error():
    metrics = make_metrics()
    chosen = scores(metrics).picked(range(11))
    errors = metrics["rows"][0]["mae_by_series"]
    ranked = sorted(range(11), key=lambda series: errors[str(series)])
    assert [one.series for one in chosen] == [ranked[1], ranked[5], ranked[9]]
    assert [(one.percentile, one.of) for one in chosen] == [(10, 11), (50, 11), (90, 11)]
    assert scores(metrics).picked() == chosen
    assert [(one.series, one.of) for one in scores(metrics).picked([4])] == [(4, 1)]
    assert scores(metrics).picked([]) == []
    del metrics["rows"][0]["mae_by_series"]
    assert scores(metrics).picked(range(11)) == [Picked(0), Picked(1), Picked(2)]


def test_caption_says_whether_the_scale_peeks():
    metrics = make_metrics()
    assert "fitted on the context alone" in report.protocol_text(scores(metrics).protocol)
    metrics["protocol"]["scale_peeks_at_future"] = True
    assert "include the future" in report.protocol_text(scores(metrics).protocol)
    assert "temperature 1, top-k off, top-p 1, repetition penalty 1, number grammar on, seed 0" in report.protocol_text(
        scores(metrics).protocol
    )
    assert report.protocol_text(scores({"protocol": {}, "rows": []}).protocol) == ""


def test_summary_follows_the_numbers():
    metrics = make_metrics()
    text = report.summary(scores(metrics))
    assert "next 20 steps by the tuned model is off by 0.0457 raw units" in text
    assert "3.5 times smaller than the error of the untuned model (0.160)" in text
    assert "the best baseline, last value (0.228)" in text
    knowing = copy.deepcopy(metrics)
    knowing["rows"].append({**metrics["rows"][-1], "name": "RM, fitted (oracle)", "mae": 0.0037})
    told = report.summary(scores(knowing))
    assert "the best baseline, last value (0.228)" in told
    assert "RM, fitted (oracle), which knows the equations, is off by 0.00370." in told
    worse = copy.deepcopy(metrics)
    worse["rows"][0]["mae"], worse["rows"][0]["mae_ci95"] = 0.18, [0.15, 0.20]
    text = report.summary(scores(worse))
    assert "12.6 % above the error of the untuned model (0.160; the intervals overlap)" in text
    assert "untuned model is off" in report.summary(scores({"protocol": {}, "rows": metrics["rows"][1:]}))
    assert report.summary(scores({"protocol": {}, "rows": []})) == "No forecast was measured."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.049449, "0.0494"),
        (0.99951, "1.00"),
        (357.2, "357"),
        (12_345.0, "12300"),
        (45_244_228.0, "4.52e7"),
        (5.3e-5, "5.30e−5"),
        (-0.2812, "−0.281"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_samples_are_a_table_of_their_own_in_a_terminal():
    metrics = make_metrics()
    text = report.format_samples(scores(metrics))
    assert text.isascii() and "Coverage of bands, 50 / 80 / 95 %" in text
    head, rule, *lines = text.splitlines()
    models = [row["name"] for row in metrics["rows"] if row.get("crps") is not None]
    assert head.split() == " ".join(models).split() and set(rule) == {"-"} and len(lines) >= 3
    assert report.format_samples(scores({"protocol": {}, "rows": []})) == ""


def test_a_share_below_one_is_never_written_as_all():
    assert [percent(share) for share in (1.0, 0.9999, 0.5, None)] == ["100", "99.9", "50.0", "–"]
    values = (1.0, 0.99998, 0.9996, 0.99904, 0.995, 0.9949, -1.63)
    assert [number(v, of_one=True) for v in values] == [
        "1.00",
        "0.99998",
        "0.9996",
        "0.9990",
        "0.995",
        "0.995",
        "−1.63",
    ]


def test_points_are_aligned():
    lines = align(["0.0494", "12.3", "357", "–"])
    assert lines == ["  0.0494", " 12.3   ", "357     ", "  –     "]


def test_terminal_table_is_plain_aligned_and_narrow():
    metrics = make_metrics()
    table = report.format_table(scores(metrics))
    lines = table.splitlines()
    assert table.isascii() and max(map(len, lines)) <= 110
    assert [line.split()[0] for line in lines[3:8]] == ["tuned", "untuned", "last", "seasonal", "VAR(3)"]
    assert len({line.index(".") for line in lines[3:8]}) == 1
    assert lines[0].strip(" -") == "inside" and "MSE" in lines[1] and "Left out" not in table
    metrics["rows"][1].update(mae=3.57e8, mae_ci95=[1e5, 4e9], mse=1.2e17, mae_median=1.0, crps=2e8, mase=1e-9, r2=-4e9)
    for width in (110, 60):
        wild = report.format_table(scores(metrics), width)
        assert max(map(len, wild.splitlines())) <= width and "3.57e8" in wild
    assert "Left out for width: MSE, free" in " ".join(report.format_table(scores(metrics), 60).split())
    assert report.format_table(scores({"protocol": {}, "rows": []}))
