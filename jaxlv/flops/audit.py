"""The audit: formula, jaxpr and compiled HLO of the project's own programs, component by component, each with a verdict.

Matrix products are compared by all three. Elementwise operations are compared by formula and jaxpr, each counted as 1 and
loops times their length, and by jaxpr and HLO under the rule of jaxlv.flops.counting.compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxlv.flops import programs
from jaxlv.flops.counting import compared
from jaxlv.flops.counting.again import spared
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_closed
from jaxlv.flops.counting.operations import FOLDED, LOWERED, PRIMITIVES, Tally
from jaxlv.flops.counting.scopes import Scope
from jaxlv.flops.counting.xla import EXACT, XlaCount, count_xla
from jaxlv.flops.places import OTHER, Place, Tallies, marked, place, placed, products, total
from jaxlv.flops.subjects import Parts, Subject
from jaxlv.flops.table import PADDING, count
from jaxlv.flops.targets import Target, cpu
from jaxlv.flops.work import Work, symbols

EQUAL, IN_TOTAL, BOUNDED, DIFFERS, BEYOND = "equal", "equal in total", "within 1e-3", "differs", "executed, not asked for"
MERGED = "not computed again"  # by a compiler that keeps what it was told to recompute
EXCESS = {"dot padded": "padded for a kernel", "dot repeated": "repeated"}  # what is executed beyond what was asked for
BOUND = 1e-3  # as a share of a component whose operations the formulas do not give exactly
ROUNDING = 2e-5  # as a share of XLA's count, which adds in float32, if it is too large to be exact there
SAME = 5e-5  # a factor within this of 1 is 1 to the four decimals shown


class AuditRow(NamedTuple):
    """Matrix-product FLOPs of one component in one phase of one program."""

    component: str
    phase: str
    program: str
    analytic: int
    jaxpr: int
    hlo: int
    verdict: str

    @property
    def difference(self) -> int:
        """Returns by how much the HLO exceeds the formula."""
        return self.hlo - self.analytic


class EveryRow(NamedTuple):
    """All operations of one component in one phase of one program: products in FLOPs, others as 1 each."""

    component: str
    phase: str
    program: str
    analytic: int
    jaxpr: int
    verdict: str


@dataclass
class ProgramAudit:
    """What the counters say about one program."""

    name: str
    rows: list[AuditRow]
    every: list[EveryRow]
    executed: list[compared.Row]  # elementwise operations, asked for and executed
    totals: dict[str, int]
    lowered: XlaCount
    compiled: XlaCount
    everything: int  # all operations of the jaxpr
    everything_once: int  # the same with the body of each loop counted once, as XLA counts it
    folded: int  # operations among these that depend on constants alone
    otherwise: int  # operations by which JAX's lowering exceeds the price of primitives (indices, casts); loops once, too
    doubts: list[str]
    reasons: list[str]  # why formulas are not exact
    gates: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Tells whether every gate holds."""
        return all(self.gates.values())

    @property
    def product_total(self) -> AuditRow:
        """Returns the matrix products of the whole program."""
        analytic, jaxpr, hlo = (self.totals[name] for name in ("analytic", "jaxpr", "hlo"))
        beyond = sum(row.hlo for row in self.rows if row.verdict == BEYOND)
        kept = sum(row.analytic - row.hlo for row in self.rows if row.verdict == MERGED)
        same = analytic == jaxpr == hlo - beyond + kept
        verdict = (
            DIFFERS if not same else MERGED if kept else "equal, except for what the compiler adds" if beyond else EQUAL
        )
        return AuditRow("total", "", self.name, analytic, jaxpr, hlo, verdict)

    @property
    def every_total(self) -> EveryRow:
        """Returns all operations of the whole program."""
        analytic = sum(row.analytic for row in self.every)
        verdict = EQUAL if analytic == self.everything else DIFFERS
        return EveryRow("total", f"{len(self.every)} rows", self.name, analytic, self.everything, verdict)


Watch = Callable[[str], None]


def audit(
    subjects: Iterable[Subject], *, target: Target | None = None, watch: Watch = lambda text: None
) -> list[ProgramAudit]:
    """Returns the audits of programs, compiled for `target` (None: the CPU), from shapes alone."""
    target = target or cpu()
    found = []
    for subject in subjects:
        watch(subject.program.name)
        found.append(_audit(subject, target))
    return found


class Stages(NamedTuple):
    """A program traced, lowered and compiled."""

    traced: Any
    lowered: Any
    compiled: Any


