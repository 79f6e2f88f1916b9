"""Matrix products counted in compiled HLO text: what the compiler left to be executed.

Read are dots, also inside fusions, calls and loops with a known trip count, the library calls that replace them on CUDA
(cuBLAS, cuBLASLt, cuDNN attention), and products that the compiler has turned into multiplications and a sum. What is
executed can be more than what was asked for: operands are padded to what a kernel takes, and a fusion repeats a small
product instead of waiting for it. Both are marked, so that the excess can be told from an error. Loops whose trip count the
text does not tell, and custom calls without a rule, are listed: such a count is not to be trusted.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting.found import Loop
from jaxlv.flops.counting.operations import Tally
from jaxlv.flops.counting.scopes import Scope
from jaxlv.flops.counting.scopes import of_instruction as place

Tallies = dict[Scope, Tally]

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
ASSIGNMENT = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
COMMENT = re.compile(r"/\*.*?\*/")
ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
NAME = re.compile(r"%([\w.\-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
TARGET = re.compile(r'custom_call_target="([^"]*)"')
TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)"?\}')
INDEX = re.compile(r"\bindex=(\d+)")
GEMMS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8")
FREE_CALLS = re.compile(
    r"Sharding|SPMD|AllocateBuffer|annotate_device_placement|MoveToHost|MoveToDevice|LayoutConstraint|TopK|__cub\$|"
    r"PadToStatic|SliceToDynamic|Eigen\w*Sort|xla\.gpu\.ext\.|cu_threefry2x32"
)
PASSED_ON = ("bitcast", "reshape", "transpose", "copy", "convert", "bitcast-convert")  # the same values in other clothes
LEFT_OUT = ("reduce", "reduce-window", "scatter", "sort", "map", "select-and-scatter", "all-reduce", "reduce-scatter")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[tuple[int, ...], ...]  # of the result; several for a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    parameter: int = -1  # its number, where it is one

    @property
    def scope(self) -> str:
        """Where it comes from in the program."""
        found = OP_NAME.search(self.attributes)
        return found[1] if found else ""


@dataclass
class HloCount:
    """The tallies of a module, and what makes them untrustworthy: each entry of `doubts` is one line."""

    tallies: Tallies = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)
    devices: int = 1
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Module:
    """A parsed HLO module: its computations by name, and the entry's name."""

    computations: Mapping[str, dict[str, Instruction]]
    entry: str


def count_hlo(text: str, trips: Any = None) -> HloCount:
    """The matrix products of a compiled module, from `compiled.as_text()`; JaxlvError where the text is not HLO."""
    module = parse(text)
    result = HloCount()
    walk = _Walk(module, result.doubts)
    result.tallies = walk.computation(module.entry, "")
    for (scope, flops), times in walk.rewritten.items():
        if times > 1:
            result.tallies[place(scope)]["dot repeated"] += (times - 1) * flops
    result.doubts = sorted(set(result.doubts))
    for word in ("num_partitions", "replica_count"):
        found = re.search(rf"^HloModule.*\b{word}=(\d+)", text)
        result.devices *= int(found[1]) if found else 1
    return result


