"""The training step against PyTorch and PEFT on the same weights, and what a step, a batch and a resumed run must hold."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from jaxlv.config import OptimizerConfig
from jaxlv.lora import overlay
from jaxlv.lora.overlay import PROJECTIONS
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs.checkpoint import Checkpoints
from jaxlv.steps import train
from jaxlv.text.tokens import IGNORED, NO_POSITION, Windows, stack, window

L = 16  # tokens of a window
ADAM = OptimizerConfig(learning_rate=1e-2)


def some_windows(vocabulary: int, count: int, seed: int = 0, side: str = "right") -> Windows:
    """Windows of random tokens and lengths, padded; some labels within are masked as well."""
    generator = np.random.default_rng(seed)
    rows = [window(generator.integers(0, vocabulary, generator.integers(5, L + 1)), L, side) for _ in range(count)]
    windows = stack(rows, L)
    windows.labels_ML[generator.random((count, L)) < 0.1] = IGNORED
    return windows


def in_micro_batches(windows: Windows, accumulate: int = 1) -> Windows:
    return Windows(*(array.reshape(accumulate, -1, L) for array in windows))


def copied(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def assert_trees_equal(tree: Any, other: Any) -> None:
    chex.assert_trees_all_equal(copied(tree), copied(other))


class Task:
    """A tiny model with an overlay, ready to train."""

    def __init__(self, random_model, random_lora, config: OptimizerConfig = ADAM, steps: int = 100, **lora: Any):
        self.model, params = random_model(num_hidden_layers=1)
        self.variables = {"params": params, "lora": random_lora(params, **lora)}
        self.mask = overlay.trainable(self.variables)
        self.config, self.steps, self.optimizer = config, steps, train.make_optimizer(config, steps)
        self.step = train.make_train_step(self.model, self.optimizer, config, steps)

    def start(self, seed: int = 0) -> tuple[train.TrainState, Any]:
        return train.init_state(self.variables, self.mask, self.optimizer, seed)

    def batch(self, seed: int = 0, count: int = 4) -> Windows:
        return in_micro_batches(some_windows(self.model.config.vocab_size, count, seed))


@pytest.fixture(scope="module")
def task(random_model, random_lora) -> Task:
    return Task(random_model, random_lora)


@pytest.fixture(scope="module")
def dropout_task(random_model, random_lora) -> Task:
    """A task with dropout, under a schedule of 8 steps."""
    config = dataclasses.replace(ADAM, schedule="cosine", warmup_steps=2)
    return Task(random_model, random_lora, config, steps=8, dropout=0.5)


# Against PyTorch and PEFT

ours_and_theirs = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # what PEFT calls there


class Torch:
    """The same base and overlay in transformers + PEFT, with the bias on the logits as a parameter of its own."""

    def __init__(self, hf: Any, lora: dict[str, Any], targets: tuple[str, ...], rank: int, scaling: float):
        import peft
        import torch

        settings = peft.LoraConfig(r=rank, lora_alpha=scaling * rank, target_modules=list(targets), lora_dropout=0.0)
        self.torch, self.model = torch, peft.get_peft_model(copy.deepcopy(hf), settings)
        self.trained: dict[tuple[str, ...], Any] = {}
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                *path, kind, _, _ = name.removeprefix("base_model.model.").split(".")
                module = (".".join(path[:3]), *path[3:])
                self.trained[(*module, kind.removeprefix("lora_"))] = weight
        self.trained["lm_head", "bias"] = torch.nn.Parameter(torch.zeros(hf.config.vocab_size))
        flat = traverse_util.flatten_dict(lora)
        assert self.trained.keys() == {path for path in flat if path[-1] in overlay.TRAINED_LEAVES}
        with torch.no_grad():
            for path, weight in self.trained.items():
                weight.copy_(torch.tensor(np.asarray(flat[path])))

    def loss(self, windows: Windows) -> tuple[Any, int]:
        """(sum of token losses, number of real tokens)."""
        ids, positions, labels = (self.torch.tensor(array, dtype=self.torch.long) for array in windows)
        real = (positions != NO_POSITION).long()
        logits = self.model(ids, attention_mask=real, position_ids=positions.clamp(min=0)).logits
        logits = logits + self.trained["lm_head", "bias"]
        total = self.torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total, int((labels != IGNORED).sum())


SETTINGS = {
    "q, v": (("q_proj", "v_proj"), {"rank": 4}),
    "all linear, alpha 2r": (PROJECTIONS, {"rank": 2, "alpha": 4.0}),
}


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def both(request, random_hf, through_disk, random_lora) -> tuple[Qwen2, dict[str, Any], Torch]:
    """(model, variables, the same in PyTorch)."""
    pytest.importorskip("peft", reason="parity of LoRA needs PEFT")
    targets, settings = request.param
    hf = random_hf(tie_word_embeddings=targets == PROJECTIONS)
    model, params = through_disk(hf)
    lora = random_lora(params, targets=targets, **settings)
    scaling = float(lora["model.layers.0"]["self_attn"]["q_proj"]["scale"])
    return model, {"params": params, "lora": lora}, Torch(hf, lora, targets, settings["rank"], scaling)


def relative(ours: Any, theirs: Any) -> float:
    """|ours - theirs| / |theirs|, as vectors."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs.detach(), np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@ours_and_theirs
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_are_those_of_peft(both, side):
    model, variables, torch_side = both
    windows = some_windows(model.config.vocab_size, 5, side=side)
    trained, frozen = overlay.split(variables, overlay.trainable(variables))

    def ours(trained):
        return train.window_loss(model, overlay.join(trained, frozen), windows)

    (loss, tokens), gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))(trained)
    total, count = torch_side.loss(windows)
    theirs = torch_side.torch.autograd.grad(total, list(torch_side.trained.values()))
    assert tokens == count
    assert abs(float(loss) / total.item() - 1) <= 1e-4
    flat = traverse_util.flatten_dict(gradients["lora"])
    for path, gradient in zip(torch_side.trained, theirs, strict=True):
        assert relative(flat[path], gradient) <= 1e-4, path