def compiled_for(program: programs.Program, target: Target) -> Stages:
    """Returns the stages of a program for a target."""
    jitted: Any = program.function if hasattr(program.function, "trace") else jax.jit(program.function)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target.sharding), program.arguments
    )
    traced = jitted.trace(*placed)
    compiled = traced.lower().compile(compiler_options=target.options or None)
    # XLA analyses lowered programs only on the CPU; lowered there for another platform, the program is the same.
    lowered = jitted.trace(*program.arguments).lower(lowering_platforms=(target.platform,))
    return Stages(traced, lowered, compiled)


def _audit(subject: Subject, target: Target) -> ProgramAudit:
    program, trips = subject.program, subject.trips
    traced, lowered, compiled = compiled_for(program, target)
    asked, once = (
        count_closed(traced.jaxpr, trips),
        count_closed(traced.jaxpr, loops_once=True, rolled=target.platform == "cpu"),
    )
    could, text = spared(traced.jaxpr, trips), compiled.as_text()
    could_once = spared(traced.jaxpr, loops_once=True)
    hlo = count_hlo(text, trips)
    by_place, formula = placed(asked.tallies), subject.formula("exact")
    found = ProgramAudit(
        program.name,
        compare(program.name, formula, products(by_place), placed(hlo.tallies), subject.padding),
        everything(subject, by_place),
        compared.compared(asked.tallies, could, hlo.tallies, _once, casts=not subject.narrow),
        {
            "analytic": sum(formula.values()),
            "jaxpr": total(by_place).products(),
            "hlo": sum(products(placed(hlo.tallies)).values()),
        },
        count_xla(lowered, lowered.as_text()),
        count_xla(compiled, text),
        total(by_place).everything(),
        once.total().everything(),
        _marked(could_once, FOLDED),
        _marked(could_once, LOWERED),
        [*asked.doubts, *hlo.doubts],
        [f"{component}: {reason}" for component, reason in subject.inexact.items()],
    )
    found.reasons += [
        f"{row.place}, {row.kind}: the compiler leaves out {row.missing:,} of {row.asked:,} operations on elements"
        for row in found.executed
        if row.missing
    ]
    found.gates = gates(found)
    return found


def _marked(tallies: Mapping[Scope, Tally], mark: str) -> int:
    return sum(tally[name + mark] for tally in tallies.values() for name in PRIMITIVES)


def _once(scope: Scope) -> Place:
    """Returns the place of a scope; what is recomputed counts with what it repeats, as XLA may execute either."""
    where = place(scope)
    return where._replace(phase="forward") if where.phase == "recomputed" else where


def everything(subject: Subject, asked: dict[Place, Any]) -> list[EveryRow]:
    """Returns all operations of each component and phase, by formula and in the jaxpr."""
    formula = subject.formula("exact-all")
    found = {(where.component, where.phase): tally.everything() for where, tally in asked.items()}
    rows = []
    for where in sorted({*formula, *found}):
        two = formula.get(where, 0), found.get(where, 0)
        near = where[0] in subject.inexact and abs(two[0] - two[1]) <= BOUND * max(two)
        if any(two):
            verdict = EQUAL if two[0] == two[1] else BOUNDED if near else DIFFERS
            rows.append(EveryRow(*where, subject.program.name, *two, verdict))
    return rows


def compare(program: str, formula: Parts, asked: Parts, executed: Tallies, padding: Parts | None = None) -> list[AuditRow]:
    """Returns a row for every component and phase that any counter knows.

    What is executed in addition to what was asked for has rows of its own: ranks padded to those of other runs, operands
    that the compiler padded, products that several fusions repeat. If the compiler has dropped the names of some products,
    their components cannot be told apart: then a row that the HLO does not match is "equal in total" if the program's totals
    agree.
    """
    compiled, extra = products(executed), []
    for mark, word in EXCESS.items():
        for where, most in marked(executed, mark).items():
            beyond = sum(compiled.values()) - sum(asked.values())  # a row of lost names has no excess of its own
            excess = min(most, beyond) if where[0] == OTHER else compiled[where] - asked.get(where, 0)
            if 0 < excess <= most:
                compiled[where] -= excess
                component, phase = where
                extra.append(AuditRow(f"{component}, {word}", phase, program, 0, 0, excess, BEYOND))
    nameless = any(component == OTHER for component, _ in compiled)
    agree = sum(formula.values()) == sum(asked.values()) == sum(compiled.values())
    rows = []
    for where in sorted({*formula, *asked, *compiled}):
        three = formula.get(where, 0), asked.get(where, 0), compiled.get(where, 0)
        in_total = nameless and agree and (three[0] == three[1] or where[0] == OTHER)
        kept = where[1] == "recomputed" and three[0] == three[1] > three[2]
        verdict = EQUAL if len(set(three)) == 1 else IN_TOTAL if in_total else MERGED if kept else DIFFERS
        extra_rank = (padding or {}).get(where, 0) if verdict == EQUAL else 0
        own = three[0] - extra_rank, three[1] - extra_rank, three[2] - extra_rank
        rows.append(AuditRow(where[0], where[1], program, *own, verdict))
        if extra_rank:
            same = extra_rank, extra_rank, extra_rank
            rows.append(AuditRow(f"{where[0]}{PADDING}", where[1], program, *same, verdict))
    return rows + extra


