"""Operations counted in a jaxpr: what JAX was asked to do, before any compiler.

Dead code is removed first, as every compiler would. A scan counts its body times its length; a while loop counts its body
times a trip count that must be given, and its condition once more than that. Of a conditional's branches the most expensive
counts, separately for each kind of work: products, elementwise and transcendental operations, and bytes. So the sum is a
bound that no single branch need reach. Work inside a shard_map counts on every device. Bytes are those of each equation,
without fusion: an upper bound. A primitive without a rule is an error, never 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
from jax.interpreters import partial_eval

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import turns
from jaxlv.flops.counting.found import Found, Loop, Trips, nothing
from jaxlv.flops.counting.operations import BYTES, KINDS, Tally
from jaxlv.flops.counting.primitives import Equation, rule, shared, size
from jaxlv.flops.counting.scopes import Scope, of_stack
from jaxlv.flops.counting.windows import combinations

# Calls, by the parameter that holds what is called; their other jaxprs say how to differentiate or to batch.
CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat2", "remat", "remat3", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("run_state", "composite", "xla_metadata_call", "cudnn_fusion"), "jaxpr"),
    **dict.fromkeys(("closed_call", "core_call", "call", "eval_jaxpr"), "call_jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call", "custom_jvp_call_jaxpr"), "call_jaxpr"),
    **dict.fromkeys(("custom_vmap_call", "custom_partitioning"), "call"),
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat_opt": "fwd_jaxpr",
    "linear_call": "callee",
}
# Primitives that hold a jaxpr other than what is called.
NOT_CALLS = ("pallas_call", "core_map", "mpmd_map", "tpu_custom_call", "mosaic_gpu_p", "ffi_call", "call_exported")
COMBINING = ("reduce", "reduce_window", "scatter", "select_and_scatter")  # with a computation of the author's own


def count_jaxpr(function: Callable, *arguments: Any, trips: int | Mapping[str, int] | None = None) -> Found:
    """Counts `function` on arguments (arrays or jax.ShapeDtypeStruct) without computing anything.

    `trips` says how often its loops of unknown length run: a number for all, or a mapping by scope name or place. Raises
    JaxlvError for such a loop without a number, and for a primitive that has no rule.
    """
    # JAX nests no jitted function that has options for the compiler.
    own: Any = function if hasattr(function, "trace") else jax.jit(function)
    return count_closed(own.trace(*arguments).jaxpr, trips)


def count_closed(
    closed: Any, trips: int | Mapping[str, int] | None = None, loops_once: bool = False, rolled: bool = True
) -> Found:
    """Counts a closed jaxpr; `loops_once` counts the body of a loop once, as XLA's own analysis does.

    With it, random bits also count as a loop if they are `rolled`, which JAX does only for a CPU.
    """
    jaxpr = _open(closed)
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    known = Trips(trips)
    walk = _Walk(known, loops_once, rolled)
    found = walk.jaxpr(live, "", Places((), ()))
    if walk.unknown:
        raise JaxlvError(
            "a loop of unknown length" if len(walk.unknown) == 1 else f"{len(walk.unknown)} loops of unknown length",
            where="; ".join(walk.unknown),
            hint="give trips=, as measured: one int for all, or a mapping by place or scope name",
        )
    if unused := known.unused():
        loops = "; ".join(dict.fromkeys(_named(loop.place, loop.scope) for loop in found.loops)) or "no loop"
        raise JaxlvError("trips names no loop of this function", where="trips", expected=loops, found=", ".join(unused))
    return found


class Places(NamedTuple):
    """Lines that an equation comes from, as "file.py:12", innermost first: the author's own and those of libraries."""

    own: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """All lines, the author's own before those of libraries."""
        return self.own + self.libraries

    @property
    def name(self) -> str:
        """The line to name, or ""."""
        return next(iter(self.all), "")

    def inside(self, around: Places) -> Places:
        """Returns these lines followed by those of the equation around."""
        return Places(*(tuple(dict.fromkeys((*inner, *outer))) for inner, outer in zip(self, around, strict=True)))


