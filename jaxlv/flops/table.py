"""The analytic count: a convention's formulas, evaluated for one piece of work. Integers only."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import CodeType
from typing import Any, Literal

from jaxlv.errors import JaxlvError
from jaxlv.flops.conventions import CONVENTIONS, Convention
from jaxlv.flops.rows import Row, When
from jaxlv.flops.spread import copies
from jaxlv.flops.work import Work, symbols

Program = Literal["forward", "loss", "train step"]
PARTS: Mapping[str, tuple[When, ...]] = {"forward": ("always",), "loss": ("always", "loss")}  # of a pass without gradients
GENERATION: tuple[When, ...] = ("token", "generation")  # rows that a loop of tokens has in addition to its passes
PADDING = ", padding"  # ends the name of a row for what is executed only because something is padded
BUILTINS: dict[str, Any] = {"__builtins__": {}, "min": min, "max": max}  # what formulas may call


@dataclass(frozen=True)
class Counted:
    """One row of a table: FLOPs of a component in a phase, with their formula."""

    component: str
    phase: str
    count: int
    formula: str
    when: When = "always"


@dataclass(frozen=True)
class Table:
    """All rows of one convention for one piece of work, with the FLOPs of a forward pass, of one with its loss (a
    validation), and of a train step.
    """

    convention: str
    rows: tuple[Counted, ...]
    total_forward: int
    total_loss: int
    total_train_step: int

    def by_component(self, program: Program = "train step", merged: bool = False) -> dict[tuple[str, str], int]:
        """Returns {(component, phase): FLOPs} of a program, summed over rows; components that cost 0 are left out. If
        `merged`, padding is part of its component, as in a program's scopes.
        """
        sums: Counter[tuple[str, str]] = Counter()
        for r in self.rows:
            if program == "train step" or (r.phase == "forward" and r.when in PARTS[program]):
                sums[r.component.removesuffix(PADDING) if merged else r.component, r.phase] += r.count
        return {key: value for key, value in sums.items() if value}

    @property
    def source(self) -> str:
        """Where the convention is from, in words."""
        return CONVENTIONS[self.convention].source

    @property
    def counted(self) -> list[Counted]:
        """The rows that cost something."""
        return [row for row in self.rows if row.count]

    def tree(self) -> dict[str, Any]:
        """Returns source, totals and rows as JSON."""
        totals = {"total_forward": self.total_forward, "total_train_step": self.total_train_step}
        return {"source": self.source, **totals, "rows": [asdict(row) for row in self.rows]}

    @property
    def padding(self) -> int:
        """The FLOPs of a train step that are executed only because something is padded."""
        return sum(row.count for row in self.rows if row.component.endswith(PADDING))


def count(work: Work, convention: str) -> Table:
    """Returns the table of one training step of `work`; raises JaxlvError if there is no such convention.

    A convention of what really runs counts padding too, in rows of its own ("q_proj lora A, padding"), and what several
    devices repeat (jaxlv.flops.spread).
    """
    chosen = find(convention)
    own, padded = symbols(work), symbols(work, padded=True)
    rows: list[Counted] = []
    totals: Counter[str] = Counter()
    for r in chosen.rows:
        if r.when in GENERATION:
            continue
        formula, flops = formula_of(r, chosen), price(r, chosen, own)
        if chosen.backward == "own rows":
            flops *= copies(r.component, work)
        parts = {"": flops}
        if chosen.backward == "own rows" and padded != own:
            parts[PADDING] = price(r, chosen, padded) * copies(r.component, work) - flops
        for mark, flops in parts.items():
            times = 1 if r.when == "step" else work.accumulate
            rows.append(Counted(r.component + mark, r.phase, times * flops, formula, r.when))
            totals[r.when] += flops
            totals["train step"] += times * flops
        if chosen.backward == "twice":
            rows.append(Counted(r.component, "backward", 2 * work.accumulate * flops, f"2 * ({formula})", "gradient"))
            totals["train step"] += 2 * work.accumulate * flops
    forward = totals["always"]
    return Table(convention, tuple(rows), forward, forward + totals["loss"], totals["train step"])


def forward(work: Work, convention: str) -> int:
    """Returns the FLOPs of one forward pass without a loss."""
    return count(work, convention).total_forward


def prefill(work: Work, convention: str) -> int:
    """Returns the FLOPs of reading prompts of `work.length` tokens: the head runs at the last position of each row."""
    return forward(replace(work, last_only=True), convention)


def decode(work: Work, cache: int, convention: str) -> int:
    """Returns the FLOPs of one new token in each row, attending to `cache` earlier tokens (all slots of a cache of fixed
    size).
    """
    return forward(replace(work, length=1, cache=cache, last_only=True), convention)


def generation(
    work: Work,
    new_tokens: int,
    convention: str,
    *,
    cached: bool = True,
    slots: int | None = None,
    stage: int = 0,
    samples: int = 1,
) -> int:
    """Returns the FLOPs of `new_tokens` tokens after prompts of `work.length`, `samples` continuations of each of
    `work.batch` prompts.

    With a cache: one prefill per prompt, whose last position gives the first token, then one decode step for each token. If
    guesses are read (`work.ahead`), `new_tokens` are the turns, each of which reads a token and the guesses. `slots` are the
    tokens attended to in addition to the new one, reached from `work.length` in stages of `stage` (0: from the start); None
    counts those that exist, as in a cache that grows. Without a cache every token costs a forward pass over the whole text
    so far, with logits at its last position.
    """
    rows = replace(work, batch=work.batch * samples, shared=work.length, samples=samples, nested=0)
    if not cached:
        return sum(prefill(replace(rows, length=work.length + i), convention) for i in range(new_tokens))
    if slots is None:
        return prefill(work, convention) + sum(decode(rows, work.length + i, convention) for i in range(new_tokens))
    made = passes(work, new_tokens, slots, stage, samples)
    chosen = choosing(rows, new_tokens, _stages(work, slots, stage), convention)
    return chosen + sum(times * forward(one, convention) for one, times in made)


def passes(work: Work, new_tokens: int, slots: int, stage: int, samples: int) -> list[tuple[Work, int]]:
    """Returns the forward passes of a generation and how often each is made: the prefill, then a turn's by stages.

    A turn that reads guesses has logits at every token; cuDNN does not attend to a tail with gaps (jaxlv.steps.decode).
    """
    each = 1 + work.ahead
    turn: dict[str, Any] = {"length": each, "last_only": not work.ahead, "shared": work.length, "samples": samples}
    turn |= {"nested": 0, "known": 0}
    kernel = "xla" if work.ahead and work.kernel == "cudnn" else work.kernel
    rows, tail = replace(work, batch=work.batch * samples, kernel=kernel, **turn), each * new_tokens
    read = work.batch - work.known - work.nested
    made = [(replace(work, batch=read, last_only=True, causal=True), 1)] if read else []
    for first in range(0, tail, stage or max(1, tail)):
        attended = min(slots, work.length + first + stage) if stage else slots
        last = min(first + stage, tail) if stage else tail
        made.append((replace(rows, cache=attended), last // each - first // each))
    return made


def generation_by_component(
    work: Work, new_tokens: int, convention: str, slots: int, stage: int, samples: int
) -> dict[tuple[str, str], int]:
    """Returns {(component, phase): FLOPs} of a generation with a cache; padding is part of its component."""
    made = passes(work, new_tokens, slots, stage, samples)
    rows = replace(work, batch=work.batch * samples, shared=work.length, samples=samples)
    sums = Counter({("sampling", "forward"): choosing(rows, new_tokens, _stages(work, slots, stage), convention)})
    for one, times in made:
        for where, flops in count(one, convention).by_component("forward", merged=True).items():
            sums[where] += times * flops
    return {where: flops for where, flops in sums.items() if flops}


def _stages(work: Work, slots: int, stage: int) -> int:
    """Returns the number of loops in a generation's program, whether or not its tokens reach them."""
    return -(-(slots - work.length) // stage) if stage else 1


def choosing(rows: Work, turns: int, stages: int, convention: str) -> int:
    """Returns the FLOPs of choosing `turns` tokens in each row of a generation, and of its loop's bookkeeping, for the
    sampling settings in `rows.drawing`.
    """
    chosen = find(convention)
    if rows.drawing.way == "unknown":
        return 0
    values = symbols(replace(rows, length=1)) | {"turns": turns, "stages": stages}
    times = {"token": turns, "generation": 1}
    drawn = sum(times[r.when] * price(r, chosen, values) for r in chosen.rows if r.when in GENERATION)
    return drawn * copies("sampling", rows)


def find(name: str) -> Convention:
    """Returns the convention of a name; raises JaxlvError if there is none."""
    if name not in CONVENTIONS:
        raise JaxlvError("unknown convention", where="flops", expected=", ".join(CONVENTIONS), found=name)
    return CONVENTIONS[name]


def price(r: Row, convention: Convention, values: Mapping[str, int]) -> int:
    """Returns the FLOPs of a row: how often it occurs, times its primitives and products at the convention's prices."""
    total, times = 0, value(r.times, values)
    for name, text in r.operations if times else ():
        if name == "dot":
            batch, (m, n, p) = _dot(text)
            sizes = {"m": value(m, values), "n": value(n, values), "p": value(p, values)}
            empty = 0 in sizes.values()
            total += 0 if empty else value(batch, values) * value(convention.product, sizes)
        else:
            total += convention.weights[name] * value(text, values)
    return times * total


def formula_of(r: Row, convention: Convention) -> str:
    """Returns a row's formula as text, over the symbols of jaxlv/flops/work.py; `dot(m, n, p)` stands for the product's
    price.
    """
    terms = []
    for name, text in r.operations:
        if name == "dot":
            batch, sizes = _dot(text)
            terms.append(("" if batch == "1" else f"{_factor(batch)} * ") + f"dot({', '.join(sizes)})")
        elif convention.weights[name] and text != "0":
            weight = convention.weights[name]
            terms.append(_factor(text) if weight == 1 else f"{weight} * {_factor(text)}")
    inside = " + ".join(terms) or "0"
    if r.times == "1":
        return inside
    return f"{_factor(r.times)} * ({inside})" if len(terms) > 1 else f"{_factor(r.times)} * {inside}"


def value(text: str, values: Mapping[str, int]) -> int:
    """Returns the integer value of a formula."""
    result: Any = eval(_compiled(text), BUILTINS, dict(values))  # only formulas of conventions.py get here
    assert isinstance(result, int), text
    return result


@functools.cache
def _compiled(text: str) -> CodeType:
    return compile(text, text, "eval")


@functools.cache
def _dot(text: str) -> tuple[str, tuple[str, ...]]:
    batch, _, sizes = text.partition(" | ")
    return batch, tuple(sizes.split(", "))


def _factor(text: str) -> str:
    """Returns a formula as a factor of another: in brackets if it is a sum."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth and text.startswith((" + ", " - "), place):
            return f"({text})"
    return text
