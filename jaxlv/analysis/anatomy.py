"""What tuning left behind: the curves of the training, the change of the LM head, the spectra of the adapters.

Axes: V vocabulary, R rank, I and O inputs and outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxlv.errors import JaxlvError
from jaxlv.lora.arithmetic import decomposed, updates
from jaxlv.results.anatomy import (
    MEASURES,
    AgainstPaper,
    Entry,
    Head,
    Histogram,
    Logged,
    Projection,
    Spectra,
    Spread,
    SymbolEntry,
    Training,
)
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import Alphabet

# ---------------------------------------------------------------------------------------------- training

CURVES = ("loss", "validation_loss", "gradient_norm", "clipped_norm", "learning_rate", "forecast_mae")


def training_curves(history: Sequence[Mapping[str, Any]], clip_norm: float) -> Training:
    """Returns losses and gradient norms by step, from the records of metrics.jsonl, and what clipping left of the gradients.

    `clip_norm` 0 is no clipping. Raises JaxlvError if no record has a loss.
    """
    records = tuple(Logged(**{key: record[key] for key in ("step", *CURVES) if key in record}) for record in history)
    losses = [record.loss for record in records if record.loss is not None]
    if not losses:
        raise JaxlvError("no losses in the records of the training", where="metrics.jsonl")
    validated = [(one.validation_loss, one.step) for one in records if one.validation_loss is not None]
    norms = np.array([(r.gradient_norm, r.clipped_norm) for r in records if r.clipped_norm is not None], float).reshape(
        -1, 2
    )
    ratios = np.divide(norms[:, 1], norms[:, 0], out=np.ones(len(norms)), where=norms[:, 0] > 0)
    return Training(
        records=records,
        logged_steps=len(losses),
        first_loss=losses[0],
        last_loss=losses[-1],
        best_validation_loss=min(validated)[0] if validated else None,
        best_validation_step=min(validated)[1] if validated else None,
        clip_norm=clip_norm or None,
        gradient_norm=Spread.of(norms[:, 0]),
        ratio=Spread.of(ratios),
        share_clipped=(ratios < 1 - 1e-6).mean() if len(ratios) else None,
    )


# ----------------------------------------------------------------------------------------------- the head

SHOWN = 30
REPORT, REPORTED_POSITIVE, REPORTED_MEDIAN = "mao", (".", ",", ";", "0", "2", "7", "9"), -0.0005  # its section 7


def head_change(
    lora: Mapping[str, Any], params: Mapping[str, Any], alphabet: Alphabet, texts: Callable[[Sequence[int]], list[str]]
) -> Head:
    """Returns what training changed in the LM head: the bias of each token, or the Euclidean norm of the change of its row
    of the weight. `texts(ids)` returns the texts of tokens; it is called for the largest entries and the largest positive
    ones.
    """
    leaves = lora.get("lm_head", {})
    if "bias" in leaves:
        kind, value_V = "bias", np.asarray(leaves["bias"], float)
    elif "weight" in leaves:
        before = params["lm_head" if "lm_head" in params else "model.embed_tokens"]["weight"]
        kind, value_V = "full", np.asarray(jnp.linalg.norm(leaves["weight"] - before.astype(jnp.float32), axis=1), float)
    else:
        return Head(kind="frozen", sentence="The LM head did not train in this run: there is nothing to see.")
    rank_V = np.empty(len(value_V), int)
    rank_V[np.argsort(-value_V, kind="stable")] = np.arange(1, len(value_V) + 1)
    largest, positive = np.argsort(-value_V, kind="stable")[:SHOWN], np.flatnonzero(value_V > 0)
    named = positive[np.argsort(-value_V[positive], kind="stable")][: 10 * SHOWN]
    counts, edges = np.histogram(value_V, bins=60)
    words_of = dict(zip((every := sorted({*largest.tolist(), *named.tolist()})), texts(every), strict=True))
    ids = zip(SYMBOLS, alphabet.ids_A.tolist(), strict=True)
    return Head(
        kind=kind,
        units={"value": "natural log units of the odds" if kind == "bias" else "norm of a row's change, weight units"},
        entries=len(value_V),
        moved=int((value_V != 0).sum()),
        positive=len(positive),
        negative=int((value_V < 0).sum()),
        median=float(np.median(value_V)),
        least=value_V.min(),
        greatest=value_V.max(),
        largest=tuple(Entry(i, words_of[i], value_V[i]) for i in largest.tolist()),
        positive_tokens=tuple(Entry(i, words_of[i], value_V[i]) for i in named.tolist()),
        histogram=Histogram(edges.tolist(), counts.tolist()),
        symbols={symbol: SymbolEntry(i, value_V[i], rank_V[i]) for symbol, i in ids},
        against_report=_against_paper([words_of[i] for i in named.tolist()], len(positive)) if kind == "bias" else None,
    )


def _against_paper(texts: Sequence[str], positive: int) -> AgainstPaper:
    """Returns the positive tokens beside those that a paper found after tuning Qwen2.5-0.5B, with all of its 151,936
    entries.
    """
    ours, theirs = set(texts), set(REPORTED_POSITIVE)
    return AgainstPaper(
        report=REPORT,
        positive=REPORTED_POSITIVE,
        median=REPORTED_MEDIAN,
        same=ours == theirs and positive == len(theirs),
        both=tuple(sorted(ours & theirs)),
        report_only=tuple(sorted(theirs - ours)),
        symbols_here_only=tuple(sorted((ours & set(SYMBOLS)) - theirs)),
        others_here_only=positive - len(ours & set(SYMBOLS)),
    )


# ------------------------------------------------------------------------------------------ adapter spectra


class Ranks(NamedTuple):
    """How many directions singular values use, and their norm."""

    effective_rank: float = 0.0
    stable_rank: float = 0.0
    first_share: float = 0.0
    norm: float = 0.0


def spectrum(values_R: np.ndarray) -> Ranks:
    """Returns how many directions singular values use: effective rank exp(-sum p log p) with p = s / sum s (Roy and Vetterli
    2007, EUSIPCO), stable rank sum s^2 / max s^2, and the first direction's share of sum s^2; all 0 for a product that is 0.
    """
    total, squares = values_R.sum(), values_R**2
    if not total:
        return Ranks()
    p_R = values_R[values_R > 0] / total
    return Ranks(
        effective_rank=np.exp(-(p_R * np.log(p_R)).sum()),
        stable_rank=squares.sum() / squares.max(),
        first_share=squares.max() / squares.sum(),
        norm=np.sqrt(squares.sum()),
    )


def adapter_spectra(lora: Mapping[str, Any], params: Mapping[str, Any]) -> Spectra:
    """Returns the spectrum of scale * B A of every adapted projection, its norm beside the frozen weight's, and whether the
    rank is used. Raises JaxlvError if the overlay adapts nothing.
    """
    base = traverse_util.flatten_dict(dict(params))
    found = []
    for path, (b_OR, a_RI, scale) in updates(lora).items():
        values_R = decomposed(b_OR, a_RI, scale).s_R
        ranks, place = spectrum(values_R), (int(path[0].rpartition(".")[2]), path[-1], len(a_RI))
        weight_norm = float(jnp.linalg.norm(base[(*path, "weight")].astype(jnp.float32)))
        found.append(Projection(*place, *ranks, weight_norm, ranks.norm / weight_norm, values_R.tolist()))
    if not found:
        raise JaxlvError("no adapted projection", where="adapter")
    rank, summary = found[0].rank, {key: Spread.of([getattr(one, key) for one in found]) for key in MEASURES}
    middle = summary["effective_rank"]
    used = middle.median / rank if middle and middle.median else 0.0
    sentence = _rank_sentence(rank, used, found)
    return Spectra(rank=rank, projections=tuple(found), used=used, summary=summary, sentence=sentence)


def _rank_sentence(rank: int, used: float, found: Sequence[Projection]) -> str:
    """Says whether the rank is used."""
    if not any(one.norm for one in found):
        return "The adapters are zero: nothing of the rank is used yet."
    word = "hardly" if used < 1 / 3 else "partly" if used < 2 / 3 else "well"
    concentrated = sum(one.first_share > 0.5 for one in found)
    return (
        f"The rank is {word} used: the median projection spreads over {used * rank:.1f} of {rank} directions (effective"
        f" rank), and {concentrated} of {len(found)} projections put more than half of their squared norm into one."
    )