class _Walk:
    def __init__(self, trips: Trips, loops_once: bool, rolled: bool):
        self.trips, self.loops_once, self.rolled = trips, loops_once, rolled
        self.axes: dict[str, int] = {}  # of the meshes around, by name
        self.unknown: list[str] = []  # loops whose trip count is not known
        self.expanding: list[str] = []  # primitives that are being counted by their own implementation

    def jaxpr(self, jaxpr: Any, stack: str, places: Places) -> Found:
        """Counts an open jaxpr. `stack` and `places` are those of the equation around it."""
        found = nothing()
        for equation in jaxpr.eqns:
            own = str(equation.source_info.name_stack)
            found.add(self.equation(equation, f"{stack}/{own}" if stack and own else stack or own, places))
        return found

    def equation(self, equation: Any, stack: str, around: Places) -> Found:
        """Returns what one equation takes, with everything inside it; `stack` is its scope."""
        name, params = equation.primitive.name, equation.params
        structured = STRUCTURED.get(name)
        if structured is not None:
            return structured(self, equation, stack, self.places(equation, around))
        if name in CALLS and CALLS[name] in params:
            return self.jaxpr(_open(params[CALLS[name]]), stack, self.places(equation, around))
        answer = rule(self.facts(equation))
        if answer is None:
            return self.without_rule(equation, stack, self.places(equation, around))
        tally, doubt = answer if isinstance(answer, tuple) else (answer, "")
        tally = shared(tally, math.prod(self.axes.values()))
        doubts = [f"{doubt} ({_named_at(self.places(equation, around), stack)})"] if doubt else []
        return Found({_scope(stack): tally} if +tally else {}, [], doubts)

    def places(self, equation: Any, around: Places) -> Places:
        """Returns where an equation was written; an implementation's equations are placed where its primitive is."""
        return around if self.expanding else _sources(equation).inside(around)

    def facts(self, equation: Any) -> Equation:
        """Returns an equation as the rules see it."""
        ins, outs = (tuple(v.aval for v in side) for side in (equation.invars, equation.outvars))
        return Equation(equation.primitive.name, equation.params, ins, outs, self.axes, self.loops_once, self.rolled)

    def without_rule(self, equation: Any, stack: str, places: Places) -> Found:
        """Counts an unknown primitive by the one jaxpr that it holds, or by its own implementation in JAX."""
        name = equation.primitive.name
        inner = [] if name in NOT_CALLS else [jaxpr for value in equation.params.values() for jaxpr in _jaxprs(value)]
        if len(inner) > 1:
            raise refusal(equation, stack, places, f"{len(inner)} jaxprs, of which a rule must choose")
        expanded = inner[0] if inner else None if name in NOT_CALLS else self._implementation(equation)
        if expanded is None:
            raise refusal(equation, stack, places)
        self.expanding.append(name)
        found = self.jaxpr(expanded, stack, places)
        self.expanding.pop()
        how = "the one jaxpr in it" if inner else "its implementation in JAX"
        found.add(Found({}, [], [f"{name}: no rule; counted by {how} ({_named_at(places, stack)})"]))
        return found

    def _implementation(self, equation: Any) -> Any:
        """Returns what a primitive does as a jaxpr, if it is written in JAX; None if it is not, or only calls itself."""
        primitive = equation.primitive
        avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")]
        try:
            made = jax.make_jaxpr(lambda *values: primitive.impl(*values, **equation.params))(*avals)
        except Exception:  # whatever unknown code raises: then it cannot be counted like this
            return None
        return None if _holds(_open(made), primitive.name) else _open(made)

    # ------------------------------------------------------------------------------------------ loops and branches

    def scan(self, equation: Any, stack: str, places: Places) -> Found:
        """Returns what a loop of known length takes."""
        body = self.jaxpr(_open(equation.params["jaxpr"]), stack, places)
        return self.loop(body, equation.params["length"], stack, places, written=bodies(equation.params))

    def loop(
        self, body: Found, trips: int, stack: str, places: Places, last: Found | None = None, written: int = 1
    ) -> Found:
        """Returns a body times its trips, or as often as it is written out, and the last check of a condition."""
        found = body.times(written if self.loops_once else trips)
        if last is not None:
            found.add(last)
        own = Loop(places.name, _scope(stack), trips, 1, found.total())
        return Found(found.tallies, [own, *found.loops], found.doubts)

    def while_loop(self, equation: Any, stack: str, places: Places) -> Found:
        """Returns what a loop takes, its condition once more often than its body; for an unknown length it asks `trips`."""
        params, scope = equation.params, _scope(stack)
        condition = self.jaxpr(_open(params["cond_jaxpr"]), stack, places)
        body = self.jaxpr(_open(params["body_jaxpr"]), stack, places)
        trips = 1 if self.loops_once else self.trips.named(scope, places.all)
        if trips is None:
            trips = turns.written(equation)
        if trips is None:
            trips = self.trips.everywhere
        if trips is None:
            if (words := _named_at(places, stack)) not in self.unknown:
                self.unknown.append(words)
            trips = 0
        body.add(condition)
        return self.loop(body, trips, stack, places, last=None if self.loops_once else condition)

    def cond(self, equation: Any, stack: str, places: Places) -> Found:
        """Returns, for each kind of work, the work of the branch that has most."""
        branches = [self.jaxpr(_open(branch), stack, places) for branch in equation.params["branches"]]
        found = nothing()
        for kind, of in KINDS.items():
            dearest = max(branches, key=lambda branch: of(branch.total()))
            found.add(Found({scope: t for scope, tally in dearest.tallies.items() if (t := tally.of_kind(kind))}, [], []))
        for branch in branches:
            found.add(Found({}, branch.loops, branch.doubts))
        if any(of(branch.total()) != of(branches[0].total()) for of in list(KINDS.values())[:-1] for branch in branches):
            words = f"cond: the dearest of {len(branches)} branches is counted, for each kind of work"
            found.add(Found({}, [], [f"{words} ({_named_at(places, stack)})"]))
        return found

    # -------------------------------------------------------------------------------------------------- the others

    def linear_solve(self, equation: Any, stack: str, places: Places) -> Found:
        """Counts only the solve: the other jaxprs say what the matrix is, and how to differentiate."""
        return self.jaxpr(_open(equation.params["jaxprs"].solve), stack, places)

    def shard_map(self, equation: Any, stack: str, places: Places) -> Found:
        """Counts the body on every device along the axes of the mesh over which it is split."""
        params, before = equation.params, self.axes
        sizes = dict(params["mesh"].shape)
        manual = params.get("newly_manual_axes", params.get("manual_axes", sizes))
        self.axes = before | {name: sizes[name] for name in manual}
        found = self.jaxpr(_open(params["jaxpr"]), stack, places)
        self.axes = before
        return found

    def combining(self, equation: Any, stack: str, places: Places) -> Found:
        """Counts a reduction, pool or scatter whose computation is a jaxpr on scalars: that jaxpr, as often as it combines
        two.
        """
        facts = self.facts(equation)
        params, found = facts.params, nothing()
        if facts.name == "scatter":
            counts = [("update_jaxpr", facts.size(2) if size(facts.ins[2]) else 0)]
        elif facts.name == "reduce":
            counts = [("jaxpr", facts.size(0) - facts.out)]
        elif facts.name == "reduce_window":
            counts = [("jaxpr", combinations(facts.shapes()[0], facts.shapes("outs")[0], dict(params)))]
        else:
            source, operand = facts.shapes()[1], facts.shapes()[0]
            counts = [
                ("select_jaxpr", combinations(operand, source, dict(params))),
                ("scatter_jaxpr", math.prod(source)),
            ]
        for parameter, times in counts:
            if params.get(parameter) is not None:
                found.add(self.jaxpr(_open(params[parameter]), stack, places).times(max(0, times)))
        for tally in found.tallies.values():
            tally.pop(BYTES, None)  # of scalars that stay in registers
        moved = sum(size(aval) * aval.dtype.itemsize for aval in (*facts.ins, *facts.outs) if hasattr(aval, "shape"))
        found.add(Found({_scope(stack): Tally({BYTES: moved * math.prod(self.axes.values())})}, [], []))
        return found


