"""What an audit examines: one of the project's own programs, with what the formulas say of it by component and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp

from jaxlv.flops import programs, table
from jaxlv.flops.programs import Program
from jaxlv.flops.table import PADDING
from jaxlv.flops.work import Work
from jaxlv.model.qwen2 import Qwen2

Parts = dict[tuple[str, str], int]  # FLOPs by component and phase


@dataclass(frozen=True)
class Subject:
    """A program and its formulas.

    `formula(convention)` gives the FLOPs of each component and phase, padding included; `padding` gives the products' share
    of it. Loops of unknown length run `trips` times. `inexact` names components whose elementwise operations the formulas do
    not give exactly, each with the reason.
    """

    program: Program
    formula: Callable[[str], Parts]
    padding: Parts = field(default_factory=dict)
    trips: int | None = None
    inexact: Mapping[str, str] = field(default_factory=dict)
    narrow: bool = False  # it computes in a type narrower than float32


def of_pass(program: Program, work: Work, part: table.Program) -> Subject:
    """Returns the subject of a forward pass, a pass with its loss, or a train step of `work`."""
    return of_passes(program, [work], part)


def of_passes(program: Program, works: list[Work], part: table.Program, inexact: Mapping[str, str] | None = None) -> Subject:
    """Returns the subject of the same pass of several runs in one program."""

    def formula(convention: str) -> Parts:
        sums: Counter[tuple[str, str]] = Counter()
        for work in works:
            sums.update(table.count(work, convention).by_component(part, merged=True))
        return dict(sums)

    padding: Counter[tuple[str, str]] = Counter()
    for work in works:
        for (component, phase), flops in table.count(work, "exact").by_component(part).items():
            if component.endswith(PADDING):
                padding[component.removesuffix(PADDING), phase] += flops
    return Subject(program, formula, dict(padding), inexact=inexact or {}, narrow=works[0].dtype != "float32")


def of_work(work: Work) -> list[Subject]:
    """Returns the forward pass, the train step and one decode step of `work`, from shapes alone.

    The decode step follows a prompt of `work.length` tokens, with room for as many new ones.
    """
    model = Qwen2(work.model, jnp.dtype(work.dtype), work.kernel, weights=work.weights)
    plain = replace(work, train="adapters") if work.train == "head" else work
    decode = replace(work, length=1, cache=2 * work.length, shared=work.length, last_only=True, train="adapters")
    return [
        of_pass(programs.forward_program(plain, model), replace(plain, causal=True), "forward"),
        of_pass(programs.train_program(work, model), work, "train step"),
        of_pass(programs.decode_program(plain, model, work.length), decode, "forward"),
    ]
