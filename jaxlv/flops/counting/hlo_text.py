"""Parses the text of a compiled HLO module: computations, instructions, types, attributes."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxlv.errors import JaxlvError

MODULE = re.compile(r"HloModule [^\n]*", re.MULTILINE)
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
ASSIGNMENT = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
COMMENT = re.compile(r"/\*.*?\*/")
ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=?]*)\](?:\{([^{}]*)\})?")
BRACKET = re.compile(r'[()]|"(?:[^"\\]|\\.)*"')
OP_NAME = re.compile(r'metadata=\{[^"]*?\bop_name="((?:[^"\\]|\\.)*)"')
SOURCE = re.compile(r'\bsource_file="([^"]*)" source_line=(\d+)')
TABLE = re.compile(r"^(FileNames|FileLocations|StackFrames)\n((?:\d+ .*\n)+)", re.MULTILINE)
TARGET = re.compile(r'custom_call_target="([^"]*)"')
TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)"?\}')
CALLED = re.compile(r"\b(\w+)=(\{[^{}]*\}|%?[\w.\-]+)")
# What an instruction does not depend on: where it comes from, how it is scheduled.
APART = re.compile(
    r',? ?(metadata|frontend_attributes|sharding|origin|statistics)=\{(?:"(?:[^"\\]|\\.)*"|[^{}"]|\{[^{}]*\})*\}'
)
CONFIG = "backend_config="
BITS = {"pred": 8, "token": 0, "opaque": 0}


class Array(NamedTuple):
    """The type of one array."""

    dtype: str
    sizes: tuple[int, ...]
    layout: str = ""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.sizes)

    @property
    def in_order(self) -> bool:
        """Tells whether the array is stored row by row; dimensions of one element may be anywhere."""
        order = [int(number) for number in self.layout.partition(":")[0].split(",") if number]
        order = [number for number in order if self.sizes[number] > 1]
        return order == sorted(order, reverse=True)

    @property
    def bytes(self) -> int:
        """The size in memory, rounded up to whole bytes."""
        digits = re.search(r"\d+", self.dtype)
        bits = BITS.get(self.dtype, int(digits[0]) if digits else 0)
        return -(-self.elements * bits // 8)

    @property
    def is_complex(self) -> bool:
        """Tells whether an element is a pair of numbers."""
        return self.dtype in ("c64", "c128")


class Axis(NamedTuple):
    """A window along one dimension: see `windows.Window`."""

    size: int
    stride: int = 1
    low: int = 0
    high: int = 0
    lhs_dilation: int = 1
    rhs_dilation: int = 1


@dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a computation. `arrays` are the parts of its result, in order; `inside` is the text in its brackets."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    inside: str
    root: bool = False

    @functools.cached_property
    def op_name(self) -> str:
        """Its name in the program, the first if it has several; "" if it has none, or if its place in the program is
        lost.
        """
        found = OP_NAME.search(self.attributes)
        name = found[1].split(";", 1)[0] if found else ""
        return name if "/" in name else ""

    @functools.cached_property
    def settings(self) -> str:
        """Its attributes and literals, without those that say where it comes from and how it is scheduled."""
        return ("" if self.operands else self.inside) + APART.sub("", self.attributes.split(CONFIG, 1)[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the first array of its result."""
        return self.arrays[0].sizes if self.arrays else ()

    @property
    def elements(self) -> int:
        """The number of elements of the first array of its result; 0 for a result without arrays."""
        return self.arrays[0].elements if self.arrays else 0

    @property
    def target(self) -> str:
        """The name of the function that a custom call calls."""
        return (TARGET.search(self.attributes) or ("", ""))[1]

    @property
    def trips(self) -> int | None:
        """The trip count of a loop, or None if the compiler did not find it."""
        found = TRIPS.search(self.attributes)
        return int(found[1]) if found else None

    def called(self, *attributes: str) -> Iterator[str]:
        """Yields the names of the computations that these attributes give."""
        for name, value in CALLED.findall(self.attributes.split(CONFIG, 1)[0]):
            if name in attributes:
                yield from re.findall(r"[\w.\-]+", value)

    def number(self, attribute: str, default: int = 0) -> int:
        """Returns the integer that an attribute gives."""
        found = re.search(rf"\b{attribute}=(\d+)", self.attributes)
        return int(found[1]) if found else default

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """Returns the integers of an attribute such as dimensions={0,1}; () without it."""
        found = re.search(rf"\b{attribute}=\{{([0-9,]*)\}}", self.attributes)
        return tuple(int(number) for number in found[1].split(",") if number) if found else ()

    def dimensions(self) -> dict[str, tuple[int, ...]]:
        """Returns {"lhs_batch": ..., "lhs_contracting": ..., "rhs_batch": ..., "rhs_contracting": ...} of a product."""
        parts = [f"{side}_{kind}" for side in ("lhs", "rhs") for kind in ("batch", "contracting")]
        return {part: self.numbers(f"{part}_dims") for part in parts}

    def window(self) -> tuple[Axis, ...]:
        """Returns an Axis for each dimension of window={size=3x3 stride=2x2 pad=1_1x0_1 lhs_dilate=2x1 rhs_dilate=1x2}."""
        found = re.search(r"\bwindow=\{([^{}]*)\}", self.attributes)
        parts = dict(part.split("=", 1) for part in found[1].split()) if found else {}
        sizes = [int(size) for size in parts.get("size", "").split("x") if size]

        def each(name: str, default: str) -> list[str]:
            return parts[name].split("x") if name in parts else [default] * len(sizes)

        pads = [pad.split("_") for pad in each("pad", "0_0")]
        return tuple(
            Axis(size, int(stride), int(low), int(high), int(lhs), int(rhs))
            for size, stride, (low, high), lhs, rhs in zip(
                sizes, each("stride", "1"), pads, each("lhs_dilate", "1"), each("rhs_dilate", "1"), strict=True
            )
        )

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """backend_config, given as JSON or as in {mode = 65 : ui8}; {} without one. Raises JaxlvError if it is neither."""
        _, marker, text = self.attributes.partition(CONFIG)
        if not marker or text[:1] not in '{"' or text.startswith("{}"):
            return {}
        if re.match(r"\{\w+ = ", text):
            return {name: int(number) for name, number in re.findall(r"(\w+) = (\d+) : \w+", text)}
        try:
            if text.startswith('"'):  # a quoted string that holds JSON, or words of a custom call
                quoted, _ = json.JSONDecoder().raw_decode(text)
                return json.loads(quoted) if quoted.startswith("{") else {}
            return json.JSONDecoder().raw_decode(text)[0]
        except ValueError:
            raise JaxlvError("unreadable backend_config", where=f"HLO text, {self.name}", found=text[:80]) from None


