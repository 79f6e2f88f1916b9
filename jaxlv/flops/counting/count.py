"""Counts of any JAX function, by four counters."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlv.errors import JaxlvError, printable
from jaxlv.flops import targets
from jaxlv.flops.counting import modules
from jaxlv.flops.counting.hlo import count_hlo
from jaxlv.flops.counting.jaxpr import count_closed
from jaxlv.flops.counting.result import Counts, Result, counted
from jaxlv.flops.counting.words import UNSPLIT
from jaxlv.flops.counting.xla import count_xla
from jaxlv.flops.targets import Target

BACKENDS = ("cpu", "cuda", "gpu")
ONE_DEVICE = "what each device does in a shard_map is counted for one device"


def count(
    function: Callable,
    *args: Any,
    trips: int | Mapping[str, int] | None = None,
    backend: str | None = None,
    compile: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    static_argnames: str | tuple[str, ...] = (),
    **kwargs: Any,
) -> Result:
    """Counts what `function(*args, **kwargs)` computes, without computing anything or allocating arrays.

    Arguments are pytrees whose arrays may be jax.ShapeDtypeStruct, with shardings if any; everything else in them, Python
    numbers included, is passed on as it is. `static_argnums` and `static_argnames` pass on whole arguments, arrays too. A
    function of jax.jit is traced as it is declared.

    trips: how often loops of unknown length run: a number for all, or a mapping by place ("model.py:12") or scope name.
    backend: what it is compiled for: "cpu", "cuda" (this machine's device, or else an absent H100, which needs the extra
        `jaxlv[cuda-compiler]`), or None: the devices of the arguments, else JAX's default.
    compile: False does not run the compiler; then `hlo` and `xla_compiled` have no figures.

    Returns a Result. Its counters' figures are FLOPs (products) and operations (the others) on all devices together.

    Raises JaxlvError, with name and place, for a loop of unknown length without trips and for a primitive without a rule;
    also for a backend that is not available. If the compiler refuses the program, the counters that need it say so as a
    doubt. Errors of `function` are passed on.
    """
    if not callable(function):
        hint = "to price a Work by formula, use jaxlv.flops.table.count" if type(function).__name__ == "Work" else None
        raise JaxlvError(
            "not a function", where="jaxlv.flops.count", expected="a callable", found=type(function).__name__, hint=hint
        )
    target = _target(backend)
    jitted, arguments, keywords = _jitted(function, args, kwargs, static_argnums, static_argnames)
    with modules.named():
        traced = jitted.trace(*_placed(arguments, target), **_placed(keywords, target))
    rolled = (target.platform if target else jax.default_backend()) == "cpu"
    asked, once = count_closed(traced.jaxpr, trips), count_closed(traced.jaxpr, loops_once=True, rolled=rolled)
    found = _stages(traced, lambda: jitted.trace(*arguments, **keywords), target, compile, trips)
    manual = _manual_devices(traced.jaxpr)
    devices = max(found["hlo"].devices, manual)
    return Result(
        _name(function), target.words if target else _default() if compile else "", devices,
        counted("jaxpr", asked.tallies, asked.loops, asked.doubts, devices), found["hlo"],
        _with(found["xla_lowered"], ONE_DEVICE) if manual > 1 else found["xla_lowered"], found["xla_compiled"],
        counted("jaxpr", once.tallies, once.loops, once.doubts, devices),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ the arguments


class _Call(NamedTuple):
    """A jitted function with its arguments and keywords."""

    function: Any
    args: tuple
    kwargs: dict


def _jitted(function: Any, args: tuple, kwargs: dict, nums: Any, names: Any) -> _Call:
    """Returns the call of a jitted function. If `function` is not jitted itself, the arguments are arrays only."""
    nums = (nums,) if isinstance(nums, int) else tuple(nums)
    names = (names,) if isinstance(names, str) else tuple(names)
    if hasattr(function, "trace") and type(function).__module__.partition(".")[0] in ("jax", "jaxlib"):
        if nums or names:
            raise JaxlvError(
                "the function is jitted already", where="static_argnums", hint="give its static arguments to jax.jit"
            )
        return _Call(function, args, kwargs)
    wrong = [str(n) for n in nums if not -len(args) <= n < len(args)] + [name for name in names if name not in kwargs]
    if wrong:
        raise JaxlvError("no such argument", where="static arguments", found=", ".join(wrong))
    fixed = {n % len(args) for n in nums}
    leaves, structure = jax.tree.flatten(
        ([_Whole(a) if i in fixed else a for i, a in enumerate(args)],
         {name: _Whole(a) if name in names else a for name, a in kwargs.items()})
    )  # fmt: skip
    at = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    @functools.wraps(function, updated=())
    def of_arrays(*arrays: Any) -> list[Any]:
        filled = list(leaves)
        for i, array in zip(at, arrays, strict=True):
            filled[i] = array
        positional, named = jax.tree.unflatten(structure, [x.value if isinstance(x, _Whole) else x for x in filled])
        return [leaf for leaf in jax.tree.leaves(function(*positional, **named)) if _is_array(leaf)]

    return _Call(jax.jit(of_arrays), tuple(leaves[i] for i in at), {})


class _Whole:
    """An argument that is passed on as it is: a leaf of the arguments, whatever it holds."""

    def __init__(self, value: Any):
        self.value = value


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, jax.core.Tracer))


def _name(function: Any) -> str:
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if (owner := getattr(inner, "__self__", None)) is not None:  # a method, by the class of its own object
        return printable(f"{type(owner).__name__}.{inner.__name__}")
    return printable(getattr(inner, "__name__", None) or type(inner).__name__)


# -------------------------------------------------------------------------------------------------- the target


def _target(backend: str | None) -> Target | None:
    if backend is None:
        return None
    if backend not in BACKENDS:
        raise JaxlvError("no such backend", where="backend", expected=", ".join(BACKENDS), found=backend)
    return targets.cpu() if backend == "cpu" else targets.cuda()


def _default() -> str:
    device = jax.local_devices()[0]
    return "this machine's CPU" if device.platform == "cpu" else device.device_kind


def _placed(arguments: Any, target: Target | None) -> Any:
    """Returns arguments unchanged, or as shapes on the device of a target."""
    if target is None:
        return arguments

    def place(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        if len(getattr(getattr(leaf, "sharding", None), "device_set", ())) > 1:
            raise JaxlvError(
                "arguments that are on several devices", where="backend",
                hint="they are compiled for these devices: leave backend out",
            )  # fmt: skip
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target.sharding)

    return jax.tree.map(place, arguments)


def _manual_devices(jaxpr: Any) -> int:
    """Returns the number of devices of the largest mesh over which a shard_map is split."""
    jaxpr, most = getattr(jaxpr, "jaxpr", jaxpr), 1
    for equation in jaxpr.eqns:
        if equation.primitive.name == "shard_map":
            most = max(most, math.prod(equation.params["mesh"].shape.values()))
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    most = max(most, _manual_devices(inner))
    return most


# -------------------------------------------------------------------------------------------------- the compiler


def _stages(
    traced: Any, plainly: Callable[[], Any], target: Target | None, compile: bool, trips: int | Mapping[str, int] | None
) -> dict[str, Counts]:
    """Returns what the HLO and XLA say; a stage that fails has no figures and says why."""
    none = {name: _nothing(name, "not compiled, as asked") for name in ("hlo", "xla_lowered", "xla_compiled")}
    try:
        # XLA analyses lowered programs only on the CPU; lowered there for another platform, the program is the same.
        lowered = plainly().lower(lowering_platforms=(target.platform,)) if target else traced.lower()
    except Exception as fault:  # whatever a lowering rule raises
        return {name: _nothing(name, f"not lowered: {_reason(fault)}") for name in none}
    none["xla_lowered"] = _said("xla_lowered", lowered, lowered.as_text())
    if not compile:
        return none
    try:
        compiled = (traced.lower() if target else lowered).compile((target.options or None) if target else None)
        text = compiled.as_text()
    except Exception as fault:  # the compiler's errors have no common class
        reason = f"not compiled: {_reason(fault)}"
        return none | {name: _nothing(name, reason) for name in ("hlo", "xla_compiled")}
    try:
        found = count_hlo(text, trips)
    except JaxlvError as fault:
        hlo = _nothing("hlo", f"not read: {fault}")
    else:
        tallies = {scope: tally.times(found.devices) for scope, tally in found.tallies.items()}
        loops = [
            loop._replace(begun=loop.begun * found.devices, tally=loop.tally.times(found.devices)) for loop in found.loops
        ]
        several = [f"each of {found.devices} devices executes this program: the sum of all"] if found.devices > 1 else []
        hlo = counted("hlo", tallies, loops, [*several, *found.doubts], found.devices)
    return none | {"hlo": hlo, "xla_compiled": _said("xla_compiled", compiled, text, hlo.devices)}


def _said(counter: str, stage: Any, text: str, devices: int = 1) -> Counts:
    found = count_xla(stage, text)
    if found.flops is None or found.bytes is None:
        return _nothing(counter, *found.doubts)
    several = [f"the figures of one device, times {devices}"] if devices > 1 else []
    flops, others, moved = (round(devices * figure) for figure in (found.flops, found.transcendentals, found.bytes))
    return Counts(counter, None, None, flops, others, moved, (UNSPLIT, *several, *found.doubts), devices)


def _nothing(counter: str, *doubts: str) -> Counts:
    return Counts(counter, None, None, None, None, None, doubts)


def _with(counts: Counts, doubt: str) -> Counts:
    return dataclasses.replace(counts, doubts=(*counts.doubts, doubt))


def _reason(fault: Exception) -> str:
    text = re.sub(r"\s+", " ", str(fault)).strip() or type(fault).__name__
    return printable(text.partition(" -------")[0], 200)
