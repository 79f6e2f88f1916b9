"""What a ledger records: events, which are work with its shapes, and the terms of a budget."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from jaxlv.config import Weights, build_config
from jaxlv.errors import JaxlvError, represented
from jaxlv.flops.table import count, find, generation
from jaxlv.flops.work import Drawing, HeadKind, LossKind, Train, Update, Work
from jaxlv.model.config import ModelConfig

FINAL = "evaluation"  # the phase for which FLOPs are held back
MOST_FLOPS = int(1e30)  # the largest budget: what budget.flops allows, a little more than 10**30
MOST_SIZE, MOST_COUNT = 1 << 40, 10**6  # the largest sizes (batch, length, ...) and count of an event
MOST_STAGES = 10**5  # of a generation; a text of 10**6 tokens has fewer than 16,000
Kind = Literal["train_step", "validation", "generation"]


class Shape(tuple):
    """What events have in common that differ only in their place; its hash is computed once."""

    def __hash__(self) -> int:
        if "hash" not in self.__dict__:
            self.__dict__["hash"] = super().__hash__()
        return self.__dict__["hash"]


class _Room:
    """Space for the shape of an event, next to its fields, once it is known."""

    __slots__ = ("kept_shape",)
    kept_shape: Shape


@dataclass(frozen=True)
class Event(_Room):
    """Work with its shapes: `count` train steps of `accumulate` micro-batches, validation batches, or generations.

    A generation reads `batch` prompts of `length` tokens and makes `new_tokens` tokens in `samples` continuations of each,
    in as many iterations of a loop that attends to `slots` slots, reached in stages of `stage`. With `ahead`, each of these
    iterations reads so many guesses in every row in addition to a token; those that hold are tokens, too. `step` is the
    first step, or the step at which it ran. Of the prompts, `known` are not read, because an earlier generation's keys and
    values are used, and `nested` are read within longer ones that they begin (jaxlv.steps.prompts). `dtype`, `dropout`,
    `update` (the optimiser), `stack_rank`, `loss`, `drawing`, `causal`, `narrow`, `remat`, `over_data`,
    `over_model` and `weights` are those of jaxlv.flops.work.Work.
    """

    kind: Kind
    batch: int
    length: int
    count: int = 1
    step: int = 0
    rank: int = 0
    targets: tuple[str, ...] = ()
    head: HeadKind = "frozen"
    train: Train = "adapters"
    kernel: str = "xla"
    accumulate: int = 1
    samples: int = 1
    new_tokens: int = 0
    slots: int = 0
    stage: int = 0
    cached: bool = True
    dtype: str = "float32"
    dropout: bool = False
    update: Update = field(default_factory=Update)
    stack_rank: int = 0  # the rank to which the adapters are padded
    loss: LossKind = "summed"
    drawing: Drawing = field(default_factory=Drawing)
    causal: bool = False
    narrow: bool = False
    remat: bool = False
    over_data: int = 1
    over_model: int = 1
    weights: Weights = "full"
    ahead: int = 0
    known: int = 0
    nested: int = 0

    def of_kind(self, kind: Kind, **shape: Any) -> Event:
        """Returns other work of the same model, without the settings that do not apply to such work."""
        trains = {"accumulate": 1, "dropout": False, "update": Update(), "causal": False, "narrow": False, "remat": False}
        plain: dict[str, Any] = {} if kind == "train_step" else trains
        plain |= {} if kind == "generation" else {"drawing": Drawing(), "ahead": 0, "known": 0, "nested": 0}
        return replace(self, kind=kind, **{**plain, **shape})

    def work(self, model: ModelConfig) -> Work:
        """Returns the work of one batch, or of one train step."""
        return Work(
            model,
            self.batch,
            self.length,
            self.rank,
            self.targets,
            self.head,
            self.train,
            self.kernel,
            dtype=self.dtype,
            accumulate=self.accumulate,
            dropout=self.dropout,
            update=self.update,
            stack_rank=self.stack_rank,
            loss="summed" if self.kind == "generation" else self.loss,
            drawing=self.drawing,
            causal=self.causal,
            narrow=self.narrow,
            remat=self.remat,
            over_data=self.over_data,
            over_model=self.over_model,
            weights=self.weights,
            ahead=self.ahead,
            known=self.known,
            nested=self.nested,
        )

    @property
    def shape(self) -> Shape:
        """Everything except its place: how often, and at which step."""
        try:
            return self.kept_shape
        except AttributeError:
            object.__setattr__(self, "kept_shape", Shape(_shape(self)))
            return self.kept_shape

    @classmethod
    def of_shape(cls, shape: Shape) -> Event:
        """Returns one event of a shape, at step 0."""
        return cls(**dict(zip(SHAPE, shape, strict=True)))

    def flops(self, model: ModelConfig, convention: str) -> int:
        """Returns its price."""
        return self.count * _price_of_one(self.shape, model, convention)

    def padding(self, model: ModelConfig, convention: str) -> int:
        """Returns the FLOPs of its price that are executed only because something is padded."""
        own = replace(self, stack_rank=0, loss="summed" if self.loss == "flat" else self.loss)
        return self.flops(model, convention) - own.flops(model, convention)

    def tree(self) -> dict[str, Any]:
        """Returns what differs from OMITTED, as it is stored in a file."""
        place = {name: getattr(self, name) for name in PLACE}
        return {**_tree_of(self.shape), **{name: value for name, value in place.items() if value != OMITTED[name]}}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], known: Event | None = None) -> Event:
        """Returns the event that a file describes, or `known` if it is the same; raises JaxlvError if it is impossible."""
        shape = {name: value for name, value in tree.items() if name not in PLACE}
        step, count = tree.get("step", 0), tree.get("count", 1)
        if not _is_size(step) or not _is_size(count) or count > MOST_COUNT:
            raise _impossible(tree)
        event = _read(shape)
        if known is not None and known.shape is event.shape and (known.step, known.count) == (step, count):
            return known
        return event._at(step, count)

    def _at(self, step: int, count: int) -> Event:
        """Returns the same work at another place, with the same `shape`; `replace` would take ten times as long."""
        found = object.__new__(Event)
        found.__dict__.update(self.__dict__, step=step, count=count)
        object.__setattr__(found, "kept_shape", self.shape)
        return found


MOST_KNOWN = 1000
PLACE = ("count", "step")  # what distinguishes events of one shape
SHAPE = tuple(one.name for one in fields(Event) if one.name not in PLACE)
LEAST = dict.fromkeys(("batch", "length", "accumulate", "samples", "over_data", "over_model"), 1)  # sizes that cannot be 0
MOST = {"ahead": 1}  # sizes that cannot be larger
_shape = operator.attrgetter(*SHAPE)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_SIZE


def _impossible(tree: Any) -> JaxlvError:
    return JaxlvError("impossible sizes of an event", where="event", found=represented(tree)[:80])


# What an event has if a file does not say. Before events had a `loss`, tokens were padded to whole chunks.
OMITTED = {one.name: one.default for one in fields(Event)} | {
    "update": asdict(Update()), "drawing": asdict(Drawing()), "loss": "flat",
}  # fmt: skip


def _told(tree: Mapping[str, Any], omitted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what differs, in a tree and the trees in it, from what is omitted."""
    return {
        name: _told(value, omitted[name]) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value != omitted[name]
    }