STRUCTURED: Mapping[str, Callable[[_Walk, Any, str, Places], Found]] = {
    "scan": _Walk.scan,
    "while": _Walk.while_loop,
    "cond": _Walk.cond,
    "switch": _Walk.cond,
    "custom_linear_solve": _Walk.linear_solve,
    "shard_map": _Walk.shard_map,
    **dict.fromkeys(COMBINING, _Walk.combining),
}


def bodies(params: Mapping[str, Any]) -> int:
    """Returns how often the body of a scan is written out in the program, by the scan's parameters."""
    length, unroll = params["length"], params.get("unroll", 1)
    return length if unroll >= length else unroll + length % unroll


def parts_of_scan(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many operands of a scan its iterations share, and how many they carry; JAX 0.12 gives these as a tree."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def refusal(equation: Any, stack: str, places: Places, found: str | None = None) -> JaxlvError:
    """Returns the error for a primitive that cannot be counted, with its name and place."""
    name = equation.primitive.name
    hints = {
        "pallas_call": "give it a cost_estimate: pl.estimate_cost makes one of a function in JAX that computes the same",
        "ffi_call": "what a foreign function does is not known to JAX: count a function without it, and add its own FLOPs",
    }
    dtypes = {str(getattr(v.aval, "dtype", "")) for v in (*equation.invars, *equation.outvars)}
    of = " of complex numbers" if any(dtype.startswith("complex") for dtype in dtypes) else ""
    axes = equation.params.get("axes", equation.params.get("axis_name"))
    over = f" over {axes}, whose size is not known here" if axes is not None and name.startswith(("p", "reduce_s")) else ""
    return JaxlvError(
        f"no rule counts the primitive {name}{of}{over}", where=_named_at(places, stack), found=found,
        hint=hints.get(name, "a rule for it belongs in jaxlv/flops/counting/primitives.py"),
    )  # fmt: skip


def _named_at(places: Places, stack: str) -> str:
    through = f" ({places.libraries[0]})" if places.own and places.libraries else ""
    return _named(places.name + through, _scope(stack))


def _named(place: str, scope: Scope) -> str:
    """Returns a place in words: "model.py:12 in decoder/step"."""
    return " in ".join(part for part in (place, str(scope)) if part) or "the function"


@functools.lru_cache(maxsize=65536)
def _scope(stack: str) -> Scope:
    return of_stack(stack)


def _sources(equation: Any) -> Places:
    """Returns where an equation was written."""
    try:
        from jax._src import source_info_util  # jax.extend has only a summary in words, without the outer lines

        frames = list(source_info_util.user_frames(equation.source_info.traceback))
    except (ImportError, AttributeError, TypeError):  # another version of JAX: then only scopes say where
        return Places((), ())
    sides: tuple[list[str], list[str]] = [], []
    for frame in frames:
        sides["site-packages" in frame.file_name].append(f"{PurePath(frame.file_name).name}:{frame.start_line}")
    return Places(*map(tuple, sides))


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)  # jax 0.12 has one class for open and closed jaxprs


def _jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(_open(value), "eqns"):
        yield _open(value)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _jaxprs(part)


def _holds(jaxpr: Any, name: str) -> bool:
    """Tells whether a primitive occurs anywhere in a jaxpr."""
    return any(
        equation.primitive.name == name
        or any(_holds(inner, name) for value in equation.params.values() for inner in _jaxprs(value))
        for equation in jaxpr.eqns
    )
