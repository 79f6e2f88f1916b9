"""Where an operation is in a program, by the names that its author gave."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Phase = Literal["forward", "backward", "recomputed"]

WRAPPED = re.compile(r"(transpose|jvp|vmap|pmap|shard_map|linearize)\((.*)\)")
# Names that JAX itself writes, each one part of a path: calls and recomputation.
OWN = re.compile(
    r"closed_call|core_call|checkpoint|remat2?|rematted_computation|custom_jvp_call|custom_vjp_call(_jaxpr)?|pjit|p?jit\(.*\)|"
)
LOOP = {("while", "body"), ("while", "cond")}  # two parts that stand side by side in HLO
BRANCH = re.compile(r"branch_\d+_fun")
BACKWARD, RECOMPUTED = "transpose(", "rematted_computation"


class Scope(NamedTuple):
    """Names from the outermost in, and the phase of differentiation."""

    path: tuple[str, ...] = ()
    phase: Phase = "forward"

    def __str__(self) -> str:
        return "/".join(self.path)


def of_stack(text: str) -> Scope:
    """Returns the scope in a jaxpr's name stack, such as "transpose(jvp(encoder))/Dense_0"."""
    phase: Phase = "recomputed" if RECOMPUTED in text else "backward" if BACKWARD in text else "forward"
    return Scope(tuple(_names(_parts(text))), phase)


def of_instruction(op_name: str) -> Scope:
    """Returns the scope of an HLO instruction by its `op_name`, which ends in the name of its primitive:
    "jit(f)/transpose(jvp(encoder))/Dense_0/dot_general".
    """
    return of_stack(op_name.rpartition("/")[0])


def _parts(text: str) -> list[str]:
    """Splits at the slashes outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "/" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _names(parts: list[str]) -> list[str]:
    """Returns the author's names, each path once."""
    names: list[str] = []
    starts = []  # of transforms, as places in `names`
    skip = False
    for i, part in enumerate(parts):
        if skip or (i + 1 < len(parts) and _is_loop(part, parts[i + 1])):
            skip = not skip
            continue
        if WRAPPED.fullmatch(part):
            starts.append(len(names))
        while wrapped := WRAPPED.fullmatch(part):
            part = wrapped[2]
        if not OWN.fullmatch(part):
            names.append(part)
    for start in reversed(starts):
        _say_once(names, start)
    return names


def _say_once(names: list[str], start: int) -> None:
    """Removes a path that is repeated at `start`. The backward pass of a recomputed part begins with the path to that part
    once more, under a transform of its own: "transpose(jvp(model))/jvp(model)/layer".
    """
    for length in range(min(start, len(names) - start), 0, -1):
        if names[start - length : start] == names[start : start + length]:
            del names[start : start + length]
            return


def _is_loop(part: str, after: str) -> bool:
    return (part, after) in LOOP or (part == "cond" and BRANCH.fullmatch(after) is not None)
