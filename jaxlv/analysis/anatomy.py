"""What tuning left behind: the curves of the training, the change of the LM head, the spectra of the adapters.

Each analysis gives a plain dictionary as json holds it, with its units and definitions.

Axes: V vocabulary, R rank, I and O inputs and outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.errors import JaxlvError
from jaxlv.lora.arithmetic import decomposed, updates
from jaxlv.results.record import plain
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import Alphabet

Tree = dict[str, Any]

# ---------------------------------------------------------------------------------------------- training

CURVES = ("loss", "validation_loss", "gradient_norm", "clipped_norm", "learning_rate", "forecast_mae")


def training_curves(history: Sequence[Mapping[str, Any]], clip_norm: float) -> Tree:
    """Losses and gradient norms by step, from the records of metrics.jsonl, and what clipping left of the gradients.

    `clip_norm` 0 is no clipping. JaxlvError where no record has a loss.
    """
    records = [{key: record[key] for key in ("step", *CURVES) if key in record} for record in history]
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    if not losses:
        raise JaxlvError("no losses in the records of the training", where="metrics.jsonl")
    validated = [(record["validation_loss"], record["step"]) for record in records if "validation_loss" in record]
    norms = np.array([(r["gradient_norm"], r["clipped_norm"]) for r in records if "clipped_norm" in r]).reshape(-1, 2)
    ratios = np.divide(norms[:, 1], norms[:, 0], out=np.ones(len(norms)), where=norms[:, 0] > 0)
    return plain(
        {
            "units": {"loss": "nats per real token", "norms": "nats per real token, per unit of the parameters"},
            "definitions": {
                "gradient_norm": "Euclidean norm of the gradient of the mean loss, over all that trains, before clipping",
                "ratio": "norm after clipping / norm before it",
            },
            "records": records,
            "logged_steps": len(losses),
            "first_loss": losses[0][1],
            "last_loss": losses[-1][1],
            "best_validation_loss": min(validated)[0] if validated else None,
            "best_validation_step": min(validated)[1] if validated else None,
            "clip_norm": clip_norm or None,
            "gradient_norm": _spread(norms[:, 0]),
            "ratio": _spread(ratios),
            "share_clipped": (ratios < 1 - 1e-6).mean() if len(ratios) else None,
        }
    )


def _spread(values: np.ndarray) -> Tree | None:
    if not len(values):
        return None
    return {"least": values.min(), "median": np.median(values), "greatest": values.max()}


# ----------------------------------------------------------------------------------------------- the head

SHOWN = 30
REPORT, REPORTED_POSITIVE, REPORTED_MEDIAN = "mao", (".", ",", ";", "0", "2", "7", "9"), -0.0005  # its section 7


def head_change(
    lora: Mapping[str, Any], params: Mapping[str, Any], alphabet: Alphabet, texts: Callable[[Sequence[int]], list[str]]
) -> Tree:
    """What trained of the LM head: the bias of each token, or the Euclidean norm of the change of its row of the weight.

    The largest entries with their tokens' text (`texts(ids)`), a histogram, the positive ones, the 13 symbols. "kind" is
    bias, full or frozen; a frozen head has nothing else.
    """
    leaves = lora.get("lm_head", {})
    if "bias" in leaves:
        kind, value_V = "bias", np.asarray(leaves["bias"], float)
    elif "weight" in leaves:
        before = params["lm_head" if "lm_head" in params else "model.embed_tokens"]["weight"]
        kind, value_V = "full", np.asarray(jnp.linalg.norm(leaves["weight"] - before.astype(jnp.float32), axis=1), float)
    else:
        return {"kind": "frozen", "sentence": "The LM head did not train in this run: there is nothing to see."}
    rank_V = np.empty(len(value_V), int)
    rank_V[np.argsort(-value_V, kind="stable")] = np.arange(1, len(value_V) + 1)
    largest, positive = np.argsort(-value_V, kind="stable")[:SHOWN], np.flatnonzero(value_V > 0)
    named = positive[np.argsort(-value_V[positive], kind="stable")][: 10 * SHOWN]
    counts, edges = np.histogram(value_V, bins=60)
    words_of = dict(zip((every := sorted({*largest.tolist(), *named.tolist()})), texts(every), strict=True))
    symbols = {
        symbol: {"id": id, "value": value_V[id], "rank": rank_V[id]}
        for symbol, id in zip(SYMBOLS, alphabet.ids_A.tolist(), strict=True)
    }
    found = {
        "kind": kind,
        "units": {"value": "natural log units of the odds" if kind == "bias" else "norm of a row's change, weight units"},
        "entries": len(value_V),
        "moved": int((value_V != 0).sum()),
        "positive": len(positive),
        "negative": int((value_V < 0).sum()),
        "median": np.median(value_V),
        "least": value_V.min(),
        "greatest": value_V.max(),
        "largest": [{"id": i, "text": words_of[i], "value": value_V[i]} for i in largest.tolist()],
        "positive_tokens": [{"id": i, "text": words_of[i], "value": value_V[i]} for i in named.tolist()],
        "histogram": {"edges": edges, "counts": counts},
        "symbols": symbols,
    }
    if kind == "bias":
        found["against_report"] = _against_report([words_of[i] for i in named.tolist()], len(positive))
    return plain(found)


def _against_report(texts: Sequence[str], positive: int) -> Tree:
    """The positive tokens beside those that a report found after tuning Qwen2.5-0.5B, all 151,936 entries of it."""
    ours, theirs = set(texts), set(REPORTED_POSITIVE)
    return {
        "report": REPORT,
        "positive": REPORTED_POSITIVE,
        "median": REPORTED_MEDIAN,
        "same": ours == theirs and positive == len(theirs),
        "both": sorted(ours & theirs),
        "report_only": sorted(theirs - ours),
        "symbols_here_only": sorted((ours & set(SYMBOLS)) - theirs),
        "others_here_only": positive - len(ours & set(SYMBOLS)),
    }


# ------------------------------------------------------------------------------------------ adapter spectra


def spectrum(values_R: np.ndarray) -> Tree:
    """How many directions singular values use: effective rank exp(-sum p log p) with p = s / sum s (Roy and Vetterli 2007,
    EUSIPCO), stable rank sum s^2 / max s^2, and the first direction's share of sum s^2; all 0 for a product that is 0.
    """
    total, squares = values_R.sum(), values_R**2
    if not total:
        return {"effective_rank": 0.0, "stable_rank": 0.0, "first_share": 0.0, "norm": 0.0}
    p_R = values_R[values_R > 0] / total
    return {
        "effective_rank": np.exp(-(p_R * np.log(p_R)).sum()),
        "stable_rank": squares.sum() / squares.max(),
        "first_share": squares.max() / squares.sum(),
        "norm": np.sqrt(squares.sum()),
    }


def adapter_spectra(lora: Mapping[str, Any], params: Mapping[str, Any]) -> Tree:
    """The spectrum of scale * B A of every adapted projection, its norm beside the frozen weight's, and whether the rank
    is used. JaxlvError where the overlay adapts nothing.
    """
    base = traverse_util.flatten_dict(dict(params))
    entries = []
    for path, (b_OR, a_RI, scale) in updates(lora).items():
        values_R = decomposed(b_OR, a_RI, scale).s_R
        entry = {"layer": int(path[0].rpartition(".")[2]), "projection": path[-1], "rank": len(a_RI), **spectrum(values_R)}
        weight_norm = float(jnp.linalg.norm(base[(*path, "weight")].astype(jnp.float32)))
        entries.append(
            {**entry, "weight_norm": weight_norm, "relative_norm": entry["norm"] / weight_norm, "singular_values": values_R}
        )
    if not entries:
        raise JaxlvError("no adapted projection", where="adapter")
    rank, summary = entries[0]["rank"], {}
    for key in ("effective_rank", "stable_rank", "first_share", "relative_norm"):
        summary[key] = _spread(np.array([entry[key] for entry in entries]))
    used = summary["effective_rank"]["median"] / rank if summary["effective_rank"] else 0.0
    return plain(
        {
            "units": {"singular_values, norm, weight_norm": "weight units", "relative_norm": "1", "first_share": "1"},
            "definitions": {
                "singular_values": "of scale * B A",
                "effective_rank": "exp(-sum p log p), p = s / sum s; 1 = one direction, the rank = all alike",
                "stable_rank": "sum s² / max s²",
                "first_share": "max s² / sum s²",
                "relative_norm": "Frobenius norm of scale * B A / that of the frozen weight",
                "used": "median effective rank / rank",
            },
            "rank": rank,
            "projections": entries,
            "used": used,
            "summary": summary,
            "sentence": _rank_sentence(rank, used, entries),
        }
    )


def _rank_sentence(rank: int, used: float, entries: Sequence[Tree]) -> str:
    """Whether the rank is used, in words."""
    if not any(entry["norm"] for entry in entries):
        return "The adapters are zero: nothing of the rank is used yet."
    word = "hardly" if used < 1 / 3 else "partly" if used < 2 / 3 else "well"
    concentrated = sum(entry["first_share"] > 0.5 for entry in entries)
    return (
        f"The rank is {word} used: the median projection spreads over {used * rank:.1f} of {rank} directions (effective"
        f" rank), and {concentrated} of {len(entries)} projections put more than half of their squared norm into one."
    )
