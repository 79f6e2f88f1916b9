"""Prompts, and how they are read: no prompt that is known already, and none by itself that begins a longer one.

The keys and values of a token depend only on the tokens before it. So a causal pass over the longest prompt also reads every
prompt that it begins with, and the keys and values of an earlier call serve for a later one on the same prompts.

Axes: S prompts, U of them that are read, P tokens, V vocabulary (or the 13 symbols).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlv import memory, processes
from jaxlv.model import placement
from jaxlv.model.qwen2 import Qwen2, Segment
from jaxlv.steps.prefill import Nested
from jaxlv.text.tokens import NO_POSITION

PROMPT_MULTIPLE = 64  # prompts are padded on the right to a multiple, so that few shapes are compiled
MOST_KEPT = 1 << 29  # bytes of keys and values that are kept for a later call, and of the memory that is free:
SHARE_KEPT = 1 / 8


@dataclass(frozen=True)
class Prompts:
    """S prompts as token ids (each 1-d). Each also has the series number on which its random numbers depend, by default its
    place, and a name for errors. `reading` says how they are read, by default each that does not begin another one.
    """

    ids: Sequence[np.ndarray]
    series: Sequence[int] | np.ndarray | None = None
    names: Sequence[str] | None = None
    reading: Reading | None = None


class Read(NamedTuple):
    """Prompts that were read: the logits behind them (S, V), and their keys and values."""

    logits_SV: jax.Array
    prefix: Segment


class Texts(NamedTuple):
    """Prompts padded on the right to one length: ids and positions (S, P)."""

    ids_SP: np.ndarray
    positions_SP: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[np.ndarray]) -> Texts:
        """Returns prompts, padded."""
        sizes = len(ids), padded(max(map(len, ids)))
        ids_SP, positions_SP = np.zeros(sizes, np.int32), np.full(sizes, NO_POSITION, np.int32)
        for row, prompt in enumerate(ids):
            ids_SP[row, : len(prompt)] = prompt
            positions_SP[row, : len(prompt)] = np.arange(len(prompt))
        return cls(ids_SP, positions_SP)

    def rows(self, rows_U: np.ndarray) -> Texts:
        """Returns some of the prompts, as wide as they are."""
        return Texts(self.ids_SP[rows_U], self.positions_SP[rows_U])


@dataclass(frozen=True)
class Part:
    """Prompts that are decoded together, `rows` of a generation's, and how they are read: not at all, if they are `known`;
    each by itself; or those of `within.read_U` alone.
    """

    rows: np.ndarray
    texts: Texts
    known: Read | None = None
    within: Within | None = None

    @property
    def asked(self) -> Asked:
        """What a prefill is asked to read."""
        if self.within is None:
            return Asked(self.texts, None)
        return Asked(self.texts.rows(self.within.read_U), Nested(self.within.of_S, self.texts.positions_SP))


class Asked(NamedTuple):
    """The texts that a prefill reads, and which prompts lie within which of them."""

    texts: Texts
    nested: Nested | None


class Within(NamedTuple):
    """The prompts that are read, and within which of these each prompt lies, by its place among them."""

    read_U: np.ndarray
    of_S: np.ndarray


def nested(texts: Texts) -> Within | None:
    """Returns the prompts in which all others lie; None if fewer than half of the prompts would be saved.

    Their number is a power of two, so that few shapes are compiled; some may be read twice.
    """
    lengths_S = texts.positions_SP.max(axis=1) + 1
    keys = [ids_P[:n].astype(">u4").tobytes() for ids_P, n in zip(texts.ids_SP, lengths_S, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)  # what begins a text stands right before such a text
    longest = {order[-1]: order[-1]}
    for one, following in zip(order[-2::-1], order[:0:-1], strict=True):
        longest[one] = longest[following] if keys[following].startswith(keys[one]) else one
    read = sorted(set(longest.values()))
    size = 1 << (len(read) - 1).bit_length()
    if 2 * size > len(keys):
        return None
    places = {row: place for place, row in enumerate(read)}
    of_S = np.array([places[longest[row]] for row in range(len(keys))], np.int32)
    return Within(np.array(read + read[-1:] * (size - len(read))), of_S)


class _Kept(NamedTuple):
    """Prompts that were read, by parameters that may be gone since then."""

    read: Read
    parameters: tuple[weakref.ref, ...]

    @property
    def bytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.read))


class Prefixes:
    """What was read of prompts last, in at most MOST_KEPT bytes and SHARE_KEPT of the free memory: what was used longest ago
    gives way. It is found again by the identity of the parameters, the model's settings and the tokens.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[_Place, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, variables: Any, said: Hashable, texts: Texts) -> Read | None:
        """Returns what was read of these prompts by these parameters; None if it is not kept. `said` is what it depends on
        beside these. Several processes, which must read the same prompts, keep nothing.
        """
        if processes.count() > 1:
            return None
        leaves = jax.tree.leaves(variables)
        with self._lock:
            found = self._kept.get(_Place.of(leaves, said, texts))
            if found is None or any(ref() is not leaf for ref, leaf in zip(found.parameters, leaves, strict=True)):
                return None
            self._kept.move_to_end(_Place.of(leaves, said, texts))
            return found.read

    def keep(self, variables: Any, said: Hashable, texts: Texts, read: Read) -> None:
        """Keeps what was read, if the parameters are arrays that cannot change."""
        leaves = jax.tree.leaves(variables)
        if not all(isinstance(leaf, jax.Array) for leaf in leaves):
            return
        one = _Kept(read, tuple(map(weakref.ref, leaves)))
        most = min(MOST_KEPT, int(SHARE_KEPT * memory.free()))
        with self._lock:
            self._kept[_Place.of(leaves, said, texts)] = one
            for key in [key for key, kept in self._kept.items() if any(ref() is None for ref in kept.parameters)]:
                del self._kept[key]
            while self._kept and sum(kept.bytes for kept in self._kept.values()) > most:
                self._kept.popitem(last=False)