@ours_and_theirs
@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(learning_rate=2e-3),
        OptimizerConfig(name="adamw", learning_rate=2e-3, weight_decay=0.1, clip_norm=0.5),
    ],
    ids=["adam", "adamw, clipped"],
)
def test_steps_track_torch(both, config):
    """After 10 steps each tensor has moved as PyTorch's has, to 0.1 % of the distance moved."""
    model, variables, torch_side = both
    torch, start = torch_side.torch, {path: weight.detach().clone() for path, weight in torch_side.trained.items()}
    optimizer = train.make_optimizer(config, 10)
    state, frozen = train.init_state(variables, overlay.trainable(variables), optimizer, 0)
    step = train.make_train_step(model, optimizer, config, 10)
    groups = [
        {"params": [w for w in torch_side.trained.values() if w.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [w for w in torch_side.trained.values() if w.ndim == 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    torch_optimizer = kind(groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.eps)
    try:
        for n in range(10):
            windows = some_windows(model.config.vocab_size, 3, seed=n)
            state, metrics = step(state, frozen, in_micro_batches(windows))
            torch_optimizer.zero_grad()
            total, count = torch_side.loss(windows)
            (total / count).backward()
            norm = torch.nn.utils.clip_grad_norm_(torch_side.trained.values(), config.clip_norm or np.inf)
            torch_optimizer.step()
            np.testing.assert_allclose(metrics.gradient_norm, norm, rtol=1e-3)
            np.testing.assert_allclose(metrics.clipped_norm, min(norm, config.clip_norm or np.inf), rtol=1e-3)
            np.testing.assert_allclose(metrics.loss_sum, total.item(), rtol=1e-4)
        flat = traverse_util.flatten_dict(state.trained["lora"])
        for path, weight in torch_side.trained.items():
            moved = weight.detach() - start[path]
            assert relative(np.asarray(flat[path]) - start[path].numpy(), moved) <= 1e-3, path
    finally:
        with torch.no_grad():
            for path, weight in torch_side.trained.items():
                weight.copy_(start[path])
                weight.grad = None


# A step


def test_micro_batches_are_one_batch(task):
    windows = some_windows(task.model.config.vocab_size, 4)
    after = {}
    for accumulate in (1, 2):
        state, frozen = task.start()
        state, metrics = task.step(state, frozen, in_micro_batches(windows, accumulate))
        after[accumulate] = (copied(state.trained), copied(metrics))
    chex.assert_trees_all_close(after[1][1], after[2][1], rtol=1e-5)
    chex.assert_trees_all_close(after[1][0], after[2][0], rtol=0, atol=1e-3 * ADAM.learning_rate)


RECIPES = {
    "adam": ADAM,
    "adamw, clipped": dataclasses.replace(ADAM, name="adamw", weight_decay=0.1, clip_norm=0.1),
    "muon": dataclasses.replace(ADAM, name="muon"),
}


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_a_state_stacked_over_layers_takes_the_same_steps(random_model, random_lora, config):
    """With fewer, larger arrays, which are donated; Muon's matrices stay apart. Taken apart it is a checkpoint's again."""
    model, params = random_model(num_hidden_layers=2)
    lora = random_lora(params, targets=("q_proj", "down_proj"), rank=2, alpha=6.0)
    variables, optimizer = {"params": params, "lora": lora}, train.make_optimizer(config, 9)
    step = train.make_train_step(model, optimizer, config, 9)
    plain, frozen = train.init_state(variables, overlay.trainable(variables), optimizer, 0)
    stacked = train.stacked(train.init_state(variables, overlay.trainable(variables), optimizer, 0)[0], config)
    assert_trees_equal(train.unstacked(stacked).opt_state, plain.opt_state)
    assert_trees_equal(overlay.join(train.unstacked(stacked).trained, frozen), variables)
    arrays = len(jax.tree.leaves(stacked.trained))
    assert arrays == (2 * 4 + 1 if config.name == "muon" else 4 + 1)  # and the bias of the head
    for n in range(3):
        batch = in_micro_batches(some_windows(model.config.vocab_size, 4, n), 2)
        plain, theirs = step(plain, frozen, batch)
        before, (stacked, ours) = jax.tree.leaves(stacked.trained), step(stacked, frozen, batch)
        assert all(leaf.is_deleted() for leaf in before)
        np.testing.assert_allclose(ours.array, theirs.array, rtol=1e-5)
    after = train.unstacked(stacked)
    assert jax.tree.structure(after) == jax.tree.structure(plain)
    chex.assert_trees_all_close(after.trained, plain.trained, rtol=0, atol=1e-3 * config.learning_rate)


def test_layers_that_are_computed_again_have_the_same_gradients(random_model, random_lora):
    """With dropout, whose numbers are drawn again."""
    model, params = random_model(num_hidden_layers=2)
    variables = {"params": params, "lora": random_lora(params, rank=2, dropout=0.3)}
    trained, frozen = overlay.split(variables, overlay.trainable(variables))
    windows, found, parts = some_windows(model.config.vocab_size, 5), [], []
    for how in (train.How(), train.How(remat=True)):

        def loss(trained, how=how):
            return train.window_loss(model, overlay.join(trained, frozen), windows, None, jax.random.key(3), how)[0]

        parts.append(str(jax.make_jaxpr(jax.grad(loss))(trained)).count("remat"))
        found.append(jax.jit(jax.value_and_grad(loss))(trained))
    assert parts[1] > parts[0]
    chex.assert_trees_all_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_layers_that_differ_are_not_stacked(random_model, random_lora):
    """An adapter of some layers only, or of another rank in one of them, trains as it is; so does a base."""
    _, params = random_model(num_hidden_layers=2)
    lora = random_lora(params)
    some = {name: layer for name, layer in lora.items() if name != "model.layers.0"}
    other = {**lora, "model.layers.1": random_lora(params, rank=3)["model.layers.1"]}
    for tree in (some, other, params):
        assert jax.tree.structure(overlay.by_kind(tree)) == jax.tree.structure(tree)
    without_scale = jax.tree_util.tree_map_with_path(lambda path, leaf: None if path[-1].key == "scale" else leaf, lora)
    assert "model.layers" in overlay.by_kind(without_scale)


def test_a_scale_that_is_no_power_of_two_is_applied_before_b_is_rounded(random_model, random_lora):
    """Stacked or not, in bfloat16: the same product of B and its scale."""
    model, params = random_model(num_hidden_layers=2, dtype=jnp.bfloat16)
    variables = {"params": params, "lora": random_lora(params, rank=3, alpha=4.0)}
    trained, frozen = overlay.split(variables, overlay.trainable(variables))
    windows = some_windows(model.config.vocab_size, 3)
    joined = (overlay.joined(one, frozen, model.dtype) for one in (trained, overlay.by_kind(trained)))
    plain, stacked = (train.window_loss(model, one, windows)[0] for one in joined)
    assert plain == stacked


def test_the_options_of_the_compiler_are_those_of_a_gpu_on_a_gpu_alone(random_model, monkeypatch):
    """Except for weights in few bits, which would outlive their layer on a CPU."""
    model, _ = random_model()
    few = model.clone(weights="nf4")
    assert train.compiler_options(model) is None and train.compiler_options(few) == train.QUANTISED_CPU_OPTIONS
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert train.compiler_options(model) == train.compiler_options(few) == train.CUDA_OPTIONS


def test_only_the_overlay_moves(task):
    before = copied(task.variables)
    state, frozen = task.start()
    for n in range(3):
        state, _ = task.step(state, frozen, task.batch(n))
    after = copied(overlay.join(state.trained, frozen))
    assert_trees_equal(after["params"], before["params"])
    assert_trees_equal(task.variables, before)  # the step donates its state, never what the caller gave
    for path, trained in traverse_util.flatten_dict(task.mask["lora"]).items():
        a, b = (traverse_util.flatten_dict(tree["lora"])[path] for tree in (before, after))
        assert np.array_equal(a, b) == (not trained), path


def test_optimiser_state_holds_trained_leaves_only(task):
    state, _ = task.start()
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * overlay.count_trained(task.variables, task.mask)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_traced_once_for_many_steps(task, monkeypatch, accumulate):
    traces = []
    loss = train.window_loss
    monkeypatch.setattr(train, "window_loss", lambda *arguments: traces.append(1) or loss(*arguments))
    step = train.make_train_step(task.model, task.optimizer, task.config, task.steps)
    state, frozen = task.start()
    for n in range(4):
        state, _ = step(state, frozen, in_micro_batches(some_windows(task.model.config.vocab_size, 4, n), accumulate))
        if n == 0:
            first = len(traces)
    assert len(traces) == first > 0


def test_keys_are_used_once(task):
    with jax.debug_key_reuse(True):
        state, frozen = task.start()
        for n in range(2):
            state, _ = task.step(state, frozen, task.batch(n))


def test_clipping_and_its_metrics(random_model, random_lora):
    """gradient_norm is the norm of the gradient of the mean loss per token; clipped_norm is at most clip_norm."""
    task = Task(random_model, random_lora, dataclasses.replace(ADAM, clip_norm=0.01))
    state, frozen = task.start()
    batch = task.batch()

    def mean_loss(trained):
        total, tokens = train.window_loss(task.model, overlay.join(trained, frozen), batch.rows(0))
        return total / tokens

    norm = optax.tree.norm(jax.jit(jax.grad(mean_loss))(state.trained))
    _, metrics = task.step(state, frozen, batch)
    np.testing.assert_allclose(metrics.gradient_norm, norm, rtol=1e-4)
    assert metrics.gradient_norm > 0.01
    np.testing.assert_allclose(metrics.clipped_norm, 0.01, rtol=1e-6)


def test_a_batch_without_labels_changes_nothing(task):
    state, frozen = task.start()
    ids, positions, labels = task.batch()
    state, metrics = task.step(state, frozen, Windows(ids, positions, np.full_like(labels, IGNORED)))
    assert (metrics.loss_sum, metrics.tokens, metrics.gradient_norm) == (0, 0, 0)
    assert_trees_equal(overlay.join(state.trained, frozen), task.variables)


def test_dropout_follows_the_seed(dropout_task):
    losses = []
    for seed in (0, 0, 1):
        _, metrics = dropout_task.step(*dropout_task.start(seed), dropout_task.batch())
        losses.append(float(metrics.loss_sum))
    assert losses[0] == losses[1] != losses[2]


def test_dropout_is_fresh_at_each_step_and_in_each_micro_batch(dropout_task):
    """The warm-up begins at rate 0: the second step has the same weights as the first, and the same batch."""
    state, frozen = dropout_task.start()
    batch = dropout_task.batch()
    state, first = dropout_task.step(state, frozen, batch)
    _, second = dropout_task.step(state, frozen, batch)
    assert first.learning_rate == 0 and first.loss_sum != second.loss_sum
    assert abs(first.loss_sum / second.loss_sum - 1) < 0.5
    silent = batch._replace(labels_ML=np.full_like(batch.labels_ML, IGNORED))  # the same windows, none of whose tokens count
    placed = [Windows(*map(np.concatenate, zip(*pair, strict=True))) for pair in ((batch, silent), (silent, batch))]
    here, there = (dropout_task.step(*dropout_task.start(), both)[1] for both in placed)
    assert here.tokens == there.tokens == first.tokens
    np.testing.assert_allclose(here.loss_sum, first.loss_sum, rtol=1e-5)
    assert abs(here.loss_sum - there.loss_sum) > 1e-3 * first.loss_sum


def test_validation_is_the_loss_without_dropout(task, dropout_task):
    windows, sums = task.batch().rows(0), []
    for each in (task, dropout_task):  # the same weights
        state, frozen = each.start()
        sums.append(train.make_validation_step(each.model)(state.trained, frozen, windows))
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)


def test_loss_over_the_alphabet_is_the_constrained_likelihood(task):
    windows, alphabet_A = task.batch().rows(0), np.array([3, 7, 11, 20])
    ids = np.random.default_rng(0).choice(alphabet_A, windows.ids_ML.shape)
    windows = Windows(ids, windows.positions_ML, np.where(windows.labels_ML == IGNORED, IGNORED, ids))
    total, tokens = jax.jit(lambda: train.window_loss(task.model, task.variables, windows, alphabet_A))()
    logits_BLV = jax.jit(task.model.apply)(task.variables, windows.ids_ML, windows.positions_ML)
    log_p_BLA = jax.nn.log_softmax(logits_BLV[..., alphabet_A])
    real = windows.labels_ML != IGNORED
    expected = -log_p_BLA[real, np.searchsorted(alphabet_A, windows.labels_ML[real])].sum()
    assert tokens == real.sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_two_steps_of_adam_by_hand(name):
    """Kingma and Ba 2015, algorithm 1; AdamW's decay is of matrices alone (Loshchilov and Hutter 2019, algorithm 2)."""
    rate, b1, b2, eps, decay = 0.1, 0.6, 0.8, 0.5, 0.2 if name == "adamw" else 0.0
    config = OptimizerConfig(name=name, learning_rate=rate, b1=b1, b2=b2, eps=eps, weight_decay=decay)
    optimizer = train.make_optimizer(config, 10)
    ours = {"A": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    theirs = {key: np.asarray(leaf, float) for key, leaf in ours.items()}
    state, m, v = optimizer.init(ours), dict.fromkeys(ours, 0.0), dict.fromkeys(ours, 0.0)
    for t, scale in ((1, 1.0), (2, -0.5)):
        gradients = {"A": scale * np.array([[0.3, 4.0]]), "bias": scale * np.array([-0.7])}
        updates, state = optimizer.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        for key, g in gradients.items():
            m[key], v[key] = b1 * m[key] + (1 - b1) * g, b2 * v[key] + (1 - b2) * g**2
            moved = m[key] / (1 - b1**t) / (np.sqrt(v[key] / (1 - b2**t)) + eps)
            theirs[key] = theirs[key] - rate * (moved + (decay if key == "A" else 0.0) * theirs[key])
    for key, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[key], rtol=1e-5)


def test_muon_takes_steps_of_one_size_along_every_direction_of_a_matrix():
    config = OptimizerConfig(name="muon", learning_rate=1e-2, vector_rate=0.1)
    optimizer = train.make_optimizer(config, 10)
    generator = np.random.default_rng(0)
    gradients = {"A": jnp.asarray(generator.normal(size=(4, 64)) * [[100], [10], [1], [0.1]]), "bias": jnp.arange(1.0, 9.0)}
    start = jax.tree.map(jnp.zeros_like, gradients)
    update, _ = optimizer.update(gradients, optimizer.init(start), start)
    sizes = np.linalg.svd(update["A"], compute_uv=False)
    assert sizes.max() < 2 * sizes.min()
    assert np.all((update["bias"] > -2e-3) & (update["bias"] <= -1e-3))  # Adam's first step, at a tenth of the rate


# Schedules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 50: 1.0, 100: 1.0}),
        ({"schedule": "constant", "warmup_steps": 10}, {0: 0.0, 5: 0.5, 10: 1.0, 100: 1.0}),
        ({"schedule": "cosine", "warmup_steps": 10}, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        ({"schedule": "cosine", "final_fraction": 0.1}, {0: 1.0, 50: 0.55, 100: 0.1}),
        ({"schedule": "onecycle", "warmup_steps": 29}, {0: 1 / 25, 29: 1.0, 100: 1e-4}),
        ({"schedule": "onecycle", "warmup_steps": 50}, {0: 1 / 25, 25: 0.52, 50: 1.0, 75: 0.5, 100: 1e-4}),
    ],
    ids=str,
)
def test_schedules_at_start_peak_and_end(settings, expected):
    schedule = train.learning_rates(OptimizerConfig(learning_rate=2e-3, **settings), 100)
    for step, share in expected.items():
        np.testing.assert_allclose(schedule(step), 2e-3 * share, rtol=1e-3, atol=1e-9)
    assert max(float(schedule(step)) for step in range(0, 101)) <= 2e-3 * (1 + 1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (5, 5), (5, 9)])
def test_schedules_of_short_runs_are_finite(schedule, steps, warmup):
    rates = train.learning_rates(OptimizerConfig(learning_rate=1e-3, schedule=schedule, warmup_steps=warmup), steps)
    assert all(0 <= float(rates(step)) <= 1e-3 * (1 + 1e-6) for step in range(steps + 1))


def test_reported_rate_is_the_rate_of_the_step(dropout_task):
    state, frozen = dropout_task.start()
    expected = train.learning_rates(dropout_task.config, dropout_task.steps)
    for n in range(3):
        before = copied(state.trained)
        state, metrics = dropout_task.step(state, frozen, dropout_task.batch(n))
        np.testing.assert_allclose(metrics.learning_rate, expected(n), rtol=1e-6)
        moved = optax.tree.norm(jax.tree.map(np.subtract, copied(state.trained), before))
        assert (moved > 0) == (expected(n) > 0)


# Batches


def numbered(epoch: int, count: int = 10) -> Windows:
    """Windows that say which they are: ids are the window's number, positions the epoch."""
    ids = np.repeat(np.arange(count, dtype=np.int32)[:, None], L, axis=1)
    return Windows(ids, np.full_like(ids, epoch), ids)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 1), (3, 1), (2, 2), (4, 3)])