def parse(text: str) -> Module:
    """The computations of HLO text."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = HEADER.match(line)
        if header and " = " not in line.split("(", 1)[0]:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (assigned := ASSIGNMENT.match(line)):
            instruction = _instruction(assigned[2], COMMENT.sub("", assigned[3]))
            current[instruction.name] = instruction
    if not entry:
        raise JaxlvError("not a compiled HLO module", where="HLO text", expected="a line that begins with ENTRY")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    kind, rest = (text[: (end := _closing(text, 0) + 1)], text[end:]) if text.startswith("(") else text.split(" ", 1)
    opcode, _, _ = rest.strip().partition("(")
    start = rest.index("(")
    end = _closing(rest, start)
    shapes = tuple(tuple(int(size) for size in sizes.split(",") if size) for _, sizes in ARRAY.findall(kind))
    opcode, inside = opcode.strip(), rest[start:end]
    number = int(inside[1:]) if opcode == "parameter" else -1
    return Instruction(name, shapes, opcode, tuple(NAME.findall(inside)), rest[end + 1 :], number)


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise JaxlvError("a bracket is not closed", where="HLO text", found=text[:80])


class _Walk:
    def __init__(self, module: Module, doubts: list[str]):
        self.module, self.doubts = module, doubts
        self.rewritten: Counter[tuple[str, int]] = Counter()  # products turned into sums, by scope and FLOPs
        self.callers = {
            id(module.computations[called]): (one, home)
            for home in module.computations.values()
            for one in home.values()
            if one.opcode == "fusion"
            for called in _called(one, "calls")
        }

    @functools.cache  # noqa: B019 - a walk lives as long as one count
    def computation(self, name: str, scope: str) -> Tallies:
        """The tallies of a computation; `scope` is its caller's, for instructions that do not tell theirs."""
        found: Tallies = {}
        computation = self.module.computations[name]
        for instruction in computation.values():
            for where, tally in self.instruction(instruction, computation, scope).items():
                found.setdefault(where, Tally()).update(tally)
        return found

    def instruction(self, one: Instruction, home: Mapping[str, Instruction], scope: str) -> Tallies:
        scope = one.scope or scope
        shapes = [home[name].shapes[0] if name in home and home[name].shapes else () for name in one.operands]
        if one.opcode == "dot":
            return {place(scope): self._marked(one, home, _product(shapes[0], shapes[1], _dimensions(one.attributes)))}
        if one.opcode == "multiply" and _was_product(one, home):
            flops = 2 * math.prod(one.shapes[0])
            self.rewritten[one.scope, flops] += 1
            return {place(one.scope): Tally(dot=flops)}
        if one.opcode == "convolution":
            self.doubts.append(f"convolution {one.name}: no rule")
        if one.opcode == "custom-call":
            return self._custom(one, home, shapes, scope)
        if one.opcode == "conditional":
            branches = [self.computation(name, scope) for name in _called(one, "branch_computations", "_computation")]
            return max(branches, key=lambda branch: sum(tally["dot"] for tally in branch.values()), default={})
        if one.opcode == "while":
            return self._while(one, scope)
        if one.opcode in LEFT_OUT:
            return {}
        found: Tallies = {}
        for name in _called(one, "calls", "to_apply", "called_computations"):
            for where, tally in self.computation(name, scope).items():
                found.setdefault(where, Tally()).update(tally)
        return found

    def _while(self, one: Instruction, scope: str) -> Tallies:
        body = next(iter(_called(one, "body")))
        found, known = self.computation(body, scope), TRIPS.search(one.attributes)
        if known is None and any(tally["dot"] for tally in found.values()):
            self.doubts.append(f"while {one.name}: the trip count is not known; one iteration is counted")
        times = int(known[1]) if known else 1
        return {where: Tally({k: times * n for k, n in tally.items()}) for where, tally in found.items()}

    def _marked(self, one: Instruction, home: Mapping[str, Instruction], tally: Tally) -> Tally:
        """The tally of a product, marked where a side of it is padded."""
        if any(self._padded(name, home) for name in one.operands[:2]):
            tally["dot padded"] = tally["dot"]
        return tally

    def _padded(self, name: str, home: Mapping[str, Instruction]) -> bool:
        """Has a value been filled up with zeros, here or where it comes from?"""
        one = home.get(name)
        while one is not None and one.opcode in PASSED_ON and one.operands:
            one = home.get(one.operands[0])
        if one is None:
            return False
        if one.opcode == "get-tuple-element" and (source := home.get(one.operands[0])) and source.opcode == "fusion":
            inside = self.module.computations[next(_called(source, "calls"))]
            part = int(INDEX.search(one.attributes)[1])  # type: ignore[index]
            return self._padded(inside[next(reversed(inside))].operands[part], inside)
        if one.opcode == "fusion":
            inside = self.module.computations[next(_called(one, "calls"))]
            return self._padded(next(reversed(inside)), inside)
        if one.opcode == "parameter":
            if id(home) not in self.callers:
                return False
            caller, outside = self.callers[id(home)]
            return self._padded(caller.operands[one.parameter], outside)
        return one.opcode == "pad"

    def _custom(
        self, one: Instruction, home: Mapping[str, Instruction], shapes: list[tuple[int, ...]], scope: str
    ) -> Tallies:
        target = (TARGET.search(one.attributes) or [""] * 2)[1]
        if target in GEMMS:
            dimensions = _numbers(_config(one).get("gemm_backend_config", {}).get("dot_dimension_numbers", {}))
            return {place(scope): self._marked(one, home, _product(shapes[0], shapes[1], dimensions))}
        if target.startswith("__cudnn$fmha"):
            return {place(scope): _attention(one, target, shapes)}
        if not FREE_CALLS.search(target):
            self.doubts.append(f"custom call {target or one.name}: no rule")
        return {}


