"""The gap tree against its readable form: four plain sequences, one by one."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import TreeSlots
from pit_jax.config import TransformerConfig
from pit_jax.data.features import Example, tree_slots
from pit_jax.model import scoring
from pit_jax.model.flops import slots_that_pay
from pit_jax.model.rows import by_slots
from pit_jax.model.scoring import end_scores, tree_gaps
from pit_jax.objectives.gap import gap_loss
from tests.sequences import four_sequences

NAMES = ("wl", "ww", "ll", "lw")
WINDOWS = {"window": 5, "windowed": (True, False), "window_rope_theta": 50.0}  # positions count along a branch
BIASED = {"norm": "layer", "qkv_bias": True, "parallel": True, "activation": "gelu", "rope_share": 0.5}


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module", params=["rows", "slots"])
def slots(request: pytest.FixtureRequest, world: Any, examples: list[Example]) -> Iterator[TreeSlots | None]:
    """None where nodes lie side by side; else they have slots, whether that costs less or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "slots_that_pay", lambda config, most, length: most)
        yield tree_slots(world.layout(examples)) if request.param == "slots" else None


@pytest.fixture(scope="module")
def gaps(world: Any, slots: TreeSlots | None) -> Any:
    return jax.jit(partial(tree_gaps, world.scalar, slots=slots))


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
def test_the_tree_equals_four_plain_sequences(
    world: Any, examples: list[Example], slots: TreeSlots | None, changes: dict[str, Any]
) -> None:
    """With both kinds of scalar head, and where layers see a window."""
    model = replace(world, config=replace(world.config, **changes)).scalar
    params = world.draw(model, 0)
    tree = jax.jit(partial(tree_gaps, model, slots=slots))(params, world.batch("gap", examples))
    plain = jax.jit(partial(end_scores, model))(params, *four_rows(examples))
    plain_4B = np.split(np.asarray(plain), 4)
    for name, plain_B in zip(NAMES, plain_4B, strict=True):
        np.testing.assert_allclose(tree[name], plain_B, rtol=1e-5, atol=1e-5)
    assert np.abs(plain_4B[0] - plain_4B[3]).max() > 0.1, "the gaps of a pair differ"


def test_the_tree_has_the_gradient_of_four_plain_sequences(
    world: Any, params: Any, examples: list[Example], slots: TreeSlots | None
) -> None:
    batch, plain = world.batch("gap", examples), four_rows(examples)

    def tree_loss(params: Any) -> jax.Array:
        found = tree_gaps(world.scalar, params, batch, slots)
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


def test_nodes_in_slots_hold_what_they_held(world: Any, examples: list[Example]) -> None:
    batch, slots = world.batch("gap", examples), tree_slots(world.layout(examples))
    moved = jax.device_get(by_slots(batch, slots))
    each = [slots.trunk, *[slots.reference] * 2, *[slots.candidate] * 4]
    assert moved.tokens_BL.shape == moved.nodes_BL.shape == (len(examples), sum(each))
    for row in range(len(examples)):
        for node, (end, size) in enumerate(zip(np.cumsum(each), each, strict=True), start=1):
            before, after = batch.nodes_BL[row] == node, moved.nodes_BL[row] == node
            assert np.flatnonzero(after).tolist() == list(range(end - size, end - size + before.sum()))
            for name in ("tokens_BL", "positions_BL"):
                np.testing.assert_array_equal(getattr(moved, name)[row][after], getattr(batch, name)[row][before])
    for name in NAMES:
        places_B1 = np.asarray(getattr(moved, f"end_{name}_B"))[:, None]
        assert (np.take_along_axis(moved.tokens_BL, places_B1, axis=1) == world.layout(examples).eos_id).all()


def test_slots_are_taken_where_they_cost_less() -> None:
    """264 slots either way; then rows whose answers are far shorter than the longest one; then of a wide model."""
    narrow, most = TransformerConfig(width=64, query_heads=4, kv_heads=4, head_size=16, ffn=192), TreeSlots(24, 40, 40)
    assert slots_that_pay(narrow, most, 264) == most
    assert slots_that_pay(narrow, most, 48) is None
    assert slots_that_pay(narrow, TreeSlots(24, 600, 600), 2048) is None, "too long to be mixed at once"
    assert slots_that_pay(replace(narrow, attention="dense"), most, 264) is None
    wide = TransformerConfig(width=4096, query_heads=32, kv_heads=32, head_size=128, ffn=11008)
    assert slots_that_pay(narrow, most, 224) == most
    assert slots_that_pay(wide, most, 224) is None