def test_every_window_once_an_epoch(batch_size, accumulate):
    batches = train.Batches(numbered, batch_size, accumulate)
    drawn = [batches(step) for step in range(30)]
    assert drawn[0].ids_ML.shape == (accumulate, batch_size, L)
    numbers = np.concatenate([batch.ids_ML[..., 0].ravel() for batch in drawn])
    epochs = np.concatenate([batch.positions_ML[..., 0].ravel() for batch in drawn])
    whole = len(numbers) // 10 * 10
    np.testing.assert_array_equal(epochs, np.arange(len(numbers)) // 10)
    np.testing.assert_array_equal(np.sort(numbers[:whole].reshape(-1, 10)), np.tile(np.arange(10), (whole // 10, 1)))
    assert not np.array_equal(numbers[:10], numbers[10:20])


def test_batches_are_a_function_of_the_step():
    one, other = train.Batches(numbered, 4, seed=3), train.Batches(numbered, 4, seed=3)
    forward = [one(step) for step in range(12)]
    for step in reversed(range(12)):
        assert_trees_equal(other(step), forward[step])
    assert any(not np.array_equal(train.Batches(numbered, 4, seed=4)(n).ids_ML, forward[n].ids_ML) for n in range(2))


# A run


def run(task: Task, state: train.TrainState, frozen: Any, steps: int, save: Any = None) -> tuple[train.TrainState, dict]:
    """(state after `steps`, {step: loss})."""
    losses: dict[int, float] = {}
    windows = some_windows(task.model.config.vocab_size, 7)
    for step in train.steps(task.step, state, frozen, train.Batches(lambda _: windows, 4), steps):
        state, losses[step.number] = step.state, step.figures()["loss"]
        if save:
            save(step.number, state)
    return state, losses


def test_resumed_run_is_the_uninterrupted_run_bit_for_bit(dropout_task, tmp_path):
    task = dropout_task
    whole, losses = run(task, *task.start(), 8)
    assert list(losses) == list(range(1, 9))
    with Checkpoints(tmp_path) as checkpoints:
        state, frozen = task.start()
        _, first = run(task, state, frozen, 5, save=lambda n, state: n == 3 and checkpoints.save(n, state))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [3]
        fresh, frozen = task.start(seed=1)
        restored = checkpoints.restore(3, like=fresh)
        resumed, second = run(task, restored, frozen, 8)
    assert first == {n: losses[n] for n in range(1, 6)}
    assert second == {n: losses[n] for n in range(4, 9)}
    assert_trees_equal(resumed._replace(key=0), whole._replace(key=0))
    assert resumed.key.tolist() == whole.key.tolist()


def test_training_lowers_the_loss(task):
    _, losses = run(task, *task.start(), 40)
    assert losses[40] < 0.7 * losses[1]


@pytest.mark.parametrize("runs", [1, 3])
def test_the_clock_of_a_step_by_hand(runs, monkeypatch):
    """A step takes from the moment that the one before was known to its own, less what was done while the device stood
    still; several runs share it evenly.
    """
    now = 0.0
    monkeypatch.setattr(train.time, "perf_counter", lambda: now)
    values = np.full(runs, 10.0) if runs > 1 else np.float32(10.0)
    metrics = train.StepMetrics(np.stack([values, values / 2, values, values, values], axis=-1))
    taken = train.steps(
        lambda state, frozen, batch: (state._replace(step=state.step + 1), metrics),
        train.TrainState(jnp.int32(0), {}, None, None), {}, lambda n: n, 3,
    )  # fmt: skip
    first = next(taken)
    now = 1.0
    second = next(taken)
    now = 6.0
    assert first.figures()["seconds"] == pytest.approx(6.0 / runs)
    now = 8.0
    assert second.figures()["seconds"] == pytest.approx(2.0 / runs)
    now = 100.0  # its state is looked at, before the third is dispatched
    third = next(taken)
    now = 107.0
    assert third.figures()["seconds"] == pytest.approx([7.0 / runs] * runs if runs > 1 else 7.0)
    assert [step.number for step in (first, second, third)] == [1, 2, 3] and next(taken, None) is None


def test_no_step_is_dispatched_before_it_is_asked_for(task):
    made: list[int] = []
    state, frozen = task.start()
    taken = train.steps(task.step, state, frozen, lambda n: made.append(n) or task.batch(n), 9)
    found = [next(taken), next(taken)]
    assert int(found[-1].state.step) == 2 and made == [0, 1]
    assert not found[0].known and found[0].figures() and found[0].known


def test_figures_of_a_step(task):
    state, frozen = task.start()
    figures = [step.figures() for step in train.steps(task.step, state, frozen, lambda n: task.batch(n), 2)]
    assert len(figures) == 2
    for row in figures:
        np.testing.assert_allclose(row["perplexity"], np.exp(row["loss"]))
        assert row["tokens_per_second"] > 0
        assert set(row) == {
            "loss",
            "perplexity",
            "tokens",
            "gradient_norm",
            "clipped_norm",
            "learning_rate",
            "seconds",
            "tokens_per_second",
        }
