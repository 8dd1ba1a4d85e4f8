"""Splash attention against one mask: the kernel in interpret mode, for other devices than a TPU's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.model.mixing import mixed_dense
from pit_jax.model.rows import Sequences, near, visible
from pit_jax.model.splash import block_of, mixed_by_splash

LENGTH = 150  # two blocks, the second one padded
PADDED = np.concatenate([np.zeros(20), np.full(80, 1), np.full(45, 2), np.zeros(5)]).astype(np.int32)
RIGHT = np.concatenate([np.ones(140), np.zeros(10)]).astype(np.int32)


@pytest.mark.parametrize(("window", "cap", "kv_heads"), [(0, 0.0, 2), (0, 2.0, 1), (9, 0.0, 4)])
def test_the_kernel_mixes_what_one_mask_mixes(window: int, cap: float, kv_heads: int) -> None:
    """Outputs and gradients at real slots, of four query heads; rows of two sequences, padded left and right."""
    rng = np.random.default_rng(0)
    query, weight = (jnp.asarray(rng.normal(0, 1, (2, LENGTH, 4, 16)), jnp.float32) for _ in range(2))
    key, value = (jnp.asarray(rng.normal(0, 1, (2, LENGTH, kv_heads, 16)), jnp.float32) for _ in range(2))
    rows = Sequences.alone(jnp.asarray(np.stack([PADDED, RIGHT])))
    real_BL11 = (rows.segments_BL > 0)[:, :, None, None]

    def dense(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        seen_BLS = visible(rows) & near(rows, window or LENGTH)
        grouped = query.reshape(2, LENGTH, kv_heads, 4 // kv_heads, 16)
        return mixed_dense(grouped, key.swapaxes(1, 2), value.swapaxes(1, 2), seen_BLS, cap=cap).reshape(query.shape)

    def splash(*operands: jax.Array) -> jax.Array:
        return mixed_by_splash(*operands, rows.segments_BL, cap=cap, window=window, interpret=True)

    def read(mix: Callable[..., jax.Array]) -> Any:
        def loss(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
            mixed = jnp.where(real_BL11, mix(*operands), 0.0)
            return jnp.sum(mixed * weight), mixed

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    (gradients, mixed), (expected_gradients, expected) = read(splash), read(dense)
    for found, wanted in zip((mixed, *gradients), (expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