class _Place(NamedTuple):
    """Where what was read is kept: the identities of the parameters, what it depends on beside these, and the texts."""

    parameters: tuple[int, ...]
    said: Hashable
    shape: tuple[int, ...]
    ids: bytes
    positions: bytes

    @classmethod
    def of(cls, leaves: Sequence[Any], said: Hashable, texts: Texts) -> _Place:
        return cls(tuple(map(id, leaves)), said, texts.ids_SP.shape, texts.ids_SP.tobytes(), texts.positions_SP.tobytes())


@dataclass(frozen=True)
class Reading:
    """How the prompts of a generation are read, part by part, and where what was read is kept."""

    texts: Texts
    parts: tuple[Part, ...]
    said: Hashable
    prefixes: Prefixes | None = None

    @classmethod
    def of(
        cls, model: Qwen2, variables: Any, prompts: Prompts, symbols_A: np.ndarray | None, prefixes: Prefixes | None = None
    ) -> Reading:
        """Returns how prompts are read by a model that then forms the logits of some symbols, or of the whole vocabulary."""
        texts, said = Texts.of(prompts.ids), (model, None if symbols_A is None else tuple(symbols_A.tolist()))
        parts, count = [], len(prompts.ids)
        split = np.split(np.arange(count), parallel_parts(count))
        if model.mesh is not None:  # programs that several threads launch, in varying order, would wait for each other
            split = [placement.filled(count, model.mesh)]
        for rows in split:
            own = texts.rows(rows)
            known = prefixes.find(variables, said, own) if prefixes else None
            parts.append(Part(rows, own, known, None if known or model.mesh is not None else nested(own)))
        return cls(texts, tuple(parts), said, prefixes)

    @property
    def shapes(self) -> Hashable:
        """The shapes of the programs that read the prompts."""
        read = (() if part.known else part.asked.texts.ids_SP.shape for part in self.parts)
        return tuple(dict.fromkeys([self.texts.ids_SP.shape, *read]))

    @property
    def saved(self) -> dict[str, int]:
        """How many prompts are known, and how many are read within others, by the names of a ledger's event."""
        known = sum(len(part.rows) for part in self.parts if part.known)
        within = sum(len(part.rows) - len(part.within.read_U) for part in self.parts if part.within)
        return {"known": known, "nested": within}

    def keep(self, variables: Any, read: Sequence[Read]) -> None:
        """Keeps what was read of each part."""
        for part, one in zip(self.parts, read, strict=True):
            if self.prefixes is not None and part.known is None:
                self.prefixes.keep(variables, self.said, part.texts, one)


def padded(length: int) -> int:
    """Returns the length to which a prompt of this length is padded."""
    return -(-length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE


def parallel_parts(series: int) -> int:
    """Returns in how many equal parts so many series are decoded side by side: on a CPU at most one per core, else 1.

    On a CPU, XLA runs the small products of a decode step on one core; an accelerator takes the whole batch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(cores, series) if jax.default_backend() == "cpu" else 1
    return next(parts for parts in range(most, 0, -1) if series % parts == 0)
