"""Attention by one mask against the plain form of the textbook, with its gradients as autodiff makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.model.mixing import MASKED, mixed_dense, softcap

B, L, K, G, S, H = 2, 5, 2, 3, 7, 4


def arrays(dtype: str = "float32") -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Queries, keys and values; a mask, of which every query sees something; weights of what is mixed."""
    rng = np.random.default_rng(0)
    shapes = (B, L, K, G, H), (B, K, S, H), (B, K, S, H), (B, L, K, G, H)
    *operands, weights = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return operands, jnp.asarray(rng.random((B, L, S)) < 0.5).at[:, :, 0].set(True), weights


def plain(
    query_BLKGH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, seen_BLS: jax.Array, cap: float
) -> jax.Array:
    """A query after the other."""
    scores_BLKGS = softcap(jnp.einsum("BLKGH,BKSH->BLKGS", query_BLKGH, key_BKSH), cap)
    weights_BLKGS = jax.nn.softmax(jnp.where(seen_BLS[:, :, None, None], scores_BLKGS, MASKED), axis=-1)
    return jnp.einsum("BLKGS,BKSH->BLKGH", weights_BLKGS, value_BKSH)


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("length", [L, 1], ids=["rows", "a step"])
def test_values_and_gradients_are_those_of_the_plain_form(length: int, cap: float) -> None:
    operands, seen_BLS, weights = arrays()
    operands[0], seen_BLS, weights = operands[0][:, :length], seen_BLS[:, :length], weights[:, :length]

    def dense(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.sum(weights * mixed_dense(query, key, value, seen_BLS, cap=cap))

    def textbook(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.sum(weights * plain(query, key, value, seen_BLS, cap))

    found = jax.jit(jax.value_and_grad(dense, argnums=(0, 1, 2)))(*operands)
    expected = jax.value_and_grad(textbook, argnums=(0, 1, 2))(*operands)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_slots_that_nobody_sees_have_no_gradient() -> None:
    """Not even a rounding error: whatever stands in padding moves no weight."""
    operands, seen_BLS, weights = arrays()
    seen_BLS = seen_BLS.at[:, :, 4].set(False)

    def dense(key_BKSH: jax.Array, value_BKSH: jax.Array) -> jax.Array:
        return jnp.sum(weights * mixed_dense(operands[0], key_BKSH, value_BKSH, seen_BLS, cap=0.0))

    key_slope, value_slope = jax.grad(dense, argnums=(0, 1))(*operands[1:])
    assert not key_slope[:, :, 4].any() and not value_slope[:, :, 4].any()
    assert bool(jnp.all(jnp.any(key_slope[:, :, 0] != 0, axis=-1)))


def test_bfloat16_stays_near_float32() -> None:
    """Gradients have the dtype of what they are of, and are off by a few of its roundings of 2^-8."""
    operands, seen_BLS, weights = arrays()
    small = [x.astype(jnp.bfloat16) for x in operands]

    def dense(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.sum(weights * mixed_dense(query, key, value, seen_BLS, cap=0.0).astype(jnp.float32))

    found, expected = jax.grad(dense, argnums=(0, 1, 2))(*small), jax.grad(dense, argnums=(0, 1, 2))(*operands)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.06)
