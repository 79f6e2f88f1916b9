"""The options that verbs share which ask a model: of what is forecast, of how it is drawn, and of a model that is no run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from jaxlv.config import CodecConfig, Dtype, EvaluateConfig, SamplingConfig, Scale
from jaxlv.tools.console import CALL
from jaxlv.tools.options import given, setting

if TYPE_CHECKING:
    from jaxlv.studies.subjects import Asked


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
    """Options of a model that is no run."""

    adapter: Annotated[Path | None, Parameter(help="folder of an adapter in PEFT's format, laid over the model")] = None
    scale: Annotated[Scale | None, Parameter(help="of the text; the adapter's, or context, if not given")] = None
    decimals: Annotated[int | None, setting(CodecConfig, "decimals", help=True)] = None
    dtype: Annotated[Dtype, Parameter(help="of the weights")] = "float32"
    revision: Annotated[str, Parameter(help="of a hub id: a commit, tag or branch")] = ""


def asked(
    subject: str,
    data: Path | None,
    series: Sequence[int] | None,
    most: int | None = None,
    *,
    protocol: Protocol | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
    **more: Any,
) -> Asked:
    """Returns what a library function takes for these options; `more` are settings of the protocol that a verb adds."""
    from jaxlv.studies import subjects

    drawn = given(sampling)
    if drawn.pop("no_grammar", False):
        drawn["grammar"] = False
    how = subjects.Bare(**given(bare))
    return subjects.Asked(subject, data, series, most, given(protocol, **more), drawn, how, CALL.purpose)
