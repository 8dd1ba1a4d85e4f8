"""The gap tree against its readable form: four plain sequences, one by one."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.data.features import Example
from pit_jax.model.scoring import end_scores, tree_gaps
from pit_jax.objectives.gap import gap_loss
from tests.world import four_sequences

NAMES = ("wl", "ww", "ll", "lw")
WINDOWS = {"window": 5, "windowed": (True, False), "window_rope_theta": 50.0}  # positions count along a branch
BIASED = {"norm": "layer", "qkv_bias": True, "parallel": True, "activation": "gelu", "rope_share": 0.5}


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module")
def gaps(world: Any) -> Any:
    return jax.jit(partial(tree_gaps, world.scalar))


def four_rows(examples: list[Example]) -> tuple[Any, Any]:
    """The readable form: [prefix + reference + suffix + candidate EOS], a row each, in the order of NAMES [4 B, L]."""
    plain = four_sequences(examples)
    longest = max(plain[f"tokens_{name}_BL"].shape[1] for name in NAMES)
    tokens, segments = [], []
    for name in NAMES:
        tokens_BL = plain[f"tokens_{name}_BL"]
        tokens.append(np.pad(tokens_BL, ((0, 0), (0, longest - tokens_BL.shape[1]))))
        segments.append(np.arange(longest)[None] <= plain[f"end_{name}_B"][:, None])
    return np.concatenate(tokens), np.concatenate(segments).astype(np.int32)


@pytest.mark.parametrize(
    "changes", [{"pooled_head": True}, {}, WINDOWS, BIASED], ids=["pooled", "last", "windows", "neox"]
)
def test_the_tree_equals_four_plain_sequences(world: Any, examples: list[Example], changes: dict[str, Any]) -> None:
    """With both kinds of scalar head, and where layers see a window."""
    model = replace(world, config=replace(world.config, **changes)).scalar
    params = world.draw(model, 0)
    tree = jax.jit(partial(tree_gaps, model))(params, world.batch("gap", examples))
    plain = jax.jit(partial(end_scores, model))(params, *four_rows(examples))
    plain_4B = np.split(np.asarray(plain), 4)
    for name, plain_B in zip(NAMES, plain_4B, strict=True):
        np.testing.assert_allclose(tree[name], plain_B, rtol=1e-5, atol=1e-5)
    assert np.abs(plain_4B[0] - plain_4B[3]).max() > 0.1, "the gaps of a pair differ"


def test_the_tree_has_the_gradient_of_four_plain_sequences(world: Any, params: Any, examples: list[Example]) -> None:
    batch, plain = world.batch("gap", examples), four_rows(examples)

    def tree_loss(params: Any) -> jax.Array:
        found = tree_gaps(world.scalar, params, batch)
        return gap_loss(*(found[name] for name in NAMES))[0]

    def readable_loss(params: Any) -> jax.Array:
        return gap_loss(*jnp.split(end_scores(world.scalar, params, *plain), 4))[0]

    value, gradient = jax.jit(jax.value_and_grad(tree_loss))(params)
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


def test_junk_in_padding_changes_no_gap(world: Any, params: Any, examples: list[Example], gaps: Any) -> None:
    batch = world.batch("gap", examples)
    padding = batch.nodes_BL == 0
    assert padding.any()
    junk = replace(
        batch,
        tokens_BL=np.where(padding, 33, batch.tokens_BL),
        positions_BL=np.where(padding, 9, batch.positions_BL),
    )
    for found_B, expected_B in zip(gaps(params, junk).values(), gaps(params, batch).values(), strict=True):
        np.testing.assert_array_equal(found_B, expected_B)
