"""What tuning left behind, as parts of an `Analyses`: training curves, costs of tokens, LM head, adapters, padding.

Each analysis tells the units and definitions of its numbers. By step, by series or by direction a value is None if it is not
finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxlv.results.quantities import quantity
from jaxlv.results.record import Id, Interval, Record, rare
from jaxlv.results.sheets import Sheet, columns, records

Curve = tuple[float | None, ...]
"""Values by step, by variable, by series, or by whatever else stands beside them."""


def told(words: Mapping[str, str]) -> Any:
    """Declares the units or definitions of an analysis."""
    return field(default_factory=lambda: words)


@dataclass(frozen=True, kw_only=True)
class Analysis(Record):
    """The base of all analyses: units and definitions of what it holds, by key."""

    units: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)

    @property
    def sheets(self) -> dict[str, Sheet]:
        """Its CSV files by name."""
        return {}


@dataclass(frozen=True)
class Spread(Record):
    """The ends and the middle of some values."""

    least: float | None = quantity("least")
    median: float | None = quantity("median")
    greatest: float | None = quantity("greatest")

    @classmethod
    def of(cls, values: Sequence[float | None] | np.ndarray) -> Spread | None:
        """Returns the spread of values that are there; None if there are none."""
        held = np.array([value for value in values if value is not None], float)
        return cls(held.min(), float(np.median(held)), held.max()) if len(held) else None


# ------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Logged(Record):
    """What metrics.jsonl has of a training step."""

    step: int
    loss: float | None = rare()
    gradient_norm: float | None = rare()
    clipped_norm: float | None = rare()
    learning_rate: float | None = rare()
    validation_loss: float | None = rare()
    forecast_mae: float | None = rare()


@dataclass(frozen=True, kw_only=True)
class Training(Analysis):
    """Losses and norms of gradients by step, and what clipping left of the gradients."""

    records: tuple[Logged, ...]
    logged_steps: int
    first_loss: float | None = None
    last_loss: float | None = None
    best_validation_loss: float | None = None
    best_validation_step: int | None = None
    clip_norm: float | None = None  # None: gradients are not clipped
    gradient_norm: Spread | None = None
    ratio: Spread | None = None
    share_clipped: float | None = None
    units: Mapping[str, str] = told(
        {"loss": "nats per real token", "norms": "nats per real token, per unit of the parameters"}
    )
    definitions: Mapping[str, str] = told(
        {
            "gradient_norm": "Euclidean norm of the gradient of the mean loss, over all that trains, before clipping",
            "ratio": "norm after clipping / norm before it",
        }
    )

    @property
    def constant_rate(self) -> float | None:
        """The learning rate of all logged steps; None if it changes, or was not logged."""
        found = {one.learning_rate for one in self.records if one.learning_rate is not None}
        return found.pop() if len(found) == 1 else None

    @property
    def sheets(self) -> dict[str, Sheet]:
        """What was logged, by step."""
        return {"training": records(self.records)}


# ----------------------------------------------------------------------------------------------------- costs of tokens


@dataclass(frozen=True)
class Nats(Record):
    """What a token costs on average under a softmax."""

    nats: float | None = quantity("nats", "nats per token")
    perplexity: float | None = quantity("perplexity")


@dataclass(frozen=True)
class NatsOver(Nats):
    """The same over whole series, with its interval and the mean of each series."""

    nats_ci95: Interval | None = None
    by_series: Curve = ()


@dataclass(frozen=True)
class TokenShare(Record):
    """Some tokens: how many, what they cost under either softmax, and their share of the cost of all."""

    vocabulary: Nats
    symbols: Nats
    tokens: int = quantity("tokens", form="count")
    share_of_nats: float | None = quantity("share", form="share")


@dataclass(frozen=True)
class StepCosts(Record):
    """Nats per token by time step: quantiles over series."""

    step: tuple[int, ...]
    p10: Curve
    median: Curve
    p90: Curve


@dataclass(frozen=True, kw_only=True)
class TokenCosts(Analysis):
    """What the tokens of whole series cost a model: overall, by kind of token, by time step."""

    series: tuple[Id, ...]
    context: int
    tokens: int
    vocabulary: NatsOver
    symbols: NatsOver
    by_kind: Mapping[str, TokenShare]
    by_window: Mapping[str, TokenShare]
    by_step: StepCosts
    headroom: float | None = None
    scale: str | None = None
    outside: float | None = None
    units: Mapping[str, str] = told(
        {"nats": "nats per real token", "perplexity": "exp(nats)", "outside": "share of the probability"}
    )
    definitions: Mapping[str, str] = told(
        {
            "tokens": "every token of a series' text but the first, given all tokens before it; padding never counts",
            "vocabulary": "softmax over the whole vocabulary",
            "symbols": "softmax over the 13 symbols of the number format",
            "outside": "mean probability of all tokens that are no symbol",
            "nats_ci95": "percentile bootstrap over series of their means",
            "share_of_nats": "of the sum over all tokens, by the softmax over the 13 symbols",
            "by_step": "mean over the tokens of a time step, then 10 %, 50 % and 90 % over series, over the 13 symbols",
        }
    )

    @property
    def parts(self) -> dict[str, TokenShare]:
        """All tokens, and those of each kind and each window."""
        return {"all": TokenShare(self.vocabulary, self.symbols, self.tokens, 1.0), **self.by_kind, **self.by_window}

    @property
    def sheets(self) -> dict[str, Sheet]:
        """Costs of tokens by kind and window, and by time step."""
        kinds = [
            {
                "part": name, "tokens": one.tokens, "nats_vocabulary": one.vocabulary.nats, "nats_symbols": one.symbols.nats,
                "perplexity_symbols": one.symbols.perplexity, "share": one.share_of_nats,
            }
            for name, one in {**self.by_kind, **self.by_window}.items()
        ]  # fmt: skip
        return {"token_costs": Sheet.of(kinds), "token_costs_by_step": columns(vars(self.by_step))}


# ------------------------------------------------------------------------------------------------------------ the head


@dataclass(frozen=True)
class Entry(Record):
    """An entry of the LM head's change, and the text of its token."""

    id: int
    text: str
    value: float

    @property
    def label(self) -> str:
        """The token's text if it is printable ASCII, escaped, else its id."""
        if not self.text:
            return f"id {self.id} (no text)"
        return repr(self.text) if self.text.isascii() else f"id {self.id}"


