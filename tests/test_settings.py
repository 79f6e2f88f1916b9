"""Every setting of every config, and every numeric option of every program, is held to what it says is allowed."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts import App

from jaxlv import config as configs
from jaxlv.config import EvaluateConfig, RunConfig, SamplingConfig, build_config, config_tree, read_tree
from jaxlv.data import dynamics, splits
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import Terms
from jaxlv.model.attention import KERNELS
from jaxlv.runs import sinks
from jaxlv.runs.search import Range
from jaxlv.settings import Between, Either, Entries, Items, Number, Settings, Statement, Text, setting, statements
from jaxlv.studies import from_scratch as make_base
from jaxlv.text.codec import SCALE_RULES, Codec
from jaxlv.tools.bounds import read_numbers
from jaxlv.tools.cli import VERBS
from jaxlv.tools.console import start
from jaxlv.tools.options import parse_ids

BASE = build_config(make_base.BaseConfig, read_tree(Path(__file__).resolve().parents[1] / "configs" / "base.toml"))
EXAMPLES = {configs.StageConfig: configs.StageConfig()} | {
    type(example): example
    for whole in (RunConfig(), BASE)
    for example in [whole, *(value for value in vars(whole).values() if isinstance(value, Settings)), BASE.phases[0]]
}
FIELDS = [(cls, name) for cls in EXAMPLES for name in statements(cls)]
NUMBERS = (int, float, Number)


def wrapped(statement: Statement, value: Any) -> Iterator[tuple[Statement, Any]]:
    """(a statement about single values, how a value stands in the setting) for a setting and what is in it."""
    yield statement, value
    arguments, allowed = typing.get_args(statement.kind), statement.allowed
    if isinstance(allowed, Items) and allowed.each:
        for inner, whole in wrapped(Statement(arguments[0], "", allowed.each), lambda one: one):
            filler = next(iter(good(inner)), None)
            yield inner, lambda one, whole=whole, filler=filler: value([whole(one), *[filler] * max(0, allowed.least - 1)])
    if isinstance(allowed, Entries):
        for inner, whole in wrapped(Statement(arguments[1], "", allowed.each), lambda one: one):
            yield inner, lambda one, whole=whole: value({"x": whole(one)})


def beyond(limit: float, kind: Any, up: bool) -> float:
    return (
        (int(limit) + (1 if up else -1)) if kind in (int, Number) else math.nextafter(limit, math.inf if up else -math.inf)
    )


def within(limit: float, kind: Any, up: bool) -> float:
    """The number next to an open limit: a float is not the limit in float32 either, nor below what that has."""
    if kind in (int, Number):
        return beyond(limit, kind, up)
    return float(
        np.finfo(np.float32).tiny if limit == 0 else np.nextafter(np.float32(limit), np.float32(2 * limit if up else 0))
    )


def good(statement: Statement) -> list[Any]:
    """Values at the edge of what is allowed."""
    a = statement.allowed
    if isinstance(a, Between):
        low = within(a.low, statement.kind, True) if a.above else a.low
        high = within(a.high, statement.kind, False) if a.below else a.high
        cast = int if statement.kind is int else float
        return [cast(low), cast(high), *map(cast, a.also)]
    if isinstance(a, Either):
        return [good(Statement(int, "", a.number))[0], *good(Statement(str, "", a.text))]
    return ["plain", "with nbsp\u00a0"] if isinstance(a, Text) else []


def bad(statement: Statement) -> list[Any]:
    """Values of another type, and beyond the edge of what is allowed."""
    kind, a = statement.kind, statement.allowed
    if isinstance(a, Between):
        found = [math.nan, math.inf, -math.inf, True, np.bool_(True), "1", [1], 10**400, -(10**400), 16**9000]
        found += [] if statement.can_lack else [None]
        found += [a.low if a.above else beyond(a.low, kind, False), a.high if a.below else beyond(a.high, kind, True)]
        if kind is float:  # allowed, but not in float32, in which 1e-40 is 0
            found += [beyond(a.low, kind, True)] * a.above + [beyond(a.high, kind, False)] * a.below + [5e-324, 1e-40]
        return found + ([1.5, 1.0] if kind is int else [])
    if isinstance(a, Either):
        numbers, texts = bad(Statement(int, "", a.number)), bad(Statement(str, "", a.text))
        return [one for one in numbers if not isinstance(one, str)] + [one for one in texts if type(one) is not int]
    if isinstance(a, Text):
        return [1, True, None, b"x", ["x"], "a\x1b[2J", "a\0b", "a\nb", "a\u202eb", "a\ud800", "x" * (a.longest + 1)]
    if isinstance(a, Items):
        return [1, "x", None, {"x": 1}, *([[]] if a.least else [])]
    if isinstance(a, Entries):
        return [1, "x", None, [1], {"a\x1b": 1.0}, {1: 1.0}, dict.fromkeys(map(str, range(a.most + 1)), 1.0)]
    if kind is bool:
        return [0, 1, "true", None, 1.0]
    if typing.get_origin(kind) is typing.Literal:
        return ["other", 1, True, None, ["x"], float("nan")]
    assert dataclasses.is_dataclass(kind)
    return [1, "x", None, [1]]


def refusal(action: Any) -> str:
    with pytest.raises(JaxlvError) as caught:
        action()
    line = str(caught.value)
    assert line.isprintable() and len(line) <= 800
    return line


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_a_setting_is_held_to_what_is_allowed(cls, name):
    """Directly and from a table: the edge is taken; what lies beyond it or is of another type is refused by name."""
    example, statement = EXAMPLES[cls], statements(cls)[name]
    dotted = f"{cls.section}.{name}" if cls.section else name
    assert statement.words
    if statement.kind in NUMBERS or typing.get_args(statement.kind)[:1] in [(int,), (float,)]:
        assert statement.allowed, "a number says its bounds"
    tree = config_tree(example)
    for inner, whole in wrapped(statement, lambda one: one):
        for value in map(whole, bad(inner)):
            line = refusal(functools.partial(dataclasses.replace, example, **{name: value}))
            assert dotted in line, line
            line = refusal(functools.partial(build_config, cls, {**tree, name: value}, "my.toml"))
            assert line.startswith("my.toml") and name in line
        for value in map(whole, good(inner)):
            try:
                dataclasses.replace(example, **{name: value})
            except JaxlvError as fault:  # allowed, but not together with the others
                assert "must be" not in str(fault)


def test_values_become_plain_python_and_what_is_not_a_setting_is_refused_when_a_class_is_made():
    found = EvaluateConfig(samples=np.int64(3), context=np.uint8(9))
    assert type(found.samples) is int and type(found.context) is int and found.samples == 3
    sampling = SamplingConfig(temperature=0, top_p=np.float32(0.5), grammar=np.bool_(False))
    assert type(sampling.temperature) is float and type(sampling.top_p) is float and sampling.grammar is False
    assert configs.DataConfig(path=Path("a") / "b", train_ids=[1, 2]).train_ids == (1, 2)
    with pytest.raises(JaxlvError, match="known keys"):
        build_config(RunConfig, {"x": 1})

    @dataclasses.dataclass(frozen=True)
    class Forgotten(Settings):
        size: int = setting(1, "without bounds")

    @dataclasses.dataclass(frozen=True)
    class Bare(Settings):
        size: int = 1

    for cls in (Forgotten, Bare):
        with pytest.raises(TypeError, match="a setting says its words and what is allowed"):
            cls()


def test_a_config_of_any_text_survives_being_written(tmp_path):
    budget = configs.BudgetConfig(2e17, phases={"é 1": 10**17 + 1})
    written = RunConfig(data=configs.DataConfig(path='a "b"\\c é 🐇\u00a0.h5'), budget=budget)
    (tmp_path / "again.toml").write_text(configs.to_toml(written), encoding="utf-8")
    assert configs.load_config(tmp_path / "again.toml") == written


def test_every_settings_class_has_its_example():
    def below(cls: type) -> set[type]:
        return set().union(*({one, *below(one)} for one in cls.__subclasses__())) if cls.__subclasses__() else set()

    ours = {cls for cls in below(Settings) if cls.__module__.startswith("jaxlv")}
    assert ours == set(EXAMPLES)


def test_choices_are_those_that_the_code_knows():
    def choices(cls: type, name: str) -> set[str]:
        kind = statements(cls)[name].kind
        return set(typing.get_args(typing.get_args(kind)[0] if name == "sinks" else kind))

    assert choices(configs.CodecConfig, "scale") == set(SCALE_RULES)
    assert choices(configs.DataConfig, "split") == {"fractions", *splits.REPORTED_SPLITS}
    assert choices(configs.ModelSettings, "attention") == set(KERNELS)
    assert choices(configs.TrainConfig, "sinks") == set(sinks.SINKS)


# ------------------------------------------------------------------------------------------------- the options


def apps(verb: str) -> Iterator[tuple[list[str], App]]:
    """(words before the options, program) of a verb and of those below it."""
    app = importlib.import_module(f"jaxlv.tools.{verb}").app
    if app.default_command:
        yield [], app
    yield from (([name], app[name]) for name in app if not name.startswith("-"))


def numeric(hint: Any) -> bool:
    """Whether a type is a number, or may be, or holds some."""
    return hint in (int, float) or any(map(numeric, typing.get_args(hint)))


def needed(app: App) -> list[str]:
    """What a program cannot do without: something for each argument that is required."""
    found = [one for one in app.assemble_argument_collection() if one.required and not one.children]
    values = [(one.name, (one.get_choices() or ["demo"])[0]) for one in found]
    return [f"{name}={value}" if name.startswith("-") else value for name, value in values]


@pytest.mark.parametrize("verb", [*VERBS, "make_base"])
def test_a_numeric_option_is_held_to_what_is_allowed(verb, capsys):
    for words, app in apps(verb):
        whole, required = importlib.import_module(f"jaxlv.tools.{verb}").app, needed(app)
        for one in app.assemble_argument_collection():
            if one.children or not numeric(one.hint):
                continue
            assert one.parameter.converter, f"{one.name}: a number says what is allowed"
            read = one.parameter.converter.args[0]
            if read is parse_ids:
                continue
            (kind, allowed), several = read.args, read.func is read_numbers
            statement = Statement(kind, "", allowed)
            numbers = [value for value in bad(statement) if type(value) in (int, float) and value != 16**9000]
            for text in ["", "x", "1,x", *map(str, numbers)]:
                with pytest.raises(ValueError, match=re.escape(allowed.words(kind))):
                    read(text)
            for value in good(statement):
                assert read(repr(value)) == ((value,) if several else value)
            for text in ("\x1b[2J", "9" * 5000):
                with pytest.raises(SystemExit) as stopped:
                    start(whole, [*words, *required, f"{one.name}={text}"])
                said = capsys.readouterr().err.rstrip("\n")
                assert stopped.value.code == 2 and said.isprintable() and len(said) < 1000
                assert f" for {one.name}: " in said


def test_the_numbers_of_a_simulation_are_those_of_a_preset():
    options = importlib.import_module("jaxlv.tools.simulate").app.assemble_argument_collection()
    read = {one.name: one.parameter.converter.args[0] for one in options if numeric(one.hint)}
    for name in ("steps", "stop", "noise"):
        assert read[f"--{name}"].args[1] == statements(dynamics.Preset)[name].allowed


@pytest.mark.parametrize("low", [math.nan, -math.inf, math.inf, 5.0, 10**400, 16**9000], ids=range(6))
def test_a_range_to_search_is_finite(low):
    assert "not a range" in refusal(lambda: Range("lora.alpha", low, 4.0))
    assert "not a range" in refusal(lambda: Range("lora.alpha", 1.0, low if low > 4 and low != 5 else math.nan))
    assert "not a range" in refusal(lambda: Range("lora.alpha", 0.0, 1.0, log=True))


# ------------------------------------------------------------------------------------------ beside the configs


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_what_is_made_without_a_config_is_held_to_the_same(value):
    assert "dataset_alpha" in refusal(lambda: Codec("mao", dataset_alpha=value or math.nan))
    assert "codec.headroom" in refusal(lambda: Codec(headroom=value if value else 1.0))
    preset = dynamics.PRESETS["course"]
    assert "course.stop" in refusal(lambda: dataclasses.replace(preset, stop=value))
    assert "course.steps" in refusal(lambda: dataclasses.replace(preset, steps=value))
    assert "n: must be" in refusal(lambda: dynamics.draw("course", value, 0))
    assert "budget" in refusal(lambda: Terms(value, "exact", None))  # type: ignore[arg-type]
