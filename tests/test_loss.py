"""Cross-entropy in chunks: optax's value and gradients, without the logits of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlv.lora import overlay
from jaxlv.model.qwen2 import Head, project
from jaxlv.steps import loss, train
from jaxlv.text.tokens import IGNORED, Windows

B, T, D, V = 2, 7, 5, 11


def case(seed: int = 0, dtype: str = "float32") -> tuple[jax.Array, Head, np.ndarray]:
    generator = np.random.default_rng(seed)
    x_BTD, weight_VD, bias_V = (jnp.asarray(generator.normal(size=s), dtype) for s in [(B, T, D), (V, D), (V,)])
    labels_BT = generator.integers(0, V, (B, T))
    labels_BT[generator.random((B, T)) < 0.3] = IGNORED
    return x_BTD, Head(weight_VD, bias_V.astype(jnp.float32)), labels_BT


def full(x_BTD: jax.Array, head: Head, labels_BT: Any) -> jax.Array:
    """Returns the same sum, by optax on all logits at once."""
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(project(x_BTD, head), jnp.maximum(labels_BT, 0))
    return jnp.where(labels_BT != IGNORED, nll_BT, 0.0).sum()


def chunked(monkeypatch, tokens: int) -> None:
    """Limits a chunk to so many tokens."""
    monkeypatch.setattr(loss, "CHUNK_LOGITS", tokens * V)


@pytest.mark.parametrize("chunk", [1, 4, 8, 1000], ids=lambda n: f"chunks of {n}")  # 2 x 7 tokens: 4, 8 leave a rest
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_value_and_gradients_are_optax_s(monkeypatch, chunk, bias):
    chunked(monkeypatch, chunk)
    x_BTD, head, labels_BT = case()
    head = head if bias else Head(head.weight_VD, None)
    total, count = loss.cross_entropy(x_BTD, head, labels_BT)
    assert count == (labels_BT != IGNORED).sum()
    np.testing.assert_allclose(total, full(x_BTD, head, labels_BT), rtol=1e-6)
    ours = jax.grad(lambda x, h: 3 * loss.cross_entropy(x, h, labels_BT)[0], argnums=(0, 1))(x_BTD, head)
    theirs = jax.grad(lambda x, h: 3 * full(x, h, labels_BT), argnums=(0, 1))(x_BTD, head)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_a_frozen_head_takes_one_exponential_of_each_logit():
    """Nor a one-hot in their size: as few arrays of B * T * V as there can be."""
    x_BTD, head, labels_BT = case()
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: loss.cross_entropy(x, Head(head.weight_VD, None), labels_BT)[0]))(x_BTD)
    large = [one.primitive.name for one in equations(jaxpr.jaxpr) if one.outvars[0].aval.size == B * T * V]
    assert sorted(large) == ["dot_general", "exp", "sub"]


@pytest.mark.parametrize("at_once", [1, 3 * V, 2**29])
def test_the_logits_that_are_held_at_once_are_a_matter_of_speed(at_once):
    x_BTD, head, labels_BT = case()
    plain, cut = (
        jax.value_and_grad(lambda x, n=n: loss.cross_entropy(x, head, labels_BT, n)[0])(x_BTD) for n in (0, at_once)
    )
    np.testing.assert_allclose(plain[0], cut[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1], cut[1], rtol=0, atol=2e-5)
    assert loss.chunks_of(B, T, V, at_once).size == max(1, min(T, at_once // (B * V)))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "frozen"])
def test_logits_in_bfloat16_are_those_rounded(bias):
    """The loss of rounded logits, and its gradient."""
    x_BTD, head, labels_BT = case(dtype="bfloat16")
    head = head if bias else Head(head.weight_VD, None)

    def rounded(x_BTD, weight_VD, bias_V):
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, weight_VD).astype(jnp.float32)
        logits_BTV = logits_BTV if bias_V is None else logits_BTV + bias_V
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, jnp.maximum(labels_BT, 0))
        return jnp.where(labels_BT != IGNORED, nll_BT, 0.0).sum()

    ours, d_ours = jax.value_and_grad(lambda x: loss.cross_entropy(x, head, labels_BT, narrow=True)[0])(x_BTD)
    theirs, d_theirs = jax.value_and_grad(rounded)(x_BTD, *head)
    wide = loss.cross_entropy(x_BTD, head, labels_BT)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert abs(wide / theirs - 1) > 1e-5
    np.testing.assert_allclose(*(np.asarray(one, np.float32) for one in (d_ours, d_theirs)), rtol=0, atol=3e-2)


@pytest.mark.parametrize("wanted", ["x_BTD", "weight_VD", "bias_V"])
def test_each_gradient_alone(monkeypatch, wanted):
    chunked(monkeypatch, 4)
    x_BTD, head, labels_BT = case()
    given = {"x_BTD": x_BTD, **head._asdict()}

    def of(function):
        def scalar(value):
            a = {**given, wanted: value}
            return function(a["x_BTD"], Head(a["weight_VD"], a["bias_V"]), labels_BT)

        return jax.grad(scalar)(given[wanted])

    np.testing.assert_allclose(of(lambda *a: loss.cross_entropy(*a)[0]), of(full), rtol=0, atol=1e-5)


def test_ignored_labels_have_no_loss_and_no_gradient():
    x_BTD, head, labels_BT = case()
    total, count = loss.cross_entropy(x_BTD, head, np.full_like(labels_BT, IGNORED))
    assert (total, count) == (0, 0)
    gradient = jax.grad(lambda x: loss.cross_entropy(x, head, labels_BT)[0])(x_BTD)
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, labels_BT != IGNORED)


def test_sums_add_up_over_parts():
    x_BTD, head, labels_BT = case()
    parts = [loss.cross_entropy(x_BTD[i : i + 1], head, labels_BT[i : i + 1]) for i in range(B)]
    whole = loss.cross_entropy(x_BTD, head, labels_BT)
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


def test_huge_logits_are_finite():
    x_BTD, head, labels_BT = case()
    head = Head(1e4 * head.weight_VD, head.bias_V)
    total, gradient = jax.value_and_grad(lambda x: loss.cross_entropy(x, head, labels_BT)[0])(x_BTD)
    assert np.isfinite(total) and np.isfinite(gradient).all()


def test_bfloat16_states_give_a_float32_loss():
    x_BTD, head, labels_BT = case(dtype="bfloat16")
    (total, _), gradient = jax.value_and_grad(loss.cross_entropy, has_aux=True)(x_BTD, head, labels_BT)
    assert total.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    exact = full(x_BTD.astype(jnp.float32), Head(head.weight_VD.astype(jnp.float32), head.bias_V), labels_BT)
    np.testing.assert_allclose(total, exact, rtol=1e-2)


def sizes(jaxpr: Any) -> Iterator[int]:
    """Yields the number of elements of every array that a jaxpr, and those within it, compute."""
    for equation in equations(jaxpr):
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_the_logits_of_a_batch_never_exist(random_model, random_lora, monkeypatch):
    """In the program of the overlay's gradient no array has B * L * V elements; in the plain program one does."""
    vocabulary, rows, length, chunk = 8192, 2, 32, 8
    monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk * vocabulary)
    model, params = random_model(vocab_size=vocabulary, hidden_size=8, head_dim=2, num_hidden_layers=1)
    variables = {"params": params, "lora": random_lora(params)}
    trained, frozen = overlay.split(variables, overlay.trainable(variables))
    ids_BL = np.zeros((rows, length), np.int32)
    batch = Windows(ids_BL, np.tile(np.arange(length), (rows, 1)), ids_BL)

    def ours(trained):
        return train.window_loss(model, overlay.join(trained, frozen), batch)[0]

    def plain(trained):
        logits_BLV = model.apply(overlay.join(trained, frozen), ids_BL)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BLV, ids_BL).sum()

    largest = {f: max(sizes(jax.make_jaxpr(jax.grad(f))(trained).jaxpr)) for f in (ours, plain)}
    assert largest[plain] >= rows * length * vocabulary
    assert largest[ours] <= chunk * vocabulary


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_restricted_loss_is_the_softmax_over_the_alphabet(bias):
    x_BTD, head, labels_BT = case()
    head = head if bias else Head(head.weight_VD, None)
    alphabet_A = np.array([9, 2, 5])
    total, count = loss.cross_entropy(x_BTD, *loss.restrict(head, labels_BT, alphabet_A))
    log_p_BTA = jax.nn.log_softmax(project(x_BTD, head)[..., alphabet_A])
    expected = [
        -log_p_BTA[b, t, list(alphabet_A).index(labels_BT[b, t])]
        for b, t in np.ndindex(B, T)
        if labels_BT[b, t] in alphabet_A  # labels outside the alphabet have no loss
    ]
    assert count == len(expected) > 0
    np.testing.assert_allclose(total, np.sum(expected), rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 1000], ids=lambda n: f"chunks of {n}")
