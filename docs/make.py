"""Writes the pages of docs/ that come from the source, the outputs in docs/tutorial.md, and the pictures.

python docs/make.py            # settings.md, api.md, verbs.md, results.md, and the outputs in tutorial.md
python docs/make.py pictures   # docs/pictures/, and the outputs in forecast.ipynb
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

import jaxlv.results
from jaxlv.config import RunConfig, toml_value
from jaxlv.data.observations import Observations
from jaxlv.outcomes import Prediction, Scores
from jaxlv.results.panels import ForecastPanel
from jaxlv.results.record import Record
from jaxlv.settings import Statement, statements
from jaxlv.tools import cli

DOCS = Path(__file__).resolve().parent
MADE = "<!-- written by docs/make.py -->"
MORE = {
    "demo": "base.md", "train": "runs.md", "evaluate": "forecasts.md", "stress": "forecasts.md", "compare": "forecasts.md",
    "reproduce": "systems.md", "export": "adapters.md", "merge": "adapters.md", "flops": "flops.md", "ledger": "flops.md",
}  # fmt: skip
EXPLORED = ("plane", "periods", "tokens")  # figures of `jaxlv explore`
WIDE = 100  # characters of a signature on one line

# ------------------------------------------------------------------------------------------------ settings

SETTINGS = """# Settings

A config is a TOML file with these sections. What it does not name has its default. On the command line a setting is
`--set section.name=value`, in Python `settings=["section.name=value"]`. `jaxlv init FILE` writes a config that fits a file
of series, and `jaxlv configs` lists those that come with jaxlv.
"""


def settings_page() -> str:
    """Returns the reference of a config: each setting's default, meaning, and what it may be."""
    return "\n".join([MADE, SETTINGS, *(_section(name, said.kind) for name, said in statements(RunConfig).items())])


def _section(name: str, kind: type) -> str:
    rows = [
        f"| `{field}` | `{_default(kind, field)}` | {_cell(said.words)} | {_cell(_allowed(said))} |"
        for field, said in statements(kind).items()
    ]
    head = ["| setting | default | meaning | allowed |", "|---|---|---|---|"]
    return "\n".join([f"## [{name}]", "", " ".join((kind.__doc__ or "").split()), "", *head, *rows, ""])


def _allowed(said: Statement) -> str:
    """Returns what a setting may be, and what each value of a list or table may be."""
    text, each = str(said._replace(words="")), getattr(said.allowed, "each", None)
    kinds = [one for one in typing.get_args(said.kind) if one is not Ellipsis]
    if not kinds or typing.get_origin(said.kind) is typing.Literal:
        return text
    one = Statement(kinds[-1], "", each)
    return text if kinds[-1] is dict else f"{text}, each {one}"


def _default(kind: type, name: str) -> str:
    (field,) = (one for one in dataclasses.fields(kind) if one.name == name)
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[operator]
    return "none" if value is None else toml_value(list(value) if isinstance(value, tuple) else value)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


# ------------------------------------------------------------------------------------------------ results

RESULTS = """# Figures in results

Every figure that a page, a table or a result file shows, by the record that holds it: its key in JSON, the words and the
heading of its column, its unit, how it is written, and which value of it is better.
"""


def results_page() -> str:
    """Returns the reference of what is measured: the quantities of every record in jaxlv.results."""
    found = {}
    for one in pkgutil.iter_modules(jaxlv.results.__path__):
        module = importlib.import_module(f"jaxlv.results.{one.name}")
        own = {name: kind for name, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__}
        found |= {name: kind for name, kind in own.items() if isinstance(kind, type) and issubclass(kind, Record)}
    return "\n".join([MADE, RESULTS, *(_record(name, kind) for name, kind in sorted(found.items()) if kind.quantities())])


def _record(name: str, kind: type[Record]) -> str:
    keys = {field.name: field.metadata.get("key") or field.name for field in dataclasses.fields(kind)}
    rows = []
    for one in kind.quantities().values():
        heading = f"{one.group}: {one.head}" if one.group else one.head
        cells = [f"`{keys[one.key]}`", one.words, heading, one.unit, one.form, str(one.better), one.meaning]
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    head = ["| key | words | heading | unit | written as | better | meaning |", "|---|---|---|---|---|---|---|"]
    return "\n".join([f"## {name}", "", prose((kind.__doc__ or "").split("\n\n")[0]), "", *head, *rows, ""])


# ----------------------------------------------------------------------------------------------------- API


