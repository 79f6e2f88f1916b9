"""The cost of functions that XLA calls instead of compiling itself: libraries for products, attention, linear algebra.

A rule belongs to the whole name of a function. Any other call gives None, which the walk turns into a doubt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from jaxlv.errors import JaxlvError
from jaxlv.flops.counting import costs, decompositions
from jaxlv.flops.counting.decompositions import Estimate, power
from jaxlv.flops.counting.hlo_text import Array, Instruction
from jaxlv.flops.counting.opcodes import Answer, comparisons, convolution, dot, estimated, first, names
from jaxlv.flops.counting.operations import PRODUCT, Tally

FREE = names(
    """
    Sharding SPMDFullToShardShape SPMDShardToFullShape AllocateBuffer annotate_device_placement MoveToHost MoveToDevice
    LayoutConstraint PadToStatic SliceToDynamic X64Combine X64SplitLow X64SplitHigh xla.sdy.FuncResultSharding
    __cub$DeviceRadixSortUnassignedScratchSize xla.gpu.ext.cub_sort_unassigned_scratch_size
    """
)
GEMMS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8")
EPILOGUES: Mapping[str, Mapping[str, int]] = {  # on each element of a product, by parts of their names
    "BIAS": {"add": 1},
    "RELU": {"compare": 1},
    "GELU": {"mul": 6, "add": 2, "exp": 1},  # x (1 + tanh(a (x + b x^3))) / 2
    "SILU": {"mul": 1, "add": 2, "exp": 1, "div": 1},
}
CONVOLUTIONS = {  # where data, kernel and result of the forward convolution are: operands, or the result (-1)
    "__cudnn$convForward": (0, 1, -1),
    "__cudnn$convBiasActivationForward": (0, 1, -1),
    "__cudnn$convForwardGraph": (0, 1, -1),
    "__cudnn$convBackwardInput": (-1, 1, 0),
    "__cudnn$convBackwardFilter": (0, -1, 1),
}
ATTENTION = re.compile(r"__cudnn\$fmha\w*")
SORTS = (
    "TopK", "__gpu$TopK", "__cub$DeviceRadixSort", "xla.gpu.ext.cub_sort_keys", "xla.gpu.ext.cub_sort_pairs",
)  # fmt: skip
THREEFRY = ("cu_threefry2x32", "cu_threefry2x32_ffi", "hip_threefry2x32_ffi")
LIBRARIES = re.compile(
    r"lapack_[sdcz](\w+?)(?:_ffi)?|(?:cu|hip)(?:solver|blas|hybrid)?_(\w+?)(?:_batched)?_ffi|__cu(?:solver|blas)\$(\w+)"
)


def rule(one: Instruction, operands: Sequence[Instruction]) -> Answer | None:
    """Returns the operations of a call, or None without a rule. `operands` are the instructions that make its operands."""
    sides, target = [first(operand) for operand in operands], one.target
    if target in FREE:
        return Tally()
    if target in GEMMS:
        return _gemm(one, sides)
    if target in CONVOLUTIONS:
        return _convolution(one, *(first(one) if i < 0 else sides[i] for i in CONVOLUTIONS[target]))
    if ATTENTION.fullmatch(target):
        return _attention(one, sides)
    if target in SORTS:
        return Tally(compare=comparisons(sides[0]))
    if target in THREEFRY:
        return costs.BLOCKS[costs.THREEFRY].times(-(-sum(array.elements for array in one.arrays[:2]) // 2))
    found = LIBRARIES.fullmatch(target)
    routine = ROUTINES.get(next(filter(None, found.groups()), "")) if found else None
    if routine is None or not sides or len(sides[0].sizes) < 2:
        return None
    return estimated(target, sides[0], routine(one, sides))


def _gemm(one: Instruction, sides: Sequence[Array]) -> Tally:
    config = one.config.get("gemm_backend_config", {})
    numbers = config.get("dot_dimension_numbers", {})
    parts = [f"{side}_{kind}" for side in ("lhs", "rhs") for kind in ("batch", "contracting")]
    found = dot(sides[0], sides[1], {part: tuple(int(i) for i in numbers.get(f"{part}_dimensions", ())) for part in parts})
    out = one.elements
    found["mul"] += out * (float(config.get("alpha_real", 1)) != 1)
    found["add"] += out * (float(config.get("beta", 0)) != 0)
    return _with_epilogue(found, str(config.get("epilogue", "")), out)


def _convolution(one: Instruction, data: Array, kernel: Array, made: Array) -> Tally:
    found = convolution(one, data, kernel, made)
    config = one.config.get("cudnn_conv_backend_config", {})
    mode = str(config.get("activation_mode", "")).upper()
    return _with_epilogue(found, mode + ("BIAS" if "BiasActivation" in one.target else ""), one.elements)


def _with_epilogue(found: Tally, name: str, out: int) -> Tally:
    for part, operations in EPILOGUES.items():
        if part in name:
            found.update(Tally(operations).times(out))
    return found


def _attention(one: Instruction, sides: Sequence[Array]) -> Tally:
    """Counts cuDNN's fused attention: two products forward; five backward, scores formed again (Dao et al. 2022)."""
    config = one.config.get("cudnn_fmha_backend_config", {})
    sizes = [int(size) for size in config.get("intermediate_tensor_shape", {}).get("dimensions", [])]
    if len(sizes) != 4:
        raise JaxlvError("cuDNN attention without the shape of its scores", where="HLO text", found=one.name)
    batch, heads, queries, _ = sizes
    head_dim = sides[0].elements // (batch * heads * queries)
    products = 5 if "Backward" in one.target else 2
    found = Tally({PRODUCT: products * 2 * math.prod(sizes) * head_dim})
    if "CAUSAL" in str(config.get("mask_type", "")):
        found["dot skipped by mask"] = found[PRODUCT] // 2  # about what a causal kernel may leave out
    return found


