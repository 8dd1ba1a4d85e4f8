"""Who sees whom, where positions start, and what rotary positions promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import NODE_PARENTS
from pit_jax.config import TransformerConfig
from pit_jax.model.attention import Cache, causal_visible, segment_positions, tree_visible
from pit_jax.model.rope import rope, rope_frequencies


@jax.jit
def turn(x_BLNH: jax.Array, positions_BL: jax.Array) -> jax.Array:
    return rope(x_BLNH, positions_BL, rope_frequencies(TransformerConfig(head_size=x_BLNH.shape[-1]), windowed=False))


segments = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=2, max_size=2)


@settings(deadline=None, max_examples=30)
@given(segments)
def test_a_token_sees_its_own_segment_up_to_itself(rows: list[list[int]]) -> None:
    visible_BLS = np.asarray(causal_visible(jnp.asarray(rows, jnp.int32)))
    for b, row in enumerate(rows):
        for i in range(6):
            for j in range(6):
                assert visible_BLS[b, i, j] == (j <= i and row[i] == row[j] != 0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 7), min_size=8, max_size=8), min_size=2, max_size=2))
def test_a_tree_token_sees_its_ancestors_only(rows: list[list[int]]) -> None:
    visible_BLS = np.asarray(tree_visible(jnp.asarray(rows, jnp.int32), NODE_PARENTS))
    for b, row in enumerate(rows):
        for i in range(8):
            for j in range(8):
                assert visible_BLS[b, i, j] == (j <= i and row[j] in NODE_PARENTS.get(row[i], ()))


def test_positions_count_real_tokens_whatever_the_padding_side() -> None:
    segments_BL = jnp.asarray([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], jnp.int32)
    positions_BL = np.asarray(segment_positions(segments_BL))
    assert [row[mask].tolist() for row, mask in zip(positions_BL, np.asarray(segments_BL) > 0, strict=True)] == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [],
    ]
    assert (positions_BL >= 0).all()


@pytest.mark.parametrize("shift", [1, 5, 100])
def test_rotary_scores_depend_on_the_distance_alone(shift: int) -> None:
    query, key = np.random.default_rng(0).normal(size=(2, 1, 4, 1, 8)).astype(np.float32)
    positions_1L = np.asarray([[0, 3, 4, 9]], np.int32)

    def scores(positions_1L: np.ndarray) -> np.ndarray:
        return np.einsum("BLNH,BSNH->BNLS", turn(query, positions_1L), turn(key, positions_1L))

    np.testing.assert_allclose(scores(positions_1L + shift), scores(positions_1L), atol=2e-5)
    assert np.abs(scores(2 * positions_1L) - scores(positions_1L)).max() > 0.1


def test_rotary_positions_turn_and_do_not_stretch() -> None:
    x_BLNH = np.random.default_rng(1).normal(size=(2, 3, 2, 8)).astype(np.float32)
    turned = np.asarray(turn(x_BLNH, np.asarray([[0, 1, 2], [0, 50, 7]], np.int32)))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x_BLNH, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x_BLNH[:, 0])
    radian = turn(np.asarray([1, 0], np.float32).reshape(1, 1, 1, 2), np.asarray([[1]], np.int32))
    np.testing.assert_allclose(radian.ravel(), [np.cos(1.0), np.sin(1.0)], rtol=1e-6)


def test_rotary_positions_keep_the_dtype() -> None:
    x_BLNH = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    assert turn(x_BLNH, np.asarray([[0, 1]], np.int32)).dtype == jnp.bfloat16


def test_the_cache_holds_key_value_heads_in_the_compute_dtype() -> None:
    config = TransformerConfig(layers=3, query_heads=4, kv_heads=2, head_size=6, dtype="bfloat16")
    cache = Cache.empty(config, 5, 7)
    assert cache.keys_UBKSH.shape == cache.values_UBKSH.shape == (3, 5, 2, 7, 6)
    assert cache.keys_UBKSH.dtype == cache.values_UBKSH.dtype == jnp.bfloat16