def api_page() -> str:
    """Returns the reference of the public names: signatures and docstrings."""
    head = "# Python\n\n`import jaxlv` loads nothing else; each name is imported when it is used.\n"
    own = {f"jaxlv.{name}": getattr(jaxlv, name) for name in jaxlv.__all__ if not name.startswith("_")}
    back = {one.__name__: one for one in (Prediction, Scores, Observations)}
    parts = [_described(name, thing) for name, thing in own.items()]
    returned = "# What comes back\n\nObjects of these classes are returned by the functions and methods above.\n"
    return "\n".join([MADE, head, *parts, "#" + returned, *(_described(name, one, "###") for name, one in back.items())])


def _described(name: str, thing: Any, level: str = "##") -> str:
    lines = [f"{level} {name}", "", _signature(name, thing), "", prose(inspect.getdoc(thing) or ""), ""]
    for key, member in vars(thing).items() if inspect.isclass(thing) else ():
        words, kinds = inspect.getdoc(member), (property, classmethod, FunctionType)
        if key.startswith("_") or not words or not isinstance(member, kinds):
            continue
        called = [] if isinstance(member, property) else [_signature(key, getattr(thing, key)), ""]
        lines += [f"{level}# {name.removeprefix('jaxlv.')}.{key}", "", *called, prose(words), ""]
    return "\n".join(lines)


class _Plain(str):
    """An annotation without quotation marks."""

    __repr__ = str.__str__


def _signature(name: str, thing: Any) -> str:
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f"```py\nclass {name}\n```"
    found = inspect.signature(thing)
    plain = [one.replace(annotation=_annotation(one.annotation)) for one in found.parameters.values() if one.name != "self"]
    found = found.replace(parameters=plain, return_annotation=_annotation(found.return_annotation))
    text = f"{name}{found}"
    if len(text) > WIDE:
        ends = "" if found.return_annotation is found.empty else f" -> {found.return_annotation!r}"
        text = f"{name}(\n" + "".join(f"    {part},\n" for part in _parts(found)) + f"){ends}"
    return f"```py\n{text}\n```"


def _annotation(given: Any) -> Any:
    return _Plain(given) if isinstance(given, str) else given


def _parts(found: inspect.Signature) -> Iterator[str]:
    """Returns the parameters of a signature, and the star in front of those that go by name alone."""
    starred = False
    for one in found.parameters.values():
        starred |= one.kind is one.VAR_POSITIONAL
        if one.kind is one.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield str(one)


def prose(text: str) -> str:
    """Returns a docstring as Markdown: its sections as lists, its example as a session of Python."""
    parts = re.split(r"^(Args|Returns|Raises|Example):\n", text, flags=re.M)
    told = [parts[0].strip()]
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        body = inspect.cleandoc(body)
        if heading == "Example":
            told.append(f"```pycon\n{body}\n```")
        elif heading == "Returns":
            told.append(f"**Returns** {body[0].lower()}{body[1:]}")
        else:
            told.append(f"**{heading}**\n\n{_items(body)}")
    return "\n\n".join(told)


def _items(body: str) -> str:
    """Returns "name: words" paragraphs, whose further lines are indented, as a list."""
    found = [" ".join(item.split()) for item in re.split(r"\n(?=\S)", body)]
    return "\n".join(re.sub(r"^([\w*]+): ", r"- `\1`: ", item) for item in found)


# --------------------------------------------------------------------------------------------------- verbs


def verbs_page() -> str:
    """Returns the table of all verbs, and what the help of each begins with."""
    rows = [f"| [`{name}`](verbs.md#{name}) | {line} |" for name, line in cli.VERBS.items()]
    head = "# Verbs\n\n`jaxlv VERB --help` tells every option. All verbs have `--json`, `--quiet` and `--debug`.\n"
    return "\n".join([MADE, head, "| verb | does |", "|---|---|", *rows, "", *map(_verb, cli.VERBS)])


def _verb(name: str) -> str:
    module = importlib.import_module(f"jaxlv.tools.{name}")
    own = [one for one in vars(module).values() if inspect.isfunction(one) and one.__module__ == module.__name__]
    lines = [f"## {name}", ""]
    for function in own:
        text, words = inspect.cleandoc(function.__doc__ or ""), name
        if function.__name__ != name:
            words = f"{name} {function.__name__}"
        if "\n    jaxlv " not in text:
            continue
        told, _, options = text.partition("\n\nArgs:\n")
        lines += [*([f"### {words}", ""] if words != name else []), _fenced(told), ""]
        lines += [_options(inspect.cleandoc(options), function), ""] if options else []
    return "\n".join([*lines, *([f"More in [{MORE[name]}]({MORE[name]}).", ""] if name in MORE else [])])


def _fenced(text: str) -> str:
    return re.sub(r"(?m)(^    .*(?:\n    .*)*)", lambda found: "```text\n" + inspect.cleandoc(found[0]) + "\n```", text)


