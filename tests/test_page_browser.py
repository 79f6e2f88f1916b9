"""Pages in a browser: headless Chromium finds no error, figures that are seen and named, and tables that sort."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_folders import make_metrics, write_run, write_sweep

from jaxlv.report.page import render
from jaxlv.studies.pages import made

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000",
    "--enable-logging=stderr", "--v=0", "--dump-dom",
)  # fmt: skip
PHONE = 390  # CSS pixels
WIDE = 672  # pixels of a figure as wide as a page, on a phone
# What a reader would find, written into the page as JSON. A table sorts if a click on each head puts its column in
# ascending order, missing values last, and a second click turns it round.
LOOK = """
<script>
addEventListener("load", () => {
  const value = cell => cell.dataset.value === undefined ? cell.textContent.trim()
    : Number(cell.dataset.value.replace("inf", "Infinity"));
  const ordered = (cells, sign) => {
    const held = cells.map(value).filter(v => v !== "–" && v !== "");
    const missing = cells.map(value).findIndex(v => v === "–" || v === "");
    const rises = held.every((v, i) => i === 0 || (typeof v !== typeof held[i - 1])
      || sign * (typeof v === "number" ? held[i - 1] - v : held[i - 1].localeCompare(v, undefined, {numeric: true})) <= 0);
    return rises && (missing < 0 || missing >= held.length);
  };
  const unsorted = [];
  let clicked = 0;
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[1].cells], rows = table.tBodies[0].rows;
    heads.forEach((head, column) => {
      for (const [sign, state] of [[1, "ascending"], [-1, "descending"]]) {
        head.querySelector("button").click();
        clicked += 1;
        const cells = [...rows].map(row => row.cells[column]);
        if (head.getAttribute("aria-sort") !== state || !ordered(cells, sign))
          unsorted.push(`${table.parentElement.ariaLabel}: ${head.textContent}`);
      }
    });
  }
  const figures = [...document.querySelectorAll("svg")].map(svg => {
    const box = svg.getBoundingClientRect();
    return {alt: svg.getAttribute("aria-label"), role: svg.getAttribute("role"), width: box.width, height: box.height,
            sized: Number(svg.getAttribute("width")) > 0 && Number(svg.getAttribute("height")) > 0};
  });
  const untold = [...document.querySelectorAll("svg .values>*")].filter(mark => {
    mark.scrollIntoView({block: "center"});
    const box = mark.getBoundingClientRect();
    const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return !hit?.querySelector("title")?.textContent.trim();
  }).map(mark => mark.textContent);
  const values = document.querySelectorAll("svg .values title").length;
  const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
  const dead = [...document.querySelectorAll("a")].filter(a => !document.querySelector(a.getAttribute("href")));
  const twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  const found = {clicked, unsorted, values, untold, figures, twice, dead: dead.map(a => a.textContent),
    beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    names: [...document.querySelector("table").tBodies[0].rows].map(row => row.cells[0].textContent)};
  const place = (window.parent || window).document, node = place.createElement("pre");
  node.id = "found";
  node.textContent = JSON.stringify(found);
  place.body.append(node);
});
</script>
"""


class Seen(NamedTuple):
    """What a browser made of a page: its console's errors, and what LOOK found."""

    errors: list[str]
    found: dict[str, Any]

    @property
    def unnamed(self) -> list[dict[str, Any]]:
        """The figures that have no size or no text in their place."""
        return [
            figure
            for figure in self.found["figures"]
            if not (
                figure["sized"]
                and figure["width"] > 0
                and figure["height"] > 0
                and figure["alt"]
                and figure["role"] == "img"
            )
        ]


@pytest.fixture(scope="module")
def browse(tmp_path_factory) -> Callable[..., Seen]:
    """(page as HTML, width of a phone's screen or 0) -> what a browser makes of it."""
    named = os.environ.get("CHROME_PATH")
    chromium = named if named and Path(named).is_file() else next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} on PATH, and no CHROME_PATH")
    work = tmp_path_factory.mktemp("browser")

    def look(text: str, phone: int = 0) -> Seen:
        page = text.replace("</body>", LOOK + "</body>")
        if phone:
            frame = f'<iframe style="width:{phone}px;height:800px;border:0" srcdoc="{html.escape(page)}"></iframe>'
            page = f"<!DOCTYPE html><html><body>{frame}</body></html>"
        (work / "page.html").write_text(page, encoding="utf-8")
        command = [chromium, *OPTIONS, f"--user-data-dir={work / 'profile'}", (work / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        errors = [line for line in done.stderr.splitlines() if re.search(r":CONSOLE[:(]", line)]
        found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, f"the page was not shown: {done.stderr[-2000:]}"
        return Seen(errors, json.loads(html.unescape(found[1])))

    return look


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The page of two runs, one of them evaluated, and a sweep."""
    place = tmp_path_factory.mktemp("results")
    paths = [
        write_run(place / "first", {"lora.rank": 2}, mae=0.2, steps=2, metrics=make_metrics()),
        write_run(place / "second", {"lora.rank": 4}, loss=0.4, mae=0.1, steps=4),
        write_sweep(place / "ranks", {2: 0.6, 4: 0.5}),
    ]
    return render(made(paths))


def test_a_page_of_runs_has_no_errors_named_figures_and_tables_that_sort(browse, page):
    seen = browse(page)
    assert seen.errors == []
    assert len(seen.found["figures"]) == page.count("<svg ") >= 8
    assert seen.unnamed == []
    assert seen.found["values"] == page.count("<title>") - 1 > 50 and seen.found["untold"] == []
    assert seen.found["clicked"] == 2 * page.count("<button") > 50
    assert seen.found["unsorted"] == []
    assert seen.found["dead"] == seen.found["twice"] == []  # every entry of the contents leads somewhere, and to one place
    assert {"first", "second"} < set(seen.found["names"])  # the comparing table stands first
    assert seen.found["beyond"] <= 0


def test_a_phone_shows_it_without_scrolling_sideways(browse, page):
    seen = browse(page, PHONE)
    assert seen.found["beyond"] <= 0
    widths = [figure["width"] for figure in seen.found["figures"]]
    assert seen.unnamed == [] and widths
    assert {width for width in widths if width > PHONE} == {WIDE}  # of a whole row: it can be read, and scrolls in its frame


def test_what_is_broken_is_found(browse, page):
    broken = page.replace('addEventListener("click"', 'addEventListener("dblclick"')
    broken = re.sub(r'aria-label="[^"]*" (?=font-family)', "", broken, count=1)
    broken = re.sub(r'<svg ([^>]*)width="\d[\d.]*"', r'<svg \1width="0"', broken, count=2)
    broken = broken.replace('pointer-events="all"', 'pointer-events="none"', 3)
    broken = broken.replace("</main>", '<div style="width:3000px" id="section-1-2">x</div><script>null.x</script></main>')
    broken = broken.replace('href="#section-1-1"', 'href="#nowhere"')
    seen = browse(broken)
    assert len(seen.errors) == 1 and "null" in seen.errors[0]
    assert len(seen.found["unsorted"]) == seen.found["clicked"]
    assert [(figure["alt"] is None, figure["sized"]) for figure in seen.unnamed] == [(True, False), (False, False)]
    assert 0 < len(seen.found["untold"]) < seen.found["values"]
    assert seen.found["twice"] == ["section-1-2"]
    assert seen.found["dead"] == ["All runs"]
    assert seen.found["beyond"] > 0