# ------------------------------------------------------------------------------------------- linear algebra


def _sizes(side: Array) -> tuple[int, int]:
    return side.sizes[-2], side.sizes[-1]


def _triangles(one: Instruction, sides: Sequence[Array]) -> Estimate:
    n = sides[0].sizes[-1]
    return decompositions.triangular(n, sides[1].elements // (n * math.prod(sides[0].sizes[:-2]) or 1))


def _svd(one: Instruction, sides: Sequence[Array]) -> Estimate:
    """Estimates an SVD without bases, with thin or full ones, as the letter in its settings says (full if it is missing)."""
    mode = chr(int(one.config.get("mode", ord("A"))))
    return decompositions.svd(*_sizes(sides[0]), {"N": "none", "S": "thin"}.get(mode, "full"))


def _eig(one: Instruction, sides: Sequence[Array]) -> Estimate:
    """Estimates eigenvalues, with vectors unless all its settings say no (N)."""
    asked = {one.config.get(name) for name in ("mode", "compute_left", "compute_right")} - {None}
    if asked == {ord("N")}:
        return power(sides[0].sizes[-1], "10 n^3, values alone (GVL 7.5)", 10)
    return power(sides[0].sizes[-1], "25 n^3, values and vectors (GVL 7.5)", 25)


Routine = Callable[[Instruction, Sequence[Array]], Estimate]


def _of_order(words: str, numerator: int, denominator: int = 1) -> Routine:
    return lambda one, sides: power(sides[0].sizes[-1], words, numerator, denominator)


ROUTINES: Mapping[str, Routine] = {
    **dict.fromkeys(("potrf", "cholesky"), lambda one, sides: decompositions.cholesky(sides[0].sizes[-1])),
    **dict.fromkeys(("trsm", "triangularSolve"), _triangles),
    "getrf": lambda one, sides: decompositions.lu(*_sizes(sides[0])),
    **dict.fromkeys(
        ("geqrf", "geqp3"), lambda one, sides: decompositions.reflectors(*_sizes(sides[0]), min(_sizes(sides[0])))
    ),
    **dict.fromkeys(("orgqr", "ungqr"), lambda one, sides: decompositions.reflectors(*_sizes(sides[0]), sides[1].sizes[-1])),
    **dict.fromkeys(("syevd", "heevd"), _of_order("9 n^3, values and vectors (GVL 8.3)", 9)),
    **dict.fromkeys(("geev", "gees"), _eig),
    **dict.fromkeys(("gesdd", "gesvd", "gesvdj"), _svd),
    "gehrd": _of_order("10 n^3 / 3 (GVL 7.4)", 10, 3),
    **dict.fromkeys(("sytrd", "hetrd"), _of_order("4 n^3 / 3 (GVL 8.3)", 4, 3)),
}
