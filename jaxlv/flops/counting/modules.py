"""Names for modules whose library does not name them while a function is traced.

Flax linen, Haiku and Equinox's layers write their names into a program themselves. Flax NNX does not: here each of its
modules is called under its name in the surrounding module, or under its class.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

LOCK = threading.Lock()  # classes are changed during a trace: one trace at a time


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Names the calls of NNX modules in what is traced meanwhile, if the library is in use."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        yield
        return
    around: list[Any] = []
    with LOCK:
        calls = {kind: kind.__dict__["__call__"] for kind in _kinds(nnx.Module) if callable(kind.__dict__.get("__call__"))}
        try:
            for kind, call in calls.items():
                kind.__call__ = _under_its_name(call, around)
            yield
        finally:
            for kind, call in calls.items():
                kind.__call__ = call


def _kinds(kind: type) -> Iterator[Any]:
    """Yields all subclasses of a class."""
    below: Any
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _under_its_name(call: Callable, around: list[Any]) -> Callable:
    @functools.wraps(call)
    def named_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if around and around[-1] is self:  # a class that calls its superclass
            return call(self, *args, **kwargs)
        name = next(_names(around[-1], self), "") if around else ""
        around.append(self)
        try:
            with jax.named_scope(name or type(self).__name__):
                return call(self, *args, **kwargs)
        finally:
            around.pop()

    return named_call


def _names(parent: Any, child: Any) -> Iterator[str]:
    """Yields names of a module in another: its attribute, and its index or key if that holds several."""
    for name, value in vars(parent).items():
        if value is child:
            yield name
        elif isinstance(value, Mapping):
            yield from (f"{name}_{key}" for key, one in value.items() if one is child)
        elif isinstance(value, (list, tuple)) or type(value).__name__ == "List":
            yield from (f"{name}_{i}" for i, one in enumerate(value) if one is child)
