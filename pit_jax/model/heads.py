"""The scalar head of reward, gap and value models."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.model.mixing import CHUNK, joined, slots_in_pieces
from pit_jax.model.rows import Continuation, Rows, Sequences, Tree, visible, visible_from

POOL_SCALE = 8.0  # the sum over 64 unrelated tokens is then as large as one of them


class ScalarHead(nnx.Module):
    """hidden_BLD -> scalar_BL; weights start at N(0, 1/(d+1)) (the N details of RLHF, item 4).

    No bias: no preference loss sees one, so Adam would move it on rounding noise alone.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (width,)) * (width + 1) ** -0.5)

    def __call__(self, hidden_BLD: jax.Array, rows: Rows) -> jax.Array:
        return _dot(hidden_BLD, self.kernel[...])


class PooledScalarHead(nnx.Module):
    """The scalar head plus a causal sum: scalar[t] = head(h[t]) + sum over visible s of u . h[s] / POOL_SCALE.

    The scalar at EOS then adds up what every token of the sequence contributes, and the scalar at a token is the same
    sum so far. Shallow models learn to find local faults several times faster this way than through attention at EOS.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.last = ScalarHead(width, rngs=rngs)
        self.pooled = nnx.Param(jax.random.normal(rngs.params(), (width,)) * (width + 1) ** -0.5)

    def __call__(self, hidden_BLD: jax.Array, rows: Rows) -> jax.Array:
        each_BL = _dot(hidden_BLD, self.pooled[...]) / POOL_SCALE
        return self.last(hidden_BLD, rows) + visible_sums(each_BL, rows)


def visible_sums(x_BL: jax.Array, rows: Rows, chunk: int = CHUNK) -> jax.Array:
    """sums_BL of x over the slots that each one sees; rows longer than `chunk` in pieces, so that none is [B, L, L]."""
    length = x_BL.shape[1]
    if isinstance(rows, Continuation) or length <= chunk:
        return _sums(visible(rows), x_BL)
    whole: Sequences | Tree = rows

    # Without it the mask of each piece would wait for the backward pass, all of them [B, L, L] together.
    @partial(jax.checkpoint, prevent_cse=False)
    def piece(own_C: jax.Array) -> jax.Array:
        return _sums(visible_from(whole, own_C), x_BL)

    return joined(jax.lax.map(piece, slots_in_pieces(length, chunk)), length)


def _sums(visible_BLS: jax.Array, x_BS: jax.Array) -> jax.Array:
    return jnp.einsum("BLS,BS->BL", visible_BLS.astype(jnp.float32), x_BS)


def _dot(hidden_BLD: jax.Array, kernel_D: jax.Array) -> jax.Array:
    return jnp.einsum("BLD,D->BL", hidden_BLD.astype(jnp.float32), kernel_D)