def gates(found: ProgramAudit) -> dict[str, bool]:
    """Returns whether each condition of the audit holds, by name."""
    held = {
        "formula = jaxpr, matrix products": all(
            row.analytic == row.jaxpr for row in found.rows if row.jaxpr or row.analytic
        ),
        "formula = jaxpr, every operation": all(row.verdict != DIFFERS for row in found.every),
        "jaxpr = HLO, matrix products": all(row.verdict != DIFFERS for row in found.rows),
        "no loop, primitive, opcode or custom call without a rule": not found.doubts,
    }
    if found.executed:
        name = "the HLO executes no operation on elements that the jaxpr does not ask for, except what XLA marks"
        held[name] = not any(row.excess for row in found.executed)
    if found.lowered.flops is not None and not found.lowered.has_custom_calls:
        more = found.lowered.flops + found.lowered.transcendentals - found.everything_once
        spare = compared.SCALARS + (ROUNDING * found.everything_once if found.lowered.flops > EXACT else 0)
        name = "jaxpr with the body of each loop once = XLA's lowered count, except what JAX folds and adds"
        held[name] = -found.folded - spare <= more <= found.otherwise + spare
    return held


def xla_lines(found: ProgramAudit) -> list[str]:
    """Returns lines that give XLA's own counts of a program, and the factors by which they are off."""
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


def remarks(found: Sequence[ProgramAudit], explained: Sequence[str]) -> list[str]:
    """Returns what stands below the rows of audits: excesses, XLA's own counts, what was `explained`, and the gates."""
    lines = []
    for one in found:
        over = (row for row in one.executed if row.excess)
        lines += [
            f"HLO, {one.name}: {row.place}, {row.kind}: {row.excess:,} operations on elements too many" for row in over
        ]
    lines += ["", *(line for one in found for line in xla_lines(one)), "", *explained]
    for one in found:
        lines += [f"{'holds' if held else 'FAILS'}  {one.name}: {gate}" for gate, held in one.gates.items()]
        lines += [f"note   {one.name}: {reason}" for reason in one.reasons]
        lines += [f"doubt  {one.name}: {doubt}" for doubt in one.doubts]
    return lines


def explain(work: Work) -> list[str]:
    """Returns the reasons why other conventions differ from what is executed, each with its size."""
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
    skips = v["fused"] and not v["masked"]
    hidden = (
        "for scores that the mask hides, of which the kernel may skip most"
        if skips
        else "spent on scores that the mask hides"
    )
    return [
        f"grouped keys and values: {grouped:.6g} less a forward pass than with a key/value head for each query head",
        f"backward rule: a step is {step / ahead:.4f} x forward, not 3 x: {3 * ahead - step:.6g} less, for the gradient of "
        "frozen weights is never formed",
        f"first layer: {whole - step:.6g} less, for nothing trains before its first adapted product",
        f"causal mask: {attention // 2:.6g} of a forward pass is {hidden}",
        f"elementwise work: {more:.6g} operations a step, {more / step:.2%} of the matrix products",
    ]


def as_json(found: list[ProgramAudit], settings: dict[str, object]) -> dict[str, Any]:
    """Returns the audit as JSON: {"rows": [...], "every": [...], "totals": {program: {counter: FLOPs}}, "gates": ...,
    ...}.
    """
    return {
        "work": settings,
        "rows": [row._asdict() for one in found for row in one.rows],
        "every": [row._asdict() for one in found for row in one.every],
        "executed": [
            row._asdict() | {"place": str(row.place), "program": one.name, "excess": row.excess, "missing": row.missing}
            for one in found
            for row in one.executed
        ],
        "totals": {one.name: one.totals | _xla_totals(one) for one in found},
        "gates": {one.name: one.gates for one in found},
        "inexact": {one.name: one.reasons for one in found if one.reasons},
        "doubts": {
            one.name: {"hlo": one.doubts, "lowered": one.lowered.doubts, "compiled": one.compiled.doubts} for one in found
        },
    }


def _xla_totals(one: ProgramAudit) -> dict[str, int]:
    stages = (("xla_lowered", one.lowered), ("xla_compiled", one.compiled))
    return {name: int(said.flops + said.transcendentals) for name, said in stages if said.flops is not None}