@functools.lru_cache(maxsize=1024)
def _tree_of(shape: Shape) -> dict[str, Any]:
    """Returns what differs from OMITTED in a shape; do not change it."""
    return _told(asdict(Event.of_shape(shape)), OMITTED)


_known: dict[str, Event] = {}  # by the text that they were read from: a file has few shapes, and many events of each


def _read(shape: Mapping[str, Any]) -> Event:
    """Returns an event without its place."""
    if (event := _known.get(text := repr(shape))) is None:
        event = build_config(Event, {"loss": OMITTED["loss"], **shape}, where="event")
        sizes = {name: value for name, value in vars(event).items() if isinstance(value, int)}
        fits = all(LEAST.get(name, 0) <= size <= MOST.get(name, MOST_SIZE) for name, size in sizes.items())
        if event.stage and event.new_tokens > MOST_STAGES * event.stage:  # each stage is priced by itself
            raise _impossible(shape)
        if not fits or event.known + event.nested > event.batch - (event.nested > 0):  # what others lie within is read
            raise _impossible(shape)
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[text] = event
    return event


@functools.lru_cache(maxsize=1024)
def _price_of_one(shape: Shape, model: ModelConfig, convention: str) -> int:
    event = Event.of_shape(shape)
    work = event.work(model)
    if event.kind == "train_step":
        return count(work, convention).total_train_step
    if event.kind == "validation":
        return count(work, convention).total_loss
    return generation(
        work,
        event.new_tokens,
        convention,
        cached=event.cached,
        slots=event.slots if event.cached else None,
        stage=event.stage,
        samples=event.samples,
    )


@dataclass(frozen=True)
class Terms:
    """What is fixed when a ledger begins. `held_back` FLOPs are only for the phase "evaluation"."""

    budget: int
    convention: str
    model: ModelConfig
    held_back: int = 0
    envelopes: dict = field(default_factory=dict)  # FLOPs by phase
    repeats: Literal["within", "beyond"] = "within"  # the budget: work repeated after an interruption

    def __post_init__(self) -> None:
        find(self.convention)
        amounts = {"flops": self.budget, "held_back": self.held_back}
        amounts |= {f"phases.{name}": value for name, value in self.envelopes.items()}
        for name, value in amounts.items():
            if type(value) is not int or not 0 <= value <= MOST_FLOPS:
                expected = f"a whole number of FLOPs from 0 to {MOST_FLOPS:.0e}"
                raise JaxlvError("is not allowed", where=f"budget.{name}", expected=expected, found=represented(value)[:80])
        if self.held_back > self.budget:
            raise JaxlvError("must be within the budget", where="budget.held_back", found=self.held_back)
        if sum(self.envelopes.values()) > self.budget:
            raise JaxlvError(
                "the phases together exceed the budget",
                where="budget.phases",
                expected=f"at most {self.budget:.4g}",
                found=f"{sum(self.envelopes.values()):.4g}",
            )