Dimensions = dict[str, tuple[int, ...]]


def _was_product(one: Instruction, home: Mapping[str, Instruction]) -> bool:
    """Has the compiler turned a matrix product into this multiplication, and a sum where the contracted length is not 1?

    Its name says so, or, where the name is lost, that both sides are broadcast or that it is summed.
    """
    if one.scope:
        return one.scope.endswith("dot_general")
    both = all(name in home and home[name].opcode == "broadcast" for name in one.operands)
    return both or any(user.opcode == "reduce" and one.name in user.operands for user in home.values())


def _product(left: tuple[int, ...], right: tuple[int, ...], d: Dimensions) -> Tally:
    """2 x elements of the result x contracted length; the batch dimensions are part of the result."""
    batch = math.prod(left[i] for i in d["lhs_batch"])
    n = math.prod(left[i] for i in d["lhs_contracting"])
    if n != math.prod(right[i] for i in d["rhs_contracting"]):
        raise JaxlvError("a product's sides do not fit", where="HLO text", found=f"{left} x {right}, {d}")
    m, p = math.prod(left) // (batch * n or 1), math.prod(right) // (batch * n or 1)
    return Tally({"dot": 2 * batch * m * n * p})


def _attention(one: Instruction, target: str, shapes: list[tuple[int, ...]]) -> Tally:
    """cuDNN's fused attention: two products forward, five backward, for the scores are formed again (Dao et al. 2022)."""
    config = _config(one).get("cudnn_fmha_backend_config", {})
    sizes = [int(size) for size in config.get("intermediate_tensor_shape", {}).get("dimensions", [])]
    if len(sizes) != 4:
        raise JaxlvError("cuDNN attention without the shape of its scores", where="HLO text", found=one.name)
    batch, heads, queries, _ = sizes
    head_dim = math.prod(shapes[0]) // (batch * heads * queries)
    products = 5 if target.endswith("Backward") else 2
    found = Tally({"dot": products * 2 * math.prod(sizes) * head_dim})
    if "CAUSAL" in str(config.get("mask_type", "")):
        found["dot skipped by mask"] = found["dot"] // 2  # what a causal kernel may leave out, about
    return found


def _config(one: Instruction) -> dict[str, Any]:
    """backend_config as JSON; {} without one."""
    start = one.attributes.find("backend_config=")
    if start < 0:
        return {}
    text = one.attributes[start + len("backend_config=") :]
    try:
        if text.startswith('"'):  # a quoted string that holds JSON
            quoted, _ = json.JSONDecoder().raw_decode(text)
            return json.loads(quoted)
        return json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        raise JaxlvError("unreadable backend_config", where=f"HLO text, {one.name}", found=text[:80]) from None


def _dimensions(attributes: str) -> Dimensions:
    found = {}
    for side in ("lhs", "rhs"):
        for kind in ("batch", "contracting"):
            match = re.search(rf"{side}_{kind}_dims=\{{([0-9,]*)\}}", attributes)
            found[f"{side}_{kind}"] = tuple(int(i) for i in match[1].split(",") if i) if match else ()
    return found


def _numbers(config: Mapping[str, Any]) -> Dimensions:
    return {
        f"{side}_{kind}": tuple(int(i) for i in config.get(f"{side}_{kind}_dimensions", ()))
        for side in ("lhs", "rhs")
        for kind in ("batch", "contracting")
    }


def _called(one: Instruction, *attributes: str) -> Iterator[str]:
    """Names of the computations that an instruction calls by these attributes (or attributes that end so)."""
    for match in re.finditer(r"([\w]+)=(\{[^{}]*\}|%?[\w.\-]+)", one.attributes):
        if any(match[1] == name or (name.startswith("_") and match[1].endswith(name)) for name in attributes):
            yield from NAME.findall(match[2])
