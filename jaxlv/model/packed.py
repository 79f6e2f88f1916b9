"""Checkpoints whose projections are packed: GPTQ's and AWQ's, as their tools write them, and jaxlv's own in 8 and 4 bits.

What GPTQ and AWQ store of a projection W (F, D), of b bits in groups of g inputs, with p = 32 / b numbers in an int32, the
first in the lowest bits:

gptq  qweight int32 (D/p, F), qzeros int32 (G, F/p), scales (G, F), g_idx int32 (D,), the group of each input:
      W = scale * (number - zero). Files of the first version hold zeros less by one; `checkpoint_format` names the second.
awq   qweight int32 (D, F/p), qzeros int32 (G, F/p), scales (G, F): the numbers of an int32 are those of the outputs 0, 2, 4,
      6, 1, 3, 5, 7. Version "gemm".

Sources: AutoGPTQ (nn_modules/qlinear), GPTQModel (utils/model.py), AutoAWQ (modules/linear/gemm.py).

Axes: F outputs and D inputs of a projection, G groups, p numbers in an int32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np

from jaxlv.errors import JaxlvError
from jaxlv.model.bits import GROUP, Bits
from jaxlv.storage import foreign

SETTINGS = "quantization_config"  # in config.json
OWN = "jaxlv"
READ = f"gptq of 4 or 8 bits, awq of 4 bits, or {OWN}"
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the outputs in an int32 of AWQ
BLOCK = 1 << 20  # numbers that are unpacked at once
GPTQ_ZEROS = {"gptq": 1, "gptq_v2": 0}  # by which zeros are stored less, by the name of the format


class Packing(NamedTuple):
    """How a checkpoint's projections are packed: in groups of `group` inputs, all of them if 0; zeros are less by
    `offset`.
    """

    method: str
    bits: int
    group: int
    offset: int = 0

    @property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """The tensors of a projection, with the types that they may have."""
        scales = ("F16", "BF16", "F32")
        found = {"qweight": ("I32",), "qzeros": ("I32",), "scales": scales}
        return {**found, "g_idx": ("I32",)} if self.method == "gptq" else found

    def shapes(self, outputs: int, inputs: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shapes of a projection's tensors."""
        p, groups = 32 // self.bits, -(-inputs // (self.group or inputs))
        weight = (inputs // p, outputs) if self.method == "gptq" else (inputs, outputs // p)
        found: dict[str, tuple[int, ...]] = {
            "qweight": weight,
            "qzeros": (groups, outputs // p),
            "scales": (groups, outputs),
        }
        return {**found, "g_idx": (inputs,)} if self.method == "gptq" else found


def packing_of(settings: Any, where: Any) -> Packing | Bits | None:
    """Returns how a config.json's `quantization_config` says that weights are packed; None if it says nothing.

    Raises JaxlvError, with the name of the method, for anything else than READ.
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise JaxlvError(f"{SETTINGS} is not an object", where=where, found=repr(settings))
    method = foreign.typed(settings, "quant_method", str, where, "")
    readers: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {"gptq": _gptq, "awq": _awq, OWN: _own}
    if method not in readers:
        named = method or next((name for name in ("load_in_4bit", "load_in_8bit") if settings.get(name)), "no method")
        raise JaxlvError(
            f"weights quantised by {named!r} are not implemented",
            where=where,
            expected=f"{SETTINGS}.quant_method {READ}",
            found=named,
        )
    return readers[method](settings, where)


def own_settings(bits: Bits) -> dict[str, Any]:
    """Returns the `quantization_config` of a checkpoint in 8 or 4 bits, by which other readers refuse it."""
    return {"quant_method": OWN, "weights": bits, "group_size": GROUP}


def _own(settings: Mapping[str, Any], where: Any) -> Bits:
    _only(settings, {"weights": get_args(Bits), "group_size": (GROUP,)}, where)
    return settings["weights"]


def _gptq(settings: Mapping[str, Any], where: Any) -> Packing:
    kind = foreign.typed(settings, "checkpoint_format", str, where, "gptq")
    settings = {"lm_head": False, "pack_dtype": "int32", "dynamic": None, **settings, "checkpoint_format": kind}
    expected = {"bits": (4, 8), "lm_head": (False,), "pack_dtype": ("int32",), "checkpoint_format": tuple(GPTQ_ZEROS)}
    _only(settings, expected, where)
    if settings["dynamic"]:
        raise JaxlvError("gptq with settings by module is not implemented", where=where, expected="no dynamic")
    return Packing("gptq", settings["bits"], _group(settings, where), GPTQ_ZEROS[kind])


def _awq(settings: Mapping[str, Any], where: Any) -> Packing:
    version = str(settings.get("version", "gemm")).lower()
    left = settings.get("modules_to_not_convert") or []
    settings = {"zero_point": True, **settings, "version": version, "modules_to_not_convert": left}
    expected = {"bits": (4,), "version": ("gemm",), "zero_point": (True,), "modules_to_not_convert": ([], ["lm_head"])}
    _only(settings, expected, where)
    return Packing("awq", 4, _group(settings, where))


def _only(settings: Mapping[str, Any], expected: Mapping[str, Any], where: Any) -> None:
    method = settings["quant_method"]
    for name, allowed in expected.items():
        found = settings.get(name)
        if not any(type(found) is type(one) and found == one for one in allowed):
            words = " or ".join(repr(one) for one in allowed)
            what = f"{method} with {name} {found!r} is not implemented"
            raise JaxlvError(what, where=where, expected=f"{SETTINGS}.{name} {words}", found=repr(found))


def _group(settings: Mapping[str, Any], where: Any) -> int:
    """Returns the inputs of a group; 0 for all of them."""
    size = foreign.typed(settings, "group_size", int, where, 128)
    if size != -1 and (size < 1 or size % 8):
        method = settings["quant_method"]
        raise JaxlvError(f"{method} in groups of {size}", where=where, expected="-1, or a multiple of 8", found=size)
    return max(0, size)


def check_sizes(packing: Packing, outputs: int, inputs: int, where: Any) -> None:
    """Raises JaxlvError if a projection of these sizes cannot be packed so."""
    p = 32 // packing.bits
    if outputs % p or (packing.method == "gptq" and inputs % p):
        found = f"{outputs} outputs, {inputs} inputs"
        raise JaxlvError(f"{packing.method} packs multiples of {p}", where=where, found=found)


def unpacked(packing: Packing, held: Mapping[str, np.ndarray], dtype: Any, where: Any) -> np.ndarray:
    """Returns the weight (F, D) of a projection's tensors; computed in float32 and rounded to `dtype`.

    Raises JaxlvError if an input is in a group that does not exist.
    """
    scale_GF = held["scales"].astype(np.float32)
    zero_GF = _numbers(held["qzeros"], packing, axis=1) + np.int32(packing.offset)
    inputs = len(held["qweight"]) * (32 // packing.bits if packing.method == "gptq" else 1)
    group_D = held.get("g_idx", np.arange(inputs, dtype=np.int32) // (packing.group or inputs))
    if group_D.min() < 0 or group_D.max() >= len(scale_GF):
        found = int(group_D.max() if group_D.max() >= len(scale_GF) else group_D.min())
        raise JaxlvError(
            "an input is in a group that does not exist", where=where, expected=f"below {len(scale_GF)}", found=found
        )
    weight_FD = np.empty((scale_GF.shape[1], inputs), dtype)
    step = max(8, BLOCK // len(weight_FD) // 8 * 8)  # inputs; a multiple of those in an int32
    for first in range(0, inputs, step):
        part = slice(first, first + step)
        if packing.method == "gptq":
            rows = slice(first * packing.bits // 32, (first + step) * packing.bits // 32)
            number_dF = _numbers(held["qweight"][rows], packing, axis=0)
        else:
            number_dF = _numbers(held["qweight"][part], packing, axis=1)
        group_d = group_D[part]
        weight_FD[:, part] = (scale_GF[group_d] * (number_dF - zero_GF[group_d])).T
    return weight_FD


def _numbers(packed: np.ndarray, packing: Packing, axis: int) -> np.ndarray:
    """Returns the whole numbers in an array of int32, which follow each other along an axis."""
    shifts = np.arange(0, 32, packing.bits, dtype=np.uint32)
    if packing.method == "awq":
        shifts = shifts[np.argsort(ORDER)]
    shifts = shifts.reshape(-1, *(1,) * (packed.ndim - axis - 1))
    words = np.expand_dims(packed.view(np.uint32), axis + 1)
    numbers = (words >> shifts & np.uint32((1 << packing.bits) - 1)).astype(np.int32)
    return numbers.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :])
