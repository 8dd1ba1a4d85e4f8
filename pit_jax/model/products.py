"""Products of activations with weights."""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

MOST_ROWS = 128  # of a step that are multiplied last: with more, the usual way is as fast


class Product(Protocol):
    """What both ways to hold a matrix have in common for those that multiply with it."""

    def __call__(self, x_BLX: jax.Array, weights: jax.Array, /, *, inner: int = 1, dtype: Any = None) -> jax.Array:
        """[B, L, *Y], of x [B, L, *X] and weights over X, which has `inner` axes, and Y."""


def product(x_BLX: jax.Array, weights_XY: jax.Array, /, *, inner: int = 1, dtype: Any = None) -> jax.Array:
    """x [B, L, *X] times weights [*X, *Y]: [B, L, *Y], summed over the first `inner` axes of the weights, in `dtype`.

    Rows and slots are one axis meanwhile. XLA's CPU backend copies the operands of a product over two such axes, above
    all in its gradient: that of a feed-forward takes 1.6 times as long. Where rows lie on a mesh the axis stays split.
    """
    flat_TX = x_BLX.reshape(-1, *weights_XY.shape[:inner])
    flat_TY = jnp.tensordot(flat_TX, weights_XY, axes=inner, preferred_element_type=dtype)
    return flat_TY.reshape(*x_BLX.shape[:2], *weights_XY.shape[inner:])


def turned_product(x_BLX: jax.Array, weights_YX: jax.Array, /, *, inner: int = 1, dtype: Any = None) -> jax.Array:
    """`product` with weights [*Y, *X], for a CPU: of few rows these times the rows, and the result turned back.

    A CPU's kernel packs its second operand before it multiplies. From 4 to 128 rows it is 1.2 to 1.5 times as fast
    where that is the rows and not a large matrix. XLA would undo it, but for the barrier.
    """
    outputs = weights_YX.shape[: weights_YX.ndim - inner]
    flat_YX = weights_YX.reshape(math.prod(outputs), -1)
    flat_TX = x_BLX.reshape(-1, flat_YX.shape[1])
    if len(flat_TX) <= MOST_ROWS:
        product_YT = jnp.matmul(flat_YX, flat_TX.T, preferred_element_type=dtype)
        flat_TY = jax.lax.optimization_barrier(product_YT).T
    else:
        flat_TY = jnp.einsum("TX,YX->TY", flat_TX, flat_YX, preferred_element_type=dtype)
    return flat_TY.reshape(*x_BLX.shape[:2], *outputs)
