"""Options that verbs share: numbers within bounds, ids of series, configs, settings, and those of verbs that ask a model."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from jaxlv.config import CodecConfig, Dtype, EvaluateConfig, SamplingConfig, Scale, Weights, find_config
from jaxlv.errors import JaxlvError, printable
from jaxlv.settings import Between, statements
from jaxlv.tools.bounds import given, number, read_by, read_numbers
from jaxlv.tools.console import CALL

if TYPE_CHECKING:
    from jaxlv.studies.subjects import Asked

MOST_IDS = 1_000_000  # that an option may name


def parse_ids(text: str) -> list[Any]:
    """Returns series ids from "3,7" or "990-999" or both, or texts as "north,south". Raises ValueError if it is not such a
    list, or names too many.
    """
    ids: list[Any] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not re.fullmatch("[0-9]{1,18}", first) or (dash and not re.fullmatch("[0-9]{1,18}", last)):
            if re.fullmatch("[-+0-9.:; ]*", part):
                raise ValueError(f"{printable(text, 60)!r} is not a list of ids such as 3,7 or 990-999 or north,south")
            ids.append(part.strip())
            continue
        named = range(int(first), int(last or first) + 1)
        if not named:
            raise ValueError(f"{part!r} names no id; expected the lower one first")
        if len(ids) + len(named) > MOST_IDS:
            raise ValueError(f"{printable(text, 60)!r} names more than {MOST_IDS} ids")
        ids += named
    return ids


def numbers(kind: type, allowed: Between, help: str | None = None) -> Parameter:
    """Returns the annotation of an option that is a list of numbers separated by commas."""
    return read_by(functools.partial(read_numbers, kind, allowed), help)


def setting(cls: type, name: str, help: bool = False, several: bool = False) -> Parameter:
    """Returns the annotation of an option that is a number of a config, or `several` separated by commas, with its bounds
    and, if `help`, its words; without, the docstring of the verb says what it is.
    """
    one = statements(cls)[name]
    assert isinstance(one.allowed, Between)
    return (numbers if several else number)(one.kind, one.allowed, one.words if help else None)


Ids = Annotated[list[Any] | None, read_by(parse_ids, metavar="IDS")]
Names = Annotated[tuple[str, ...] | None, read_by(lambda text: tuple(text.split(",")), metavar="A,B")]
Config = Annotated[Path, read_by(find_config)]
ConfigOrNone = Annotated[Path | None, read_by(find_config)]
Settings = Annotated[
    tuple[str, ...], Parameter(name="--set", metavar="A.B=C", help="override one setting, A.B=C; may be repeated")
]
Backend = Literal["cpu", "cuda"]


# ------------------------------------------------------------- of verbs that ask a model


@Parameter(name="*", group=Group("Of the forecasts; the run's own settings if not given", sort_key=1))
@dataclass(frozen=True)
class Protocol:
    """Options that say what is forecast."""

    context: Annotated[int | None, setting(EvaluateConfig, "context", help=True)] = None
    horizon: Annotated[int | None, setting(EvaluateConfig, "horizon", help=True)] = None
    samples: Annotated[int | None, setting(EvaluateConfig, "samples", help=True)] = None
    seed: Annotated[int | None, setting(EvaluateConfig, "seed", help=True)] = None


@Parameter(name="*", group=Group("Of sampling", sort_key=2))
@dataclass(frozen=True)
class Drawn:
    """Options that say how a text is drawn."""

    temperature: Annotated[float | None, setting(SamplingConfig, "temperature", help=True)] = None
    top_k: Annotated[int | None, setting(SamplingConfig, "top_k", help=True)] = None
    top_p: Annotated[float | None, setting(SamplingConfig, "top_p", help=True)] = None
    repetition_penalty: Annotated[float | None, setting(SamplingConfig, "repetition_penalty", help=True)] = None


@Parameter(name="*", group=Group("Of sampling; the run's own settings if not given", sort_key=2))
@dataclass(frozen=True)
class Sampling(Drawn):
    """Options that say how forecasts are drawn."""

    no_grammar: Annotated[bool, Parameter(help="do not mask the logits by the number grammar")] = False


@Parameter(name="*", group=Group("Of a bare model", sort_key=3))
@dataclass(frozen=True)
class Bare:
    """Options of a model that is not a run."""

    adapter: Annotated[Path | None, Parameter(help="folder of an adapter in PEFT's format, laid over the model")] = None
    scale: Annotated[Scale | None, Parameter(help="scale of the text; the adapter's, or context, if not given")] = None
    decimals: Annotated[int | None, setting(CodecConfig, "decimals", help=True)] = None
    dtype: Annotated[Dtype, Parameter(help="type of the weights")] = "float32"
    weights: Annotated[Weights, Parameter(help="bits of the layers' weights")] = "full"
    revision: Annotated[str, Parameter(help="commit, tag or branch of a hub id")] = ""


@Parameter(name="*", group=Group("Of the data file", sort_key=4))
@dataclass(frozen=True)
class Reading:
    """Options that say how a file is read, and what is done with values that a model cannot be given."""

    id: Annotated[str | None, Parameter(help="column that tells series apart; found by its name if not given")] = None
    time: Annotated[str | None, Parameter(help="column of times; found by its name if not given")] = None
    columns: Annotated[Names, Parameter(help="variables; every other column of numbers if not given")] = None
    separate: Annotated[bool | None, Parameter(help="make each variable a series of its own", negative="")] = None
    missing: Annotated[
        Literal["interpolate", "mark", "drop", "error"] | None,
        Parameter(
            help="missing values: interpolate them (if not given), mark them in the text, drop the steps before the last, or"
            " refuse"
        ),
    ] = None
    negative: Annotated[
        Literal["shift", "error"] | None,
        Parameter(help="negative values: shift their variable above zero (if not given), or refuse"),
    ] = None


def idle(why: str, **options: object) -> None:
    """Raises JaxlvError for the first of some options that has a value: it would change nothing, and `why` says why not."""
    for name, value in options.items():
        if value:
            raise JaxlvError("changes nothing here", where=f"--{name.replace('_', '-')}", found=why)


def changed(given: object, usual: object) -> dict[str, object]:
    """Returns the fields of an object that are not as usual."""
    return {name: value for name, value in vars(given).items() if value != getattr(usual, name)}


def asked(
    subject: str,
    data: Path | None,
    series: Sequence[Any] | None,
    most: int | None = None,
    *,
    protocol: Protocol | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
    reading: Reading | None = None,
    **more: Any,
) -> Asked:
    """Returns what a library function takes for these options; `more` are settings of the protocol that a verb adds."""
    from jaxlv.data.observations import Handling
    from jaxlv.studies import subjects

    drawn = given(sampling)
    if drawn.pop("no_grammar", False):
        drawn["grammar"] = False
    how = subjects.Bare(**given(bare))
    read = given(reading)
    handling = Handling(**{name: read.pop(name) for name in ("missing", "negative") if name in read})
    own = given(protocol, **more)
    return subjects.Asked(subject, data, series, most, own, drawn, how, CALL.purpose, reading=read, handling=handling)
