"""How a scalar head starts, and that it is a plain inner product in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pit_jax.model.heads import POOL_SCALE, PooledScalarHead, ScalarHead, visible_sums
from pit_jax.model.rows import Sequences, Tree


def test_weights_start_with_variance_one_over_width_plus_one() -> None:
    """The standard deviation of n normal draws is known to about 1 / sqrt(2 n) of itself."""
    width = 4095
    head = ScalarHead(width, rngs=nnx.Rngs(params=0))
    kernel_D = np.asarray(head.kernel[...])
    assert abs(kernel_D.std() * (width + 1) ** 0.5 - 1) < 5 / (2 * width) ** 0.5
    assert abs(kernel_D.mean()) < 5 / width


def test_a_head_is_an_inner_product_in_float32() -> None:
    head = ScalarHead(3, rngs=nnx.Rngs(params=0))
    head.kernel[...] = jnp.asarray([1.0, -2.0, 0.5])
    hidden_BLD = jnp.asarray([[[2.0, 1.0, 4.0], [0.0, 0.0, 0.0]]], jnp.bfloat16)
    scalars_BL = jax.jit(head)(hidden_BLD, Sequences.alone(jnp.ones((1, 2), jnp.int32)))
    assert scalars_BL.dtype == jnp.float32
    np.testing.assert_array_equal(scalars_BL, [[2.0, 0.0]])


def test_a_pooled_head_adds_what_the_visible_tokens_contribute() -> None:
    """Width 1, last weight 2, pooled weight POOL_SCALE: 2 h[t] plus the sum of h over the tokens t sees."""
    head = PooledScalarHead(1, rngs=nnx.Rngs(params=0))
    head.last.kernel[...], head.pooled[...] = jnp.asarray([2.0]), jnp.asarray([POOL_SCALE])
    hidden_BLD = jnp.asarray([1.0, 3.0, 5.0, 7.0], jnp.float32).reshape(1, 4, 1)
    scalars_BL = jax.jit(head)(hidden_BLD, Sequences.alone(jnp.asarray([[1, 1, 1, 0]], jnp.int32)))
    np.testing.assert_allclose(scalars_BL[:, :3], [[2 + 1, 6 + 4, 10 + 9]])


@pytest.mark.parametrize("kind", ["sequences", "tree"])
def test_long_rows_are_summed_in_pieces(kind: str) -> None:
    """11 slots in pieces of 4 are summed as at once, gradients too, and nothing is as large as slots squared."""
    marks_BL = jnp.asarray([[0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6], [1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0]], jnp.int32)
    rows = Sequences.alone(marks_BL) if kind == "sequences" else Tree(jnp.zeros_like(marks_BL), marks_BL)
    x_BL, weight_BL = (jnp.asarray(np.random.default_rng(seed).normal(0, 1, (2, 11)), jnp.float32) for seed in (0, 1))

    def read(chunk: int) -> Any:
        return jax.value_and_grad(lambda x_BL: jnp.sum(weight_BL * visible_sums(x_BL, rows, chunk) ** 2))

    pieces, whole = jax.jit(read(4)), jax.jit(read(11))
    for found, expected in zip(pieces(x_BL), whole(x_BL), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert ["2,11,11" in str(program.trace(x_BL).jaxpr) for program in (pieces, whole)] == [False, True]
