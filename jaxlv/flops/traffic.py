"""What the devices of a mesh send each other in a train step (jaxlv.model.placement), and an audit of such a step.

`traffic` gives the bytes of the collectives as XLA's partitioner writes them (Xu et al. 2021), and `collectives` reads them
from a compiled program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlv.flops.counting.opcodes import group_size
from jaxlv.flops.spread import parts_of
from jaxlv.flops.table import count
from jaxlv.flops.work import Work, symbols
from jaxlv.model.placement import Cuts
from jaxlv.steps.loss import chunks_of

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """A collective operation of a compiled program: its kind, how many devices it joins, and the bytes of its results."""

    kind: str
    group: int
    bytes: int
    times: int = 1  # that it runs

    @property
    def ring(self) -> int:
        """The bytes that a device sends if the devices form a ring: an all-reduce passes everything twice."""
        share = (self.group - 1) / self.group
        return round({"all-reduce": 2 * share, "reduce-scatter": self.group - 1.0}.get(self.kind, share) * self.bytes)


def collectives(text: str) -> Iterator[Collective]:
    """Yields the collectives in the text of a compiled program, as one device runs them."""
    turns, name = turns_of(text), ""
    for line in text.splitlines():
        name = computation(line) or name
        found = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
        if found:
            sizes = [size(*one) for one in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", found[1])]
            # Of an operation that is started and ended apart, the first half of the results are its arguments.
            count = sum(sizes[len(sizes) // 2 :]) if found[3] and found[2] != "all-reduce" else sum(sizes)
            yield Collective(found[2], group_size(line), count, turns.get(name, 1))


def computation(line: str) -> str:
    """Returns the name of the computation that begins in a line; "" if none does."""
    found = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
    return found[1] if found else ""


def turns_of(text: str) -> dict[str, int]:
    """Returns {computation: how often it runs} of the bodies of loops whose turns the program states, nested ones too."""
    inside, name = dict[str, tuple[str, int]](), ""
    for line in text.splitlines():
        name = computation(line) or name
        body, count = re.search(r" while\(.*body=%?([\w.\-]+)", line), re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if body:
            inside[body[1]] = name, int(count[1]) if count else 1

    def turns(one: str) -> int:
        return inside[one][1] * turns(inside[one][0]) if one in inside else 1

    return {one: turns(one) for one in inside}


def size(kind: str, shape: str) -> int:
    """Returns the bytes of an array of the program's text."""
    return BYTES.get(kind, 0) * int(np.prod([int(n) for n in shape.split(",")] if shape else [1]))


