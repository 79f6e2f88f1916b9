"""The audit: formula, jaxpr and compiled HLO of the project's own programs, component by component, each with a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlv.flops import programs
from jaxlv.flops.hlo import HloCount, count_hlo
from jaxlv.flops.jaxpr import count_closed
from jaxlv.flops.table import count
from jaxlv.flops.tally import OTHER, marked, products, total
from jaxlv.flops.targets import Target, cpu
from jaxlv.flops.work import Work, symbols
from jaxlv.flops.xla import XlaCount, count_xla
from jaxlv.model.qwen2 import Qwen2

EQUAL, IN_TOTAL, DIFFERS = "equal", "equal in total", "differs"
EXCESS = {"dot padded": "padding", "dot repeated": "repeated"}  # what is executed beyond what was asked for, by its mark
LOWERED_TOLERANCE = 2e-5  # all operations of the jaxpr against XLA's count of the lowered program, which adds in float32
SAME = 5e-5  # a factor that is 1 to the four decimals shown
SCALARS = 256  # operations on scalars, which XLA folds: the difference that remains however small the model is


class AuditRow(NamedTuple):
    """Matrix-product FLOPs of one component in one phase of one program."""

    component: str
    phase: str
    program: str
    analytic: int
    jaxpr: int
    hlo: int
    verdict: str


@dataclass
class ProgramAudit:
    """What the counters say of one program."""

    name: str
    rows: list[AuditRow]
    totals: dict[str, int]
    lowered: XlaCount
    compiled: XlaCount
    everything: int  # all operations of the jaxpr
    everything_once: int  # the same with the body of each loop counted once, as XLA counts it
    doubts: list[str]
    gates: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Does every gate hold?"""
        return all(self.gates.values())


Watch = Callable[[str], None]


def audit(
    work: Work,
    *,
    dtype: str = "float32",
    target: Target | None = None,
    watch: Watch = lambda text: None,
) -> list[ProgramAudit]:
    """The audits of the forward pass, the train step and one decode step of `work`, compiled for `target` (None: the CPU).

    Everything is made from shapes; no weights are needed. The decode step stands behind a prompt of `work.length` tokens,
    with room for as many new ones.
    """
    model, target = Qwen2(work.model, jnp.dtype(dtype), work.kernel), target or cpu()
    plain = dataclasses.replace(work, train="adapters") if work.train == "head" else work
    decode = dataclasses.replace(work, length=1, cache=2 * work.length, last_only=True, train="adapters")
    made = (
        (programs.forward_program(plain, model), plain),
        (programs.train_program(work, model), work),
        (programs.decode_program(plain, model, work.length), decode),
    )
    found = []
    for program, counted in made:
        watch(program.name)
        found.append(_audit(program, counted, target))
    return found


def compiled_for(program: programs.Program, target: Target) -> tuple[Any, Any, Any]:
    """(traced, lowered, compiled) of a program for a target."""
    jitted: Any = program.function if hasattr(program.function, "trace") else jax.jit(program.function)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target.sharding), program.arguments
    )
    traced = jitted.trace(*placed)
    compiled = traced.lower().compile(compiler_options=target.options or None)
    # XLA analyses a lowered program on the CPU alone: lowered for another platform there, it is the same program.
    lowered = jitted.trace(*program.arguments).lower(lowering_platforms=(target.platform,))
    return traced, lowered, compiled


def _audit(program: programs.Program, work: Work, target: Target) -> ProgramAudit:
    traced, lowered, compiled = compiled_for(program, target)
    asked = count_closed(traced.jaxpr)
    text = compiled.as_text()
    executed = count_hlo(text)
    formula = analytic(work, program.name)
    found = ProgramAudit(
        program.name,
        compare(program.name, formula, products(asked), executed),
        {
            "analytic": sum(formula.values()),
            "jaxpr": total(asked).products(),
            "hlo": sum(products(executed.tallies).values()),
        },
        count_xla(lowered, lowered.as_text()),
        count_xla(compiled, text),
        total(asked).everything(),
        total(count_closed(traced.jaxpr, loops_once=True)).everything(),
        executed.doubts,
    )
    values = symbols(work)
    found.gates = gates(found, values["T"] * values["H"] + 4 * values["W"] if program.name == "train_step" else 0)
    return found


def analytic(work: Work, program: str) -> dict[tuple[str, str], int]:
    """{(component, phase): FLOPs} of a program by the convention `exact`."""
    return count(work, "exact").by_component("train step" if program == "train_step" else "forward", merged=True)