def _options(body: str, function: FunctionType) -> str:
    """Returns the arguments of a docstring as a list: options with their dashes, in capitals what has its place."""
    found = [" ".join(item.split()).partition(": ") for item in re.split(r"\n(?=\S)", body)]
    named = {one.name for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY}
    shown = {name: f"--{name.replace('_', '-')}" if name in named else name.upper() for name, *_ in found}
    return "\n".join(f"- `{shown[name]}`: {words}" for name, _, words in found)


# ------------------------------------------------------------------------------------------------ tutorial


def outputs(page: str) -> list[str]:
    """Runs the Python blocks of a page, one after another, in a folder with lynx.csv; returns what each prints."""
    scope: dict[str, Any] = {"__name__": "docs"}
    found = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(DOCS / "lynx.csv", "lynx.csv")
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, "tutorial.md", "exec"), scope)
            found.append("\n".join(line.rstrip() for line in printed.getvalue().splitlines()))
    return found


def with_outputs(page: str) -> str:
    """Returns a page whose Python blocks are followed by what they print."""
    parts = re.split(r"(```python\n.*?```\n)(?:\n```text\n.*?```\n)?", page, flags=re.S)
    for place, printed in enumerate(outputs(page)):
        parts[2 * place + 1] += f"\n```text\n{printed}\n```\n" if printed else ""
    return "".join(parts)


# ------------------------------------------------------------------------------------------------ pictures


def pictures(folder: Path) -> None:
    """Draws the embedded base, as it is, on a record from the field and on a simulated series, with what came true.

    Of 20 simulated series the one is drawn that moves most in the part to be forecast: most others come to rest before it.
    """
    from jaxlv.data import dynamics
    from jaxlv.forecasting.panels import panels
    from jaxlv.forecasting.request import Request
    from jaxlv.report.figures import evaluation, svg

    forecaster = jaxlv.open_model("embedded")
    record, drawn = jaxlv.load_series(DOCS / "lynx.csv").ready().series, dynamics.draw("course", 20, seed=0)
    moved = drawn.values_NTV[:, 50:].std(1).sum(1)
    drawn = drawn.select([int(drawn.ids_N[moved.argmax()])])
    folder.mkdir(exist_ok=True)
    for name, series, request in (("field", record, Request(11, 10, 20)), ("simulated", drawn, Request(50, 50, 20))):
        made = forecaster(series, request)
        panel = panels(made, series)[0]
        svg.save_png(evaluation.forecast_figure(panel), folder / f"{name}.png")
        print(f"{name}: {_hit(panel)}")
        if name == "field":
            svg.save_png(evaluation.phase_figure(panel), folder / "phase.png")
    scores = jaxlv.Forecaster("embedded", progress=False).evaluate(DOCS / "lynx.csv", horizon=3, origins=3)
    scores.plot(folder / "methods.png")
    _explored(folder)


def _explored(folder: Path) -> None:
    """Draws figures of `jaxlv explore` on 40 simulated series."""
    with tempfile.TemporaryDirectory() as work:
        series, out = str(Path(work) / "series.csv"), str(Path(work) / "out")
        for words in (["simulate", "--series", "40", "--seed", "1", "--out", series], ["explore", series, "--out", out]):
            subprocess.run([sys.executable, "-m", "jaxlv.tools.cli", *words], check=True, stdout=subprocess.DEVNULL)
        for name in EXPLORED:
            shutil.copy(Path(out) / "figures" / f"{name}.png", folder / f"explore_{name}.png")


def _hit(panel: ForecastPanel) -> str:
    """Returns how a forecast did, in words."""
    truth_HV, (low_HV, high_HV) = panel.truth_HV, panel.band(0.8)
    error, inside_HV = np.abs(panel.median_HV - truth_HV).mean(), (low_HV <= truth_HV) & (truth_HV <= high_HV)
    return f"mean absolute error {error:.3g}, {inside_HV.sum()} of {inside_HV.size} values in the 80 % band"


def notebook(path: Path) -> None:
    """Runs a notebook, and keeps its outputs in it."""
    import nbclient
    import nbformat

    found = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(found, timeout=600, record_timing=False).execute()
    nbformat.write(found, path)


PAGES = {"settings.md": settings_page, "api.md": api_page, "verbs.md": verbs_page, "results.md": results_page}


def main(arguments: list[str]) -> None:
    """Writes what the arguments name; without any, the pages."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if arguments:
        pictures(DOCS / "pictures")
        return notebook(DOCS / "forecast.ipynb")
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    tutorial = DOCS / "tutorial.md"
    tutorial.write_text(with_outputs(tutorial.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