def traffic(work: Work, *, fsdp: bool = False, merged: bool = False, promoted: bool = False) -> dict[str, int]:
    """Returns {what: bytes of the results of collectives on a device} of a train step of `accumulate` = 1.

    The partitioner sums partial products where they are formed: after o_proj and down_proj, and in the backward pass at the
    input of each projection that "model" cuts. If XLA has `merged` what it sums for gate and up, and what each chunk of the
    loss sums for the head, as for CUDA, it is sent once. A CPU sums in float32 what is narrower (`promoted`).

    If "model" cuts the heads of queries but not those of keys, the gradients of keys and values are summed among the devices
    whose queries share them, and then gathered (jaxlv.model.placement.whole_keys); what comes before them is whole.
    """
    v, c, d = symbols(work.executed()), work.model, work.over_data
    cuts = Cuts.of(c, work.over_model)
    shared = int(cuts.shares_keys)
    tokens, itemsize = v["T"] // d, 2 if work.dtype == "bfloat16" and not promoted else 4
    whole, low = tokens * v["H"] * itemsize, tokens * v["R"] * itemsize
    reached = {name: (v["L"] - 1) * v["t"] + v[name] for name in ("x0", "k0", "v0", "m0")}
    q, m = int(cuts.q > 1), int(parts_of("gate_proj", work) > 1)
    head, keys = int(parts_of("head", work) > 1), v["D"] * (1 + v["K"] * (v["K"] > 1))  # of one head, and of all if several
    chunks = chunks_of(work.batch // d, work.length, v["V"]).number
    layers, attention, mlp = v["L"], ("q",) if shared else ("q", "k", "v"), ("gate", "up")
    labels = 1 - max(v["head"], v["bias"])  # of a frozen head, the gradient has the rows of the labels
    table = int(parts_of("head", replace(work, head="frozen")) > 1)  # rows of embeddings are summed where they are read
    activations = table + q * layers + m * layers + head * v["t"] * (1 + labels)
    activations += q * (1 if shared else 3) * reached["x0"] + m * (1 if merged else 2) * reached["m0"]
    adapters = layers * (q * sum(v[name] for name in (*attention, "o")) + m * sum(v[name] for name in (*mlp, "down")))
    sent = {
        "activations": activations * whole,
        "keys": shared * (reached["k0"] + reached["v0"]) * tokens * keys * itemsize,
        "adapters": adapters * low,
        "loss": head * 3 * tokens * 4 + (table - head) * v["V"] * v["H"] * itemsize,  # of an alphabet, its rows of the head
        "gradients": (d > 1) * (gradients(work, 1 if merged else chunks) + 4 + 4 * (1 if merged else chunks)),
    }
    if fsdp and d > 1:
        weights = sum(one.fan_in * one.fan_out // one.parts for one in _projections(work))
        sent["weights"] = layers * weights * (2 if work.dtype == "bfloat16" else 4) * (1 + work.remat)
    return sent


class _Projection(NamedTuple):
    name: str
    fan_in: int
    fan_out: int
    parts: int  # that "model" cuts it into


def _projections(work: Work) -> Iterator[_Projection]:
    """Yields a layer's projections."""
    c = work.model
    heads, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    fans = {
        "q": (c.hidden_size, heads), "k": (c.hidden_size, keys), "v": (c.hidden_size, keys), "o": (heads, c.hidden_size),
        "gate": (c.hidden_size, c.intermediate_size), "up": (c.hidden_size, c.intermediate_size),
        "down": (c.intermediate_size, c.hidden_size),
    }  # fmt: skip
    for name, (fan_in, fan_out) in fans.items():
        yield _Projection(name, fan_in, fan_out, parts_of(f"{name}_proj", work))


def gradients(work: Work, chunks: int = 1) -> int:
    """Returns the bytes of the gradients that a device sums with others along "data", in float32; those of the head as often
    as the loss has `chunks`.
    """
    v, rank, total = symbols(work.executed()), work.executed().rank, 0
    for name, fan_in, fan_out, parts in _projections(work):
        a, b = (fan_in // parts, fan_out) if name in ("o", "down") else (fan_in, fan_out // parts)
        total += v[name] * work.model.num_hidden_layers * rank * (a + b)
    cut = parts_of("head", work)
    total += chunks * (v["bias"] * v["V"] // cut + v["head"] * v["V"] * v["H"] // cut)
    return 4 * total


def sent(text: str) -> Counter[tuple[str, int]]:
    """Returns {(kind, devices): bytes} of the collectives in a program."""
    found: Counter[tuple[str, int]] = Counter()
    for one in collectives(text):
        found[one.kind, one.group] += one.times * one.bytes
    return found


# ------------------------------------------------------------------------------------------------ an audit


class SpreadRow(NamedTuple):
    """Matrix products of a component in one phase: FLOPs asked for, those that several devices repeat, by formula, and those
    of all devices by the compiled program.
    """

    component: str
    phase: str
    asked: int
    repeated: int
    executed: int
    verdict: str


class TrafficRow(NamedTuple):
    """Bytes of the results of collectives on a device in a step: by formula or by the program, and by both in total."""

    what: str
    formula: int | None
    executed: int | None
    verdict: str = ""


class Spread(NamedTuple):
    """A train step on a mesh: its matrix products and its collectives."""

    devices: int
    rows: list[SpreadRow]
    traffic: list[TrafficRow]
    ring: int  # bytes that a device sends in a step, if the devices form rings

    def tree(self) -> dict[str, Any]:
        """Returns the audit as JSON."""
        parts = {"rows": self.rows, "traffic": self.traffic}
        listed = {name: [row._asdict() for row in rows] for name, rows in parts.items()}  # type: ignore[attr-defined]
        return {"devices": self.devices, **listed, "ring": self.ring}

    @property
    def passed(self) -> bool:
        """Tells whether formula and program agree, in the products exactly and in the bytes to SAME."""
        verdicts = [*(row.verdict for row in self.rows), *(line.verdict for line in self.traffic)]
        return DIFFERS not in verdicts


SAME = 0.01  # of the bytes that are sent
DIFFERS, PADDED = "DIFFERS", "equal, except for padding"


def compared(
    work: Work,
    executed: Mapping[tuple[str, str], int],
    text: str,
    padded: Mapping[tuple[str, str], int] | None = None,
    **how: bool,
) -> Spread:
    """Returns the audit of a train step: `executed` are the FLOPs of one device's products by component and phase, `text`
    its compiled program, `padded` those of them whose sides the compiler has padded, and `how` is that of `traffic`.
    """
    devices = work.over_data * work.over_model
    asked = count(replace(work, over_data=1, over_model=1), "exact").by_component(merged=True)
    formula = count(work, "exact").by_component(merged=True)
    most = {where: devices * flops for where, flops in (padded or {}).items()}
    beyond = {where: devices * flops - formula.get(where, 0) for where, flops in executed.items()}
    padding = {where: more for where, more in beyond.items() if 0 < more <= most.get(where, 0)}
    total = sum(formula.values()) == devices * sum(executed.values()) - sum(padding.values())
    rows = []
    for where in sorted({*formula, *executed}):
        one, all_of_it, found = asked.get(where, 0), formula.get(where, 0), devices * executed.get(where, 0)
        loose = "equal in total" if total else DIFFERS
        loose = PADDED if where in padding else loose
        rows.append(SpreadRow(*where, one, all_of_it - one, found, "equal" if all_of_it == found else loose))
    of_kinds = sent(text)
    parts = traffic(work, **how, promoted="_promoted" in text)
    told, whole = sum(parts.values()), sum(of_kinds.values())
    near = abs(told - whole) <= SAME * max(told, whole)
    lines = [TrafficRow(f"{what}, by formula", size, None) for what, size in parts.items() if size]
    lines += [TrafficRow(f"{kind} of {group} devices", None, size) for (kind, group), size in sorted(of_kinds.items())]
    lines.append(TrafficRow("total", told, whole, "equal" if near else DIFFERS))
    return Spread(devices, rows, lines, sum(one.times * one.ring for one in collectives(text)))
