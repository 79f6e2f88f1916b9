"""What models of language answer, before and after tuning; the JSON of a `Probe` is probe.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxlv.results.quantities import quantity
from jaxlv.results.record import Number, Record, keyed


@dataclass(frozen=True)
class Answer(Record):
    """An answer: its text and tokens, whether it ended before the limit, and whether it holds what is expected."""

    text: str
    tokens: int
    ended: bool
    passed: bool | None = None  # None: nothing is expected


@dataclass(frozen=True)
class Asked(Record):
    """A prompt, what is expected, what the model reads, and each model's answer."""

    prompt: str
    answers: Mapping[str, Answer]
    seen: str | None = keyed("read")
    expected: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class TextCost(Record):
    """What a text costs a model."""

    nats_per_token: float | None = quantity("nats", better="less", group="Per token")
    perplexity: float | None = quantity("perplexity", better="less", group="Per token")
    bits_per_byte: float | None = quantity("bits", better="less", group="Per byte")
    nats: float | None = quantity("nats", "nats", "of all tokens together")
    tokens_scored: int = 0


@dataclass(frozen=True)
class TextRead(Record):
    """A text that models read in windows, and what it costs each of them."""

    file: str
    bytes: int
    tokens: int
    window: int
    stride: int
    models: Mapping[str, TextCost]
    sha256: str | None = None


@dataclass(frozen=True)
class ProbeCost(Record):
    """What a probe took of a run's budget."""

    convention: str
    spent: Number
    left: Number


@dataclass(frozen=True)
class Counts(Record):
    """How a model's answers came out: so many of those that were checked passed, and so many ended before the limit."""

    passed: int
    checked: int
    ended: int
    tokens: int
    answers: int

    @property
    def passes(self) -> str | None:
        """The passes in words, None if nothing was checked."""
        return f"{self.passed} of {self.checked}" if self.checked else None

    @property
    def ends(self) -> str:
        """The answers that ended, in words."""
        return f"{self.ended} of {self.answers}"

    @property
    def length(self) -> float:
        """Tokens of an answer, on average."""
        return self.tokens / self.answers


@dataclass(frozen=True)
class Probe(Record):
    """Prompts with their answers, and a text with its cost, for each model."""

    prompts: tuple[Asked, ...]
    max_new_tokens: int
    text: TextRead | None = None
    subject: str = ""
    base: str = ""
    prompts_from: str = ""
    sampling: Mapping[str, Number | bool] = field(default_factory=dict)
    seed: int | None = None
    flops: ProbeCost | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The models that answered."""
        return list(self.prompts[0].answers) if self.prompts else []

    def counts(self, model: str) -> Counts:
        """Returns how a model's answers came out."""
        given = [one.answers[model] for one in self.prompts]
        return Counts(
            passed=sum(answer.passed is True for answer in given),
            checked=sum(answer.passed is not None for answer in given),
            ended=sum(answer.ended for answer in given),
            tokens=sum(answer.tokens for answer in given),
            answers=len(given),
        )
