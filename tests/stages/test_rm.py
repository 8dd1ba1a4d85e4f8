"""Scores of sequences, and the gap tree against its readable form: four plain sequences, one by one."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.progress import Progress

from pit_jax.batch import GapBatch
from pit_jax.config import Config
from pit_jax.data.features import Example
from pit_jax.data.stream import Stream
from pit_jax.objectives.gap import gap_loss
from pit_jax.stages import rm
from pit_jax.stages.rm import gap_accuracy, make_gap_loss, make_reward_loss, sequence_scores, tree_gaps
from pit_jax.stages.supervised import Task

NAMES = ("wl", "ww", "ll", "lw")


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module")
def examples(world: Any) -> list[Example]:
    """Random ones, and the corners: empty answers, equal answers."""
    corners = [Example([9], [3, 9], [], [7, 8]), Example([9], [3], [7, 8], []), Example([8], [3, 8], [7], [7])]
    return [*world.examples(5), *corners]


@pytest.fixture(scope="module")
def scores(world: Any) -> Any:
    return jax.jit(partial(sequence_scores, world.scalar))


@pytest.fixture(scope="module")
def gaps(world: Any) -> Any:
    return jax.jit(partial(tree_gaps, world.scalar))


def four_sequences(world: Any, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """The readable form: [prefix + reference + suffix + candidate EOS], a row each, in the order of NAMES [4 B, L]."""
    plain = world.four_sequences(examples)
    longest = max(plain[f"tokens_{name}_BL"].shape[1] for name in NAMES)
    tokens, segments = [], []
    for name in NAMES:
        tokens_BL = plain[f"tokens_{name}_BL"]
        tokens.append(np.pad(tokens_BL, ((0, 0), (0, longest - tokens_BL.shape[1]))))
        segments.append(np.arange(longest)[None] <= plain[f"end_{name}_B"][:, None])
    return np.concatenate(tokens), np.concatenate(segments).astype(np.int32)


WINDOWS = {"window": 5, "windowed": (True, False), "window_rope_theta": 50.0}  # positions count along a branch
BIASED = {"norm": "layer", "qkv_bias": True, "parallel": True, "activation": "gelu", "rope_share": 0.5}


@pytest.mark.parametrize(
    "changes", [{"pooled_head": True}, {}, WINDOWS, BIASED], ids=["pooled", "last", "windows", "neox"]
)
def test_the_tree_equals_four_plain_sequences(world: Any, examples: list[Example], changes: dict[str, Any]) -> None:
    """With both kinds of scalar head, and where layers see a window."""
    model = replace(world, config=replace(world.config, **changes)).scalar
    params = world.draw(model, 0)
    tree = jax.jit(partial(tree_gaps, model))(params, world.batch("gap", examples))
    plain = jax.jit(partial(sequence_scores, model))(params, *four_sequences(world, examples))
    plain_4B = np.split(np.asarray(plain), 4)
    for name, plain_B in zip(NAMES, plain_4B, strict=True):
        np.testing.assert_allclose(tree[name], plain_B, rtol=1e-5, atol=1e-5)
    assert np.abs(plain_4B[0] - plain_4B[3]).max() > 0.1, "the gaps of a pair differ"


def test_the_tree_has_the_gradient_of_four_plain_sequences(world: Any, params: Any, examples: list[Example]) -> None:
    batch, plain = world.batch("gap", examples), four_sequences(world, examples)
    tree_loss = make_gap_loss(world.scalar)

    def readable_loss(params: Any) -> jax.Array:
        return gap_loss(*jnp.split(sequence_scores(world.scalar, params, *plain), 4))[0]

    value, gradient = jax.jit(jax.value_and_grad(lambda p: tree_loss(p, batch, jax.random.key(0))[0]))(params)
    expected_value, expected = jax.jit(jax.value_and_grad(readable_loss))(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    for found, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * largest)


def test_swapping_the_labels_swaps_the_gaps(world: Any, params: Any, examples: list[Example], gaps: Any) -> None:
    swapped = [Example(e.prompt, e.prefix, e.rejected, e.chosen) for e in examples]
    before, after = gaps(params, world.batch("gap", examples)), gaps(params, world.batch("gap", swapped))
    for name, other in (("wl", "lw"), ("lw", "wl"), ("ww", "ll"), ("ll", "ww")):
        np.testing.assert_allclose(after[name], before[other], rtol=1e-5, atol=1e-5)


def test_equal_answers_have_equal_gaps(world: Any, params: Any, examples: list[Example], gaps: Any) -> None:
    found = gaps(params, world.batch("gap", examples))
    for name in NAMES:
        np.testing.assert_allclose(found[name][-1], found["ww"][-1], rtol=1e-5)


def test_the_gap_loss_is_the_objective_on_the_trees_gaps(
    world: Any, params: Any, examples: list[Example], gaps: Any
) -> None:
    batch: GapBatch = world.batch("gap", examples)
    loss, metrics = jax.jit(make_gap_loss(world.scalar))(params, batch, jax.random.key(0))
    found = {name: np.asarray(gap_B, np.float64) for name, gap_B in gaps(params, batch).items()}
    pairs = (("wl", "ww"), ("wl", "ll"), ("wl", "lw"), ("ww", "lw"), ("ll", "lw"))
    expected = sum(np.log1p(np.exp(found[b] - found[a])) for a, b in pairs).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["gap/mean_wl"].value, found["wl"].mean(), rtol=1e-5)
    assert float(metrics["loss"].count) == len(examples)


def test_a_score_is_read_at_the_last_real_token(world: Any, params: Any, scores: Any) -> None:
    """Whatever the padding side, and whatever the padding holds."""
    row = [9, 12, 7, 30, 1]
    padded = {"left": (0, 3), "right": (3, 0), "both": (1, 2)}
    tokens_BL = np.array([[33] * a + row + [33] * b for a, b in padded.values()], np.int32)
    segments_BL = np.array([[0] * a + [1] * 5 + [0] * b for a, b in padded.values()], np.int32)
    found_B = scores(params, tokens_BL, segments_BL)
    alone_1 = scores(params, np.array([row], np.int32), np.ones((1, 5), np.int32))
    np.testing.assert_allclose(found_B, np.broadcast_to(alone_1, 3), rtol=1e-5)
    shorter_1 = scores(params, np.array([row[:4]], np.int32), np.ones((1, 4), np.int32))
    assert abs(float(shorter_1[0] - alone_1[0])) > 1e-2, "another token has another scalar"


def test_the_reward_loss_is_bradley_terry_on_scores(
    world: Any, params: Any, examples: list[Example], scores: Any
) -> None:
    batch = world.batch("reward", examples)
    loss, metrics = jax.jit(make_reward_loss(world.scalar))(params, batch, jax.random.key(0))
    chosen_B = np.asarray(scores(params, batch.chosen_BL, batch.chosen_segments_BL), np.float64)
    rejected_B = np.asarray(scores(params, batch.rejected_BL, batch.rejected_segments_BL), np.float64)
    np.testing.assert_allclose(loss, np.log1p(np.exp(rejected_B - chosen_B)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].value, (chosen_B > rejected_B).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"].value, (chosen_B - rejected_B).mean(), rtol=1e-4)


def test_the_reward_loss_subtracts_the_margins_of_its_rows(
    world: Any, params: Any, examples: list[Example], scores: Any
) -> None:
    margins = [0.5 * i for i in range(len(examples))]
    batch = world.batch("reward", [replace(e, margin=m) for e, m in zip(examples, margins, strict=True)])
    loss, _ = jax.jit(make_reward_loss(world.scalar))(params, batch, jax.random.key(0))
    chosen_B = np.asarray(scores(params, batch.chosen_BL, batch.chosen_segments_BL), np.float64)
    rejected_B = np.asarray(scores(params, batch.rejected_BL, batch.rejected_segments_BL), np.float64)
    np.testing.assert_allclose(loss, np.log1p(np.exp(np.array(margins) + rejected_B - chosen_B)).mean(), rtol=1e-5)


def test_the_selection_score_is_the_mean_of_the_five_accuracies() -> None:
    metrics = {f"gap/acc_{i}": 0.1 * i for i in range(1, 6)} | {"loss": 9.0, "gap/mean_wl": 5.0}
    assert gap_accuracy(metrics) == pytest.approx(0.3)


def test_a_guard_is_the_gap_model_with_another_head_and_another_order(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same pairs, same loss and the same SFT weights below the head; its own folder and its own number of updates."""
    begun: dict[str, tuple[Task, Any]] = {}
    monkeypatch.setattr(
        rm, "fit", lambda context, task, start, bar: begun.update({task.folder.name: (task, start().trained)})
    )
    base = Config()
    context = place(replace(base, rm=replace(base.rm, improver_steps=7, guard_steps=5)))
    with Progress(disable=True) as progress:
        for model in ("improver", "guard"):
            rm.run(context, model, progress)
    (gap, gap_start), (guard, guard_start) = begun["rm-improver"], begun["rm-guard"]
    assert (gap.num_steps, guard.num_steps) == (7, 5)
    assert guard.score is gap.score
    heads = [np.asarray(start.pop("head")["kernel"]) for start in (gap_start, guard_start)]
    assert np.abs(heads[0] - heads[1]).min() > 0
    for a, b in zip(jax.tree.leaves(gap_start), jax.tree.leaves(guard_start), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [
        np.concatenate([Stream(t.arrays, batch_size=4, seed=t.seed).rows(i) for i in range(6)]) for t in (gap, guard)
    ]
    assert sorted(rows[0]) == sorted(rows[1]) and (rows[0] != rows[1]).any()
