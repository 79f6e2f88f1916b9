"""Chat templates: Jinja programs, run in the same sandbox as in transformers, but in another process."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """The tag {% generation %}, around what the model wrote itself; its body is written unchanged."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """Turns the block into a call that returns what its body writes."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Any) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """A template's own variables, whose names must not begin with "_", as Python's internals do."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # so that a variable may be called self
        names = dict(*rest, **kwargs)
        for name in names:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a variable called {name}")


class Dictionary:
    """A template's `dict`: it makes dictionaries, and exposes nothing of Python's own type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Does what Python's own does."""
        return dict.fromkeys(*args)


def _raise(message: Any) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(
    template: str, messages: Sequence[Mapping[str, str]], names: Mapping[str, str], most: int, answer: bool = True
) -> str:
    """Returns what a template writes for messages, each with a role and a content; `names` are its special tokens.

    With `answer`, the text ends where the answer begins; without, with the content of the last message, so that it can be
    continued. Raises ValueError if that is more than `most` characters, and whatever the template makes jinja2 raise.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "dict": Dictionary(),
        "namespace": Namespace,
    }
    given = {"messages": [dict(one) for one in messages], "tools": None, "documents": None}
    parts, written = [], 0
    for part in environment.from_string(template).generate(**{**names, **given, "add_generation_prompt": answer}):
        parts.append(part)
        written += len(part)
        if written > most:
            raise ValueError(f"it writes more than {most} characters")
    text = "".join(parts)
    return text if answer else _until_the_end_of(messages[-1]["content"], text)


def _until_the_end_of(content: str, text: str) -> str:
    """Returns a text up to the end of the last message's content; without the spaces behind it, if the template drops them.

    Raises ValueError if the template does not write the content.
    """
    begin = text.rfind(content.strip())
    if begin < 0:
        raise ValueError("it does not write the last message as it is")
    kept = content.lstrip() if text.startswith(content.lstrip(), begin) else content.strip()
    return text[: begin + len(kept)]