Computation = Mapping[str, Instruction]


@dataclass(frozen=True)
class Module:
    """A parsed module: its computations by name, the entry's name, and how many devices run it at once."""

    computations: Mapping[str, Computation]
    entry: str
    devices: int = 1
    frames: Mapping[int, tuple[str, int]] = field(default_factory=dict)  # by number: "file.py:12", and the frame around it

    def places(self, one: Instruction) -> list[str]:
        """Returns the lines of the program that an instruction comes from, as "file.py:12", innermost first; [] if the text
        has none.
        """
        if found := SOURCE.search(one.attributes):
            return [f"{PurePath(found[1]).name}:{found[2]}"]
        frame, lines = one.number("stack_frame_id"), list[str]()
        while frame in self.frames and len(lines) < len(self.frames):
            line, frame = self.frames[frame]
            lines.append(line)
        return lines


def result(computation: Computation) -> Instruction:
    """Returns the line that a computation returns: the marked one, or the last if the text omits the mark."""
    return next((one for one in computation.values() if one.root), None) or list(computation.values())[-1]


def parse(text: str) -> Module:
    """Parses `compiled.as_text()`. Raises JaxlvError if it is not HLO with an entry."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is not None:
            if assigned := ASSIGNMENT.match(line):
                current[assigned[2]] = _instruction(assigned[2], assigned[3], assigned[1] is not None)
        elif header := HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
    if not entry or not computations[entry]:
        raise JaxlvError("not a compiled HLO module", where="HLO text", expected="a line that begins with ENTRY")
    head = (MODULE.search(text) or ("",))[0]
    parts = [re.search(rf"\b{name}=(\d+)", head) for name in ("num_partitions", "replica_count")]
    return Module(computations, entry, math.prod(int(part[1]) for part in parts if part), _frames(text))


def _frames(text: str) -> dict[int, tuple[str, int]]:
    """Reads the tables of source lines that precede the computations."""
    tables = {name: dict(line.split(" ", 1) for line in lines.splitlines()) for name, lines in TABLE.findall(text)}
    names, locations, frames = (tables.get(name, {}) for name in ("FileNames", "FileLocations", "StackFrames"))
    found: dict[int, tuple[str, int]] = {}
    for number, frame in frames.items():
        values = dict(re.findall(r"(\w+)=(\d+)", frame))
        at = dict(re.findall(r"(\w+)=(\d+)", locations.get(values.get("file_location_id", ""), "")))
        file = names.get(at.get("file_name_id", ""), "").strip('"')
        # Frames are numbered from 1, and a parent's number is written one too high: an outermost frame has the parent 1.
        found[int(number)] = f"{PurePath(file).name}:{at.get('line', 0)}", int(values.get("parent_frame_id", 1)) - 1
    return found


def arrays(text: str) -> tuple[Array, ...]:
    """Parses a type: "f32[8,16]{1,0}", or "(f32[8], s32[])" for a tuple. A bounded size counts in full."""
    return tuple(
        Array(dtype, tuple(int(size.strip("<=?") or 0) for size in sizes.split(",") if size), layout)
        for dtype, sizes, layout in ARRAY.findall(text)
    )


def _instruction(name: str, text: str, root: bool) -> Instruction:
    if "/*" in text:
        text = COMMENT.sub("", text)
    if text.startswith("("):
        end = _closing(text, 0) + 1
        kind, rest = text[:end], text[end:].lstrip()
    else:
        kind, _, rest = text.partition(" ")
    opcode, bracket, _ = rest.partition("(")
    if not bracket:
        raise JaxlvError("an instruction without operands in brackets", where="HLO text", found=text[:80])
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end]
    operands = () if opcode in ("parameter", "constant", "iota") else tuple(_operands(inside))
    return Instruction(name, arrays(kind), opcode.strip(), operands, rest[end + 1 :], inside, root)


def _operands(inside: str) -> Iterator[str]:
    """Yields the names of operands: those with "%", or the last word of each part if the text has no such signs."""
    if "%" in inside:
        yield from re.findall(r"%([\w.\-]+)", inside)
    elif inside.strip():
        plain = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", "", inside)
        yield from (part.split()[-1] for part in plain.split(",") if part.strip())


def _closing(text: str, start: int) -> int:
    """Returns where the bracket at `start` is closed; brackets in quotes do not count."""
    depth = 0
    for found in BRACKET.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.start()
    raise JaxlvError("a bracket is not closed", where="HLO text", found=text[:80])