def test_losses_token_by_token_are_those_of_both_softmaxes(monkeypatch, chunk):
    chunked(monkeypatch, chunk)
    x_BTD, head, labels_BT = case()
    alphabet_A = np.array([9, 2, 5])
    by_vocabulary, by_alphabet = loss.token_losses(x_BTD, head, jnp.asarray(labels_BT), alphabet_A)
    logits_BTV = np.asarray(project(x_BTD, head), float)
    for b, t in np.ndindex(B, T):
        label = labels_BT[b, t]
        weights_V = np.exp(logits_BTV[b, t])
        for found, total in ((by_vocabulary, weights_V.sum()), (by_alphabet, weights_V[alphabet_A].sum())):
            foreign = found is by_alphabet and label not in alphabet_A
            expected = 0.0 if label == IGNORED else np.inf if foreign else -np.log(weights_V[label] / total)
            assert found[b, t] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("batch", "length", "vocabulary", "chunks"),
    [
        (4, 512, 151_936, (64, 8, 0)),  # 441 tokens: 110 of each row, of which 64 is the divisor
        (2, 320, 151_936, (160, 2, 0)),
        (4, 500, 151_936, (100, 5, 0)),
        (1, 1000, 151_936, (250, 4, 0)),  # not 441, 441 and 118
        (4, 509, 151_936, (102, 4, 101)),  # a prime: as few as possible, all equal except the last
        (1, 131, 151_936, (131, 1, 0)),
        (7, 3, 2**30, (1, 3, 0)),  # at least one token of each row
        (1, 2048, 61, (2048, 1, 0)),
    ],
)
def test_chunks_hold_every_token_once(batch, length, vocabulary, chunks):
    size, whole, rest = found = loss.chunks_of(batch, length, vocabulary)
    assert found == chunks
    assert whole * size + rest == length and found.number == whole + (rest > 0)
    assert size == 1 or batch * size * vocabulary <= loss.CHUNK_LOGITS