def compare(
    program: str, formula: dict[tuple[str, str], int], asked: dict[tuple[str, str], int], executed: HloCount
) -> list[AuditRow]:
    """A row for every component and phase that any counter knows.

    What the compiler executes beyond what was asked for stands in rows of its own: operands that it padded, products that
    several fusions repeat. Where it has dropped the names of some products, their components cannot be told apart: then a
    row that the HLO does not match is "equal in total" if the program's totals agree.
    """
    compiled, extra = products(executed.tallies), []
    for mark, word in EXCESS.items():
        for where, most in marked(executed.tallies, mark).items():
            beyond = sum(compiled.values()) - sum(asked.values())  # a row of lost names has no excess of its own
            excess = min(most, beyond) if where[0] == OTHER else compiled[where] - asked.get(where, 0)
            if 0 < excess <= most:
                compiled[where] -= excess
                component, phase = where
                extra.append(AuditRow(f"{component}, {word}", phase, program, 0, 0, excess, "executed, not asked for"))
    nameless = any(component == OTHER for component, _ in compiled)
    agree = sum(formula.values()) == sum(asked.values()) == sum(compiled.values())
    rows = []
    for where in sorted({*formula, *asked, *compiled}):
        three = formula.get(where, 0), asked.get(where, 0), compiled.get(where, 0)
        in_total = nameless and agree and (three[0] == three[1] or where[0] == OTHER)
        verdict = EQUAL if len(set(three)) == 1 else IN_TOTAL if in_total else DIFFERS
        rows.append(AuditRow(*where, program, *three, verdict))
    return rows + extra


def gates(found: ProgramAudit, folded: int = 0) -> dict[str, bool]:
    """What must hold, by name; `folded` operations of the jaxpr, products with 1 for the most part, XLA may not count."""
    held = {
        "formula = jaxpr, per component and phase": all(
            row.analytic == row.jaxpr for row in found.rows if row.component != OTHER
        ),
        "jaxpr = HLO": all(row.verdict != DIFFERS for row in found.rows),
        "no custom call or loop without a rule": not found.doubts,
    }
    if found.lowered.flops is not None and not found.lowered.has_custom_calls:
        said = found.lowered.flops + found.lowered.transcendentals
        allowed = LOWERED_TOLERANCE * found.everything_once + folded + SCALARS
        name = "all operations of the jaxpr, loops once = XLA's lowered count within 2e-5"
        held[name] = abs(said - found.everything_once) <= allowed
    return held


def xla_lines(found: ProgramAudit) -> list[str]:
    """What XLA itself says of a program, and by which factor that is off."""
    lines = []
    for stage, said in (("lowered", found.lowered), ("compiled", found.compiled)):
        if said.flops is None:
            lines.append(f"XLA, {found.name}, {stage}: nothing ({'; '.join(said.doubts)})")
            continue
        factor = said.factor(found.everything)
        if factor is None:
            off = "nothing at all"
        elif abs(factor - 1) < SAME:
            off = "the same"
        else:
            off = f"{factor:.4f} x too low" if factor > 1 else f"{1 / factor:.4f} x too high"
        doubts = f"; {'; '.join(said.doubts)}" if said.doubts else ""
        lines.append(
            f"XLA, {found.name}, {stage}: {said.flops + said.transcendentals:.6g} of {found.everything:.6g}, {off}{doubts}"
        )
    return lines


def explain(work: Work) -> list[str]:
    """Why other conventions differ from what is executed, each reason with its size."""
    table = count(work, "exact")
    rows, step, ahead = table.by_component(), table.total_train_step, table.total_forward
    v = symbols(work)
    grouped = 2 * v["L"] * 2 * v["T"] * v["H"] * (v["N"] - v["K"]) * v["D"]
    adapters = sum(flops for (component, phase), flops in rows.items() if "lora" in component and phase == "forward")
    attention = sum(rows.get((name, "forward"), 0) for name in ("scores", "weighted sum", "fused attention"))
    if work.train == "full":
        whole = 3 * ahead
    else:
        whole = 2 * (ahead - attention - adapters) + 3 * (attention + adapters) + v["head"] * rows["head", "forward"]
    more = count(work, "exact-all").total_train_step - step
    return [
        f"grouped keys and values: {grouped:.6g} less a forward pass than with a key/value head for each query head",
        f"backward rule: a step is {step / ahead:.4f} x forward, not 3 x: {3 * ahead - step:.6g} less, for the gradient of "
        "frozen weights is never formed",
        f"first layer: {whole - step:.6g} less, for nothing trains before its first adapted product",
        f"causal mask: {attention // 2:.6g} of a forward pass is spent on scores that the mask hides",
        f"elementwise work: {more:.6g} operations a step, {more / step:.2%} of the matrix products",
    ]


def as_json(found: list[ProgramAudit], settings: dict[str, object]) -> dict[str, Any]:
    """The audit as JSON: {"rows": [...], "totals": {program: {counter: FLOPs}}, ...}."""
    return {
        "work": settings,
        "rows": [row._asdict() for one in found for row in one.rows],
        "totals": {one.name: one.totals | _xla_totals(one) for one in found},
        "gates": {one.name: one.gates for one in found},
        "doubts": {
            one.name: {"hlo": one.doubts, "lowered": one.lowered.doubts, "compiled": one.compiled.doubts} for one in found
        },
    }


def _xla_totals(one: ProgramAudit) -> dict[str, int]:
    stages = (("xla_lowered", one.lowered), ("xla_compiled", one.compiled))
    return {name: int(said.flops + said.transcendentals) for name, said in stages if said.flops is not None}