@dataclass(frozen=True)
class SymbolEntry(Record):
    """The entry of a symbol, and its place among all."""

    id: int = quantity("token id", form="count")
    value: float | None = quantity("value")
    rank: int = quantity("place", form="count")


@dataclass(frozen=True)
class Histogram(Record):
    """How many entries lie between edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class AgainstPaper(Record):
    """The positive tokens beside those that a paper found."""

    report: str
    positive: tuple[str, ...]
    median: float
    same: bool
    both: tuple[str, ...]
    report_only: tuple[str, ...] = ()
    symbols_here_only: tuple[str, ...] = ()
    others_here_only: int = 0


@dataclass(frozen=True, kw_only=True)
class Head(Analysis):
    """What training changed in the LM head: the bias of each token ("bias"), or the norm of its row's change ("full")."""

    kind: str
    sentence: str | None = rare()  # of a head that did not train ("frozen"), which has nothing else
    entries: int = rare()
    moved: int = rare()
    positive: int = rare()
    negative: int = rare()
    median: float = rare()
    least: float = rare()
    greatest: float = rare()
    largest: tuple[Entry, ...] = rare()
    positive_tokens: tuple[Entry, ...] = rare()
    histogram: Histogram = rare()
    symbols: Mapping[str, SymbolEntry] = rare()
    against_report: AgainstPaper | None = rare()

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The largest entries, the positive ones, and those of the 13 symbols."""
        if self.sentence:
            return {}
        symbols = Sheet.joined("symbol", {symbol: records([one]) for symbol, one in self.symbols.items()})
        return {
            "head_largest": records(self.largest), "head_positive": records(self.positive_tokens), "head_symbols": symbols,
        }  # fmt: skip


# ----------------------------------------------------------------------------------------------------- adapter spectra


@dataclass(frozen=True)
class Projection(Record):
    """The change scale * B A of an adapted weight: how many directions it uses, and its size."""

    layer: int
    projection: str
    rank: int
    effective_rank: float
    stable_rank: float
    first_share: float
    norm: float
    weight_norm: float
    relative_norm: float
    singular_values: tuple[float, ...]


@dataclass(frozen=True)
class ProjectionSpread(Record):
    """Measures of rank and size over projections of one name, or over all."""

    name: str
    matrices: int = quantity("matrices", form="count")
    effective_rank: Spread | None = None
    stable_rank: Spread | None = None
    first_share: Spread | None = None
    relative_norm: Spread | None = None


MEASURES = ("effective_rank", "stable_rank", "first_share", "relative_norm")


@dataclass(frozen=True, kw_only=True)
class Spectra(Analysis):
    """The adapters' singular values, and whether their rank is used."""

    rank: int
    projections: tuple[Projection, ...]
    sentence: str
    used: float | None = None
    summary: Mapping[str, Spread | None] = field(default_factory=dict)
    units: Mapping[str, str] = told(
        {"singular_values, norm, weight_norm": "weight units", "relative_norm": "1", "first_share": "1"}
    )
    definitions: Mapping[str, str] = told(
        {
            "singular_values": "of scale * B A",
            "effective_rank": "exp(-sum p log p), p = s / sum s; 1 = one direction, the rank = all alike",
            "stable_rank": "sum s² / max s²",
            "first_share": "max s² / sum s²",
            "relative_norm": "Frobenius norm of scale * B A / that of the frozen weight",
            "used": "median effective rank / rank",
        }
    )

    @property
    def by_name(self) -> dict[str, list[Projection]]:
        """The projections of each name, in order of appearance."""
        found: dict[str, list[Projection]] = {}
        for one in self.projections:
            found.setdefault(one.projection, []).append(one)
        return found

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The measures and singular values of each projection."""
        lines = [
            {key: value for key, value in vars(one).items() if key != "singular_values"}
            | {f"s{place}": value for place, value in enumerate(one.singular_values, 1)}
            for one in self.projections
        ]
        return {"adapter_spectra": Sheet.of(lines)}

    @property
    def spreads(self) -> list[ProjectionSpread]:
        """The measures over all projections, then over those of each name."""
        return [
            ProjectionSpread(name, len(own), *(Spread.of([getattr(one, key) for one in own]) for key in MEASURES))
            for name, own in {"all": self.projections, **self.by_name}.items()
        ]


# ------------------------------------------------------------------------------------------------------------- padding


@dataclass(frozen=True)
class PaddedCase(Record):
    """A way to pad: how far logits and the next token's distribution are from those without padding."""

    name: str
    difference: float | None = quantity("difference", "natural log units", group="logits")
    within: bool | None = quantity("within", form="literal")
    distance: float | None = quantity("distance", group="next token")
    digit: float | None = quantity("a digit", form="share", group="next token")
    side: str | None = None
    positions: str | None = None
    padding_seen: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Padding(Analysis):
    """Whether padding on either side changes what a model says."""

    dtype: str
    prompts: tuple[int, ...]  # tokens of each
    padded_to: int
    logits_compared: int
    largest_logit: float | None
    bound: float | None
    cases: tuple[PaddedCase, ...]
    units: Mapping[str, str] = told(
        {"difference, bound": "logits, natural log units", "distance": "1", "digit": "probability"}
    )
    definitions: Mapping[str, str] = told(
        {
            "difference": "largest absolute difference of a logit at a real token from the same without padding",
            "distance": "greatest total variation distance of the next token's distribution behind a prompt from the "
            "same without padding",
            "digit": "mean probability of a digit behind a prompt, where a digit must come",
            "bound": "2 layers sqrt(width) eps max|logit|: how far sums in the model's type may differ by their order",
        }
    )

    def case(self, name: str) -> PaddedCase:
        """Returns the case of a name."""
        return next(one for one in self.cases if one.name == name)

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The ways to pad, and the bound that rounding sets."""
        return {"padding": Sheet.of({**one.tree(), "bound": self.bound} for one in self.cases)}
