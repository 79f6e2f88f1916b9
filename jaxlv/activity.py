"""What is being done, told to whoever listens: reading, compiling, and other work that has no steps to count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Listener = Callable[[str, bool], AbstractContextManager[None]]  # (words, whether they are told soon)

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_compiled: set[int] = set()


@contextlib.contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Lets a listener hear what the body does; None lets nobody."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def doing(words: str, soon: bool = True) -> AbstractContextManager[None]:
    """Tells the listener, if there is one, what the body does; not `soon` if only a long silence needs these words."""
    listener = _listener.get()
    return contextlib.nullcontext() if listener is None else listener(words, soon)


def compiling(what: str, *shape: Hashable) -> AbstractContextManager[None]:
    """Tells that the body compiles a program, if this process runs `what` for the first time with this shape."""
    key = hash((what, shape))
    if key in _compiled:
        return contextlib.nullcontext()
    _compiled.add(key)
    return doing(f"compiling {what} (once per shape, then cached)")
