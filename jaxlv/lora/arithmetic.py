"""Adapters as updates of weights: scaled, added, compared; the update of a projection is dW = scale * B A.

Axes: O outputs and I inputs of a projection, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import traverse_util

from jaxlv.errors import JaxlvError
from jaxlv.lora.overlay import PROJECTIONS, Tree

Path = tuple[str, ...]
LEAST = 1e-6  # as a share of the largest singular value: smaller ones are rounding errors, not directions


class LowRank(NamedTuple):
    """A singular value decomposition U diag(s) V^T, the greatest value first."""

    u_OR: np.ndarray
    s_R: np.ndarray
    v_IR: np.ndarray


def decomposed(b_OR: Any, a_RI: Any, scale: float) -> LowRank:
    """Decomposes scale * B A, in float64, by QR decompositions of both factors; the product itself is not formed."""
    (q_OR, r_B), (q_IR, r_A) = (np.linalg.qr(np.asarray(m, float)) for m in (b_OR, np.asarray(a_RI).T))
    u_RR, s_R, vt_RR = np.linalg.svd(r_B @ r_A.T, full_matrices=False)
    return LowRank(q_OR @ u_RR * np.sign(scale), abs(scale) * s_R, q_IR @ vt_RR.T)


class Factors(NamedTuple):
    """An update of a projection: scale * B A."""

    b_OR: Any
    a_RI: Any
    scale: float


def updates(lora: Mapping[str, Any]) -> dict[Path, Factors]:
    """Returns {path of a projection: its update} of an overlay, layer by layer."""
    flat = traverse_util.flatten_dict(dict(lora))
    paths = sorted((path[:-1] for path in flat if path[-1] == "A"), key=_place)
    return {path: Factors(flat[(*path, "B")], flat[(*path, "A")], float(flat[(*path, "scale")])) for path in paths}


def _place(path: Path) -> tuple[int, int]:
    return int(path[0].rpartition(".")[2]), PROJECTIONS.index(path[-1])


def scale(lora: Mapping[str, Any], factor: float) -> Tree:
    """Returns the overlay whose updates, and whose head's bias, are `factor` times those of `lora`.

    Raises JaxlvError if the overlay has a head's weight, which is not an update of the base.
    """
    _no_head_weight(lora)
    scaled = {
        path: leaf * jnp.float32(factor) if path[-1] in ("scale", "bias") else leaf
        for path, leaf in traverse_util.flatten_dict(dict(lora)).items()
    }
    return traverse_util.unflatten_dict(scaled)


def add(loras: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None) -> Tree:
    """Returns the overlay whose updates are exactly the weighted sums of those of `loras`: its rank is the sum of theirs.

    The factors are stacked, with B multiplied by weight and scale; a projection that only some overlays adapt is padded with
    zeros. Raises JaxlvError for overlays with a head's weight, shapes that differ, and weights that are not finite.
    """
    weights = [1.0] * len(loras) if weights is None else list(weights)
    if not loras or len(weights) != len(loras):
        raise JaxlvError("as many weights as adapters", where="add", expected=len(loras), found=len(weights))
    if not all(math.isfinite(weight) for weight in weights):
        raise JaxlvError("a weight that is not finite", where="add", found=weights)
    for lora in loras:
        _no_head_weight(lora)
    parts = [updates(lora) for lora in loras]
    rank = sum(max((len(a) for _, a, _ in part.values()), default=0) for part in parts)
    found: dict[Path, Any] = {}
    for path in sorted({path for part in parts for path in part}, key=_place):
        held = [(*part[path], weight) for part, weight in zip(parts, weights, strict=True) if path in part]
        if len({(b.shape[0], a.shape[1]) for b, a, _, _ in held}) > 1:
            shapes = [f"{b.shape[0]} x {a.shape[1]}" for b, a, _, _ in held]
            raise JaxlvError("adapters of different bases", where=".".join(path), found=" and ".join(shapes))
        a_RI = jnp.concatenate([jnp.asarray(a, jnp.float32) for _, a, _, _ in held])
        b_OR = jnp.concatenate([jnp.float32(s * weight) * jnp.asarray(b, jnp.float32) for b, _, s, weight in held], axis=1)
        free = rank - len(a_RI)
        found[(*path, "A")], found[(*path, "B")] = jnp.pad(a_RI, ((0, free), (0, 0))), jnp.pad(b_OR, ((0, 0), (0, free)))
        found[(*path, "scale")] = jnp.float32(1.0)
    heads = [weight * lora["lm_head"]["bias"] for lora, weight in zip(loras, weights, strict=True) if "lm_head" in lora]
    if heads:
        found[("lm_head", "bias")] = sum(heads[1:], heads[0])
    return traverse_util.unflatten_dict(found)


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Returns a row for each projection that either overlay adapts: layer, projection, norm_a, norm_b, cosine, outputs,
    inputs.

    The norms are Frobenius norms of dW in weight units; `cosine` is that between both updates as vectors. `outputs` and
    `inputs` are the overlap of the subspaces spanned by their left and right singular vectors, |U_a^T U_b|^2 / min(rank of
    a, rank of b), from 0 (orthogonal) to 1 (the smaller lies in the larger; Hu et al. 2021, eq. 4). NaN if an update is
    zero.
    """
    both = [{path: decomposed(*update) for path, update in updates(lora).items()} for lora in (a, b)]
    rows = []
    for path in sorted({*both[0], *both[1]}, key=_place):
        norms = [float(np.linalg.norm(one[path].s_R)) if path in one else 0.0 for one in both]
        row = {"layer": _place(path)[0], "projection": path[-1], "norm_a": norms[0], "norm_b": norms[1]}
        if all(norms):
            (u_a, s_a, v_a), (u_b, s_b, v_b) = both[0][path], both[1][path]
            if len(u_a) != len(u_b) or len(v_a) != len(v_b):
                found = f"{len(u_a)} x {len(v_a)} and {len(u_b)} x {len(v_b)}"
                raise JaxlvError("adapters of different bases", where=".".join(path), found=found)
            inner = float(np.sum((u_a * s_a).T @ u_b * ((v_a.T @ v_b) * s_b)))
            used = [int((s_R > LEAST * s_R[0]).sum()) for s_R in (s_a, s_b)]
            row["cosine"] = inner / (norms[0] * norms[1])
            for name, left, right in (("outputs", u_a, u_b), ("inputs", v_a, v_b)):
                row[name] = float(np.sum((left[:, : used[0]].T @ right[:, : used[1]]) ** 2)) / min(used)
        rows.append(row)
    columns = ["layer", "projection", "norm_a", "norm_b", "cosine", "outputs", "inputs"]
    return pd.DataFrame(rows, columns=columns)


def _no_head_weight(lora: Mapping[str, Any]) -> None:
    if "weight" in lora.get("lm_head", {}):
        raise JaxlvError("a trained head is not an update of the base", where="lm_head.weight", hint="merge it instead")
