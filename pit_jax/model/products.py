"""Products of activations with weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.parallel.target import on_one_cpu

# Rows of a step and weights of a matrix between which a CPU multiplies faster with rows last: 1.2 to 1.5 times as fast
# from 4 to 128 rows, and no faster with more. Smaller matrices stay in a core's cache and are packed in no time.
MOST_ROWS, LEAST_WEIGHTS = 128, 2**18


def product(x_BLX: jax.Array, weights_XY: jax.Array, *, inner: int = 1, dtype: Any = None) -> jax.Array:
    """x [B, L, *X] times weights [*X, *Y]: [B, L, *Y], summed over the first `inner` axes of the weights, in `dtype`.

    Rows and slots are one axis meanwhile. XLA's CPU backend copies the operands of a product over two such axes, above
    all in its gradient: that of a feed-forward takes 1.6 times as long. Where rows lie on a mesh the axis stays split.
    """
    flat_TX = x_BLX.reshape(-1, *weights_XY.shape[:inner])
    if x_BLX.shape[1] == 1 and _faster_with_rows_last(len(flat_TX), weights_XY.size):
        flat_TY = _rows_last(flat_TX, weights_XY.reshape(math.prod(weights_XY.shape[:inner]), -1), dtype)
    else:
        flat_TY = jnp.tensordot(flat_TX, weights_XY, axes=inner, preferred_element_type=dtype)
    return flat_TY.reshape(*x_BLX.shape[:2], *weights_XY.shape[inner:])


def _faster_with_rows_last(rows: int, weights: int) -> bool:
    return on_one_cpu() and rows <= MOST_ROWS and weights >= LEAST_WEIGHTS


def _rows_last(flat_TX: jax.Array, weights_XY: jax.Array, dtype: Any) -> jax.Array:
    """product_TY as weights_YX times x_XT, transposed.

    A CPU's kernel packs its second operand before it multiplies: here that is the rows, not the weights. XLA would
    undo it, but for the barriers; in a loop it transposes the weights once, before the loop.
    """
    weights_YX = jax.lax.optimization_barrier(weights_XY.T)
    product_YT = jnp.matmul(weights_YX, flat_TX.reshape(len(flat_TX), -1).T, preferred_element_type=dtype)
    return jax.lax.optimization_barrier(product_YT).T
