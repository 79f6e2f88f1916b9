"""Functions and arguments by name, as given on a command line: "module:function" and "f32[8,512],i32[8]"."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlv.errors import JaxlvError

TYPES = {
    "bool": "bool", "pred": "bool", "bf16": "bfloat16", "c64": "complex64", "c128": "complex128",
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"{letter}{bits}": f"int{bits}" for letter in "is" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
}  # fmt: skip
WIDE = ("f64", "i64", "s64", "u64", "c128")
SHAPE = re.compile(r"\s*(\w+)\[\s*((?:[0-9]{1,9}\s*,\s*)*(?:[0-9]{1,9}\s*)?)\]\s*(?:,|$)")


def function_of(name: str) -> Callable:
    """Returns the function that "module:function" names, imported from the current folder or from installed packages. Raises
    JaxlvError if it does not exist.
    """
    module, separator, attribute = name.partition(":")
    if not (separator and module and attribute):
        raise JaxlvError("not the name of a function", where=name, expected="module:function, such as model:loss")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as absent:
        if absent.name is None or not module.startswith(absent.name):
            raise JaxlvError(f"the module needs {absent.name}, which is not installed", where=name) from None
        hint = "run it in the folder of the module, and leave out .py"
        raise JaxlvError(f"no such module: {module}", where=name, hint=hint) from None
    except Exception as fault:  # whatever unknown code raises when it is imported
        raise JaxlvError(f"the module does not load: {type(fault).__name__}: {fault}", where=name) from fault
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise JaxlvError(f"the name {part} is not in the module", where=name)
        found = getattr(found, part)
    if not callable(found):
        raise JaxlvError("not a function", where=name, found=type(found).__name__)
    return found


def shapes(text: str) -> list[jax.ShapeDtypeStruct]:
    """Returns the abstract arrays of a list such as "f32[8,512],i32[8],f32[]". Raises JaxlvError if it is not one, or has
    types of 64 bits without jax_enable_x64.
    """
    found, at = [], 0
    while at < len(text):
        match = SHAPE.match(text, at)
        if match is None or match[1] not in TYPES:
            expected = f'type[sizes] such as "f32[8,512],i32[8]", types {", ".join(TYPES)}'
            raise JaxlvError("not an array", where="--args", expected=expected, found=text[at:])
        if match[1] in WIDE and not jax.config.read("jax_enable_x64"):
            raise JaxlvError(f"{match[1]} has 64 bits", where="--args", hint="set JAX_ENABLE_X64=1")
        sizes = [int(size) for size in match[2].split(",") if size.strip()]
        found.append(jax.ShapeDtypeStruct(tuple(sizes), jnp.dtype(TYPES[match[1]])))
        at = match.end()
    return found


def trips_of(text: str) -> int | dict[str, int]:
    """Returns trip counts from "7" for all loops, or "model.py:12=7,decoder/step=3". Raises JaxlvError if it is neither."""
    parts = [part.rpartition("=") for part in text.split(",")]
    if not all(re.fullmatch(r"\s*[0-9]{1,18}\s*", count) for _, _, count in parts) or (
        len(parts) > 1 and not all(one for one, _, _ in parts)
    ):
        raise JaxlvError("not trip counts", where="--trips", expected='"7", or "model.py:12=7,step=3"', found=text)
    if not parts[0][0]:
        return int(parts[0][2])
    return {name.strip(): int(count) for name, _, count in parts}


def gradient(function: Callable, arguments: list[jax.ShapeDtypeStruct]) -> Callable:
    """Returns the gradient of the sum of everything that `function` returns, with respect to its floating-point
    arguments.
    """
    floats = tuple(i for i, one in enumerate(arguments) if jnp.issubdtype(one.dtype, jnp.floating))
    if not floats:
        raise JaxlvError("no argument has a gradient", where="--grad", expected="an argument of floating-point type")

    def summed(*values: Any) -> Any:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(function(*values))]
        real = [leaf.sum() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
        if not real:
            raise JaxlvError("no result has a gradient", where="--grad", expected="a result of floating-point type")
        return sum(real[1:], real[0])

    summed.__name__ = f"gradient of {getattr(function, '__name__', type(function).__name__)}"
    return jax.grad(summed, argnums=floats)
