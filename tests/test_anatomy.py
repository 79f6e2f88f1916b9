"""What tuning left behind: known spectra, known biases, known norms."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxlv.analysis import anatomy
from jaxlv.errors import JaxlvError
from jaxlv.results.record import Record
from jaxlv.text.codec import SYMBOLS
from jaxlv.text.tokens import token_texts

RANK = 4


def held(result: Record) -> dict[str, Any]:
    """What JSON holds of a result, from which the same is read again."""
    tree = json.loads(json.dumps(result.tree(), allow_nan=False))
    assert type(result).read(tree, "x") == result
    return tree


# ---------------------------------------------------------------------------------------------- training


def test_curves_say_what_clipping_left():
    history = [
        {"step": 1, "loss": 2.0, "gradient_norm": 4.0, "clipped_norm": 1.0, "seconds": 1.0},
        {"step": 2, "loss": 1.5, "gradient_norm": 0.8, "clipped_norm": 0.8},
        {"step": 2, "validation_loss": 1.7},
        {"step": 3, "loss": 1.0, "gradient_norm": 2.0, "clipped_norm": 1.0},
        {"step": 3, "validation_loss": 1.2},
        {"step": 4, "loss": 0.9, "gradient_norm": 0.0, "clipped_norm": 0.0},
        {"step": 4, "validation_loss": 1.3},
        {"step": 5, "loss": 0.95, "gradient_norm": 0.5, "clipped_norm": 0.5},
    ]
    found = held(anatomy.training_curves(history, clip_norm=1.0))
    assert found["ratio"] == {"least": 0.25, "median": 1.0, "greatest": 1.0}
    assert found["gradient_norm"] == {"least": 0.0, "median": 0.8, "greatest": 4.0}
    assert found["share_clipped"] == 0.4 and found["clip_norm"] == 1.0
    assert (found["first_loss"], found["last_loss"], found["logged_steps"]) == (2.0, 0.95, 5)
    assert (found["best_validation_loss"], found["best_validation_step"]) == (1.2, 3)
    assert len(found["records"]) == len(history) and "seconds" not in found["records"][0]


def test_a_run_without_validation_or_clipping():
    found = held(anatomy.training_curves([{"step": 1, "loss": 2.0}], clip_norm=0.0))
    assert found["best_validation_loss"] is found["ratio"] is found["clip_norm"] is None


def test_no_record_of_a_loss_is_an_error():
    with pytest.raises(JaxlvError, match="no losses"):
        anatomy.training_curves([{"step": 5, "validation_loss": 1.0}], clip_norm=0.0)


# ----------------------------------------------------------------------------------------------- the head


@pytest.fixture(scope="module")
def alphabet(tiny_base):
    from jaxlv.text.tokens import load_alphabet

    return load_alphabet(tiny_base, 32)


def bias_of(values: dict[str, float], alphabet, rest: float = -0.0005) -> dict:
    bias_V = np.full(32, rest, np.float32)
    for symbol, value in values.items():
        bias_V[alphabet.ids_A[SYMBOLS.index(symbol)]] = value
    return {"lm_head": {"bias": jnp.asarray(bias_V)}}


def test_the_positive_entries_of_a_bias(alphabet, tiny_base):
    lora = bias_of({".": 0.03, ",": 0.02, "7": 0.01, "5": 0.005, "1": -0.02}, alphabet)
    found = held(anatomy.head_change(lora, {}, alphabet, lambda ids: token_texts(tiny_base, ids)))
    assert (found["kind"], found["entries"], found["positive"], found["negative"]) == ("bias", 32, 4, 28)
    assert [entry["text"] for entry in found["positive_tokens"]] == [".", ",", "7", "5"]
    assert [entry["text"] for entry in found["largest"][:4]] == [".", ",", "7", "5"]
    assert len(found["largest"]) == 30 and found["largest"][-1]["value"] == pytest.approx(-0.0005)
    assert found["median"] == pytest.approx(-0.0005) and found["least"] == pytest.approx(-0.02)
    assert found["symbols"]["1"] == {"id": 16, "value": pytest.approx(-0.02), "rank": 32}
    assert found["symbols"]["."]["rank"] == 1 and set(found["symbols"]) == set(SYMBOLS)
    assert sum(found["histogram"]["counts"]) == 32 and len(found["histogram"]["edges"]) == 61
    against = found["against_report"]
    assert not against["same"] and against["both"] == [",", ".", "7"] and against["symbols_here_only"] == ["5"]
    assert against["report_only"] == ["0", "2", "9", ";"] and against["others_here_only"] == 0


def test_entries_that_did_not_move_are_neither_positive_nor_negative(alphabet, tiny_base):
    lora = bias_of({"3": 0.02, "4": -0.01, "5": -0.03}, alphabet, rest=0.0)
    found = held(anatomy.head_change(lora, {}, alphabet, lambda ids: token_texts(tiny_base, ids)))
    assert [found[key] for key in ("entries", "moved", "positive", "negative")] == [32, 3, 1, 2]
    assert found["median"] == 0 and (found["least"], found["greatest"]) == pytest.approx((-0.03, 0.02))


def test_the_report_s_seven_are_recognised(alphabet, tiny_base):
    lora = bias_of(dict.fromkeys(anatomy.REPORTED_POSITIVE, 0.01), alphabet)
    texts = lambda ids: token_texts(tiny_base, ids)  # noqa: E731
    assert anatomy.head_change(lora, {}, alphabet, texts).against_report.same
    others = {"lm_head": {"bias": lora["lm_head"]["bias"].at[3].set(0.5)}}  # a token that is no symbol
    against = anatomy.head_change(others, {}, alphabet, texts).against_report
    assert not against.same and against.others_here_only == 1


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own head"])
def test_a_full_head_shows_how_far_its_rows_moved(tied, alphabet, random_model, tiny_base):
    _, params = random_model(vocab_size=32, tie_word_embeddings=tied)
    weight_VD = params["model.embed_tokens" if tied else "lm_head"]["weight"]
    moved_VD = weight_VD.at[7, :4].add(2.0).at[9, 0].add(-3.0)
    lora = {"lm_head": {"weight": moved_VD}}
    found = held(anatomy.head_change(lora, params, alphabet, lambda ids: token_texts(tiny_base, ids)))
    assert (found["kind"], found["positive"], found["moved"]) == ("full", 2, 2)
    assert [(entry["id"], entry["value"]) for entry in found["largest"][:2]] == [
        (7, pytest.approx(4.0, rel=1e-5)),
        (9, pytest.approx(3.0, rel=1e-5)),
    ]
    assert "against_report" not in found


def test_a_frozen_head_has_nothing_to_show(alphabet):
    found = held(anatomy.head_change({}, {}, alphabet, lambda ids: []))
    assert found["kind"] == "frozen" and "did not train" in found["sentence"]


# ------------------------------------------------------------------------------------------ adapter spectra


def orthonormal(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


@pytest.mark.parametrize(
    ("values", "effective", "stable", "first"),
    [
        ([2, 2, 2, 2], 4, 4, 0.25), ([5, 0, 0, 0], 1, 1, 1), ([3, 3, 0, 0], 2, 2, 0.5), ([0, 0, 0, 0], 0, 0, 0),
        ([4, 2, 1, 1], 2**1.75, 22 / 16, 16 / 22),  # shares 1/2, 1/4, 1/8, 1/8: an entropy of 1.75 bits
    ],
)  # fmt: skip
def test_ranks_of_known_spectra(values, effective, stable, first):
    found = anatomy.spectrum(np.array(values, float))
    assert found == pytest.approx((effective, stable, first, np.linalg.norm(values)))


def hand_made(params, values_R: np.ndarray, random_lora) -> dict:
    """An overlay whose every scale * B A has these singular values, or each those of its own row."""
    flat = traverse_util.flatten_dict(random_lora(params, rank=RANK, alpha=8.0, targets=("q", "down"), head="frozen"))
    for seed, path in enumerate(path[:-1] for path in list(flat) if path[-1] == "A"):
        a_RI, b_OR = flat[(*path, "A")], flat[(*path, "B")]
        flat[(*path, "A")] = jnp.asarray(orthonormal(a_RI.shape[1], RANK, seed).T, jnp.float32)
        columns_OR = orthonormal(b_OR.shape[0], RANK, seed + 99) * np.broadcast_to(values_R, (4, RANK))[seed]
        flat[(*path, "B")] = jnp.asarray(columns_OR / float(flat[(*path, "scale")]), jnp.float32)
    return traverse_util.unflatten_dict(flat)


def test_spectra_of_a_hand_made_overlay(random_model, random_lora):
    _, params = random_model()
    found = held(anatomy.adapter_spectra(hand_made(params, np.array([3.0, 3, 3, 0]), random_lora), params))
    places = [(entry["layer"], entry["projection"]) for entry in found["projections"]]
    assert places == [(layer, name) for layer in (0, 1) for name in ("q_proj", "down_proj")]
    for entry in found["projections"]:
        np.testing.assert_allclose(entry["singular_values"], [3, 3, 3, 0], atol=1e-5)
        assert entry["effective_rank"] == pytest.approx(3, abs=1e-3) and entry["rank"] == RANK
        block = params[f"model.layers.{entry['layer']}"]["self_attn" if entry["projection"] == "q_proj" else "mlp"]
        weight_norm = np.linalg.norm(block[entry["projection"]]["weight"])
        assert entry["relative_norm"] == pytest.approx(27**0.5 / weight_norm, rel=1e-4)
    assert found["used"] == pytest.approx(0.75, abs=1e-3) and "well used" in found["sentence"]
    assert "3.0 of 4" in found["sentence"] and "0 of 4 projections" in found["sentence"]


def test_one_direction_is_hardly_a_rank_and_zero_is_none(random_model, random_lora):
    _, params = random_model()
    one = anatomy.adapter_spectra(hand_made(params, np.array([3.0, 0.01, 0, 0]), random_lora), params)
    assert "hardly used" in one.sentence and "4 of 4 projections" in one.sentence
    none = anatomy.adapter_spectra(hand_made(params, np.zeros(RANK), random_lora), params)
    assert "zero" in none.sentence and none.used == 0


@pytest.mark.parametrize(
    ("values", "words", "most"),
    [([3, 1, 0, 0], "partly", 4), ([3, 2, 0, 0], "partly", 4), ([3, 3, 1, 0], "well", 0), ([1, 0.05, 0, 0], "hardly", 4)],
)
def test_the_rank_is_well_used_from_two_thirds_of_it_on_and_hardly_below_one(values, words, most, random_model, random_lora):
    """Effective ranks of 1.75, 1.96, 2.73 and 1.21 of 4: by stable ranks the third would be 2.1, and partly used."""
    _, params = random_model()
    found = anatomy.adapter_spectra(hand_made(params, np.array(values, float), random_lora), params)
    assert f"is {words} used" in found.sentence and f"and {most} of 4 projections put more than half" in found.sentence


def test_the_summary_is_of_the_median_projection(random_model, random_lora):
    """Three projections of one direction, and one of four: 1 in the median, 1.75 on average."""
    _, params = random_model()
    values = np.array([[2.0, 0, 0, 0]] * 3 + [[2.0, 2, 2, 2]])
    found = held(anatomy.adapter_spectra(hand_made(params, values, random_lora), params))
    for rank in ("effective_rank", "stable_rank"):
        assert found["summary"][rank] == pytest.approx({"least": 1, "median": 1, "greatest": 4})
    assert found["used"] == pytest.approx(0.25) and "spreads over 1.0 of 4" in found["sentence"]


def test_an_overlay_without_adapters_is_an_error(random_model):
    with pytest.raises(JaxlvError, match="no adapted projection"):
        anatomy.adapter_spectra({"lm_head": {"bias": jnp.zeros(61)}}, random_model()[1])
