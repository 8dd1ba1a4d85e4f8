"""What attention does with queries, keys and values: the dense reference, the same in chunks of queries, and by nodes.

All take `scores` scaled already, cap them, and mix values in the compute dtype after a softmax in float32.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from pit_jax.batch import TREE_COUNTS, TreeSlots
from pit_jax.parallel.target import on_one_cpu

MASKED = -1e30  # a logit that no real one reaches and that bfloat16 holds; -inf would make a row of padding NaN
CHUNK = 512  # slots; rows that are no longer are mixed in one piece
QUERIES = 128  # of a chunk of longer rows; fewer would not fill the matrix unit of a TPU
BANDS = 8  # copies of a chunk's program at most; 7 / 16 of the scores of a long row are not made then, of 1 / 2


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """cap tanh(x / cap): x where it is small, never beyond the cap; x itself for a cap of 0."""
    return jnp.tanh(x / cap) * cap if cap else x


def mixed_dense(
    query_BLKGH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, visible_BLS: jax.Array, *, cap: float
) -> jax.Array:
    """mixed_BLKGH: softmax over the visible slots of softcap(query key), times the values."""
    query_BKGLH = query_BLKGH.transpose(0, 2, 3, 1, 4)
    # Queries of a group are one axis X, so that all products are of plain matrices, one a row and key head.
    query_BKXH = query_BKGLH.reshape(*key_BKSH.shape[:2], -1, key_BKSH.shape[3])
    if query_BLKGH.shape[1] == 1 and on_one_cpu():
        scores_BKXS = _scores_of_a_step(query_BKXH, key_BKSH)
    else:
        scores_BKXS = jnp.einsum("BKXH,BKSH->BKXS", query_BKXH, key_BKSH)
    mixed_BKXH = _mixed(softcap(scores_BKXS.astype(jnp.float32), cap), visible_BLS, value_BKSH)
    return mixed_BKXH.reshape(query_BKGLH.shape).transpose(0, 3, 1, 2, 4)


def _scores_of_a_step(query_BKGH: jax.Array, key_BKSH: jax.Array) -> jax.Array:
    """scores_BKGS as keys times queries: a CPU's kernel packs its second operand, and should pack that of fewer rows
    (see products.turned_product). With 512 slots this takes 1.6 ms where queries times keys take 4.4."""
    scores_BKSG = jnp.einsum("BKSH,BKGH->BKSG", key_BKSH, query_BKGH)
    return jax.lax.optimization_barrier(scores_BKSG).swapaxes(2, 3)


@jax.custom_vjp
def _mixed(scores_BKXS: jax.Array, visible_BLS: jax.Array, value_BKSH: jax.Array) -> jax.Array:
    """mixed_BKXH: softmax over the visible slots, times the values.

    Its own gradient keeps the weights w alone, and what they mixed, o, for the sum in that of the softmax:
    ds = w (dw - sum over slots of w dw), where that sum is do . o (FlashAttention, arXiv 2205.14135, App. B.2).
    """
    return _mixed_forward(scores_BKXS, visible_BLS, value_BKSH)[0]


def _mixed_forward(
    scores_BKXS: jax.Array, visible_BLS: jax.Array, value_BKSH: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    (batch, length, slots), heads = visible_BLS.shape, value_BKSH.shape[1]
    scores_BKGLS = scores_BKXS.reshape(batch, heads, -1, length, slots)
    scores_BKGLS = jnp.where(visible_BLS[:, None, None], scores_BKGLS, MASKED)
    weights_BKXS = jax.nn.softmax(scores_BKGLS, axis=-1).astype(value_BKSH.dtype).reshape(scores_BKXS.shape)
    mixed_BKXH = jnp.einsum("BKXS,BKSH->BKXH", weights_BKXS, value_BKSH)
    return mixed_BKXH, (weights_BKXS, value_BKSH, mixed_BKXH)


def _mixed_backward(kept: tuple[jax.Array, ...], slope_BKXH: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    weights_BKXS, value_BKSH, mixed_BKXH = kept
    of_value_BKSH = jnp.einsum("BKXS,BKXH->BKSH", weights_BKXS, slope_BKXH)
    of_weights_BKXS = jnp.einsum("BKXH,BKSH->BKXS", slope_BKXH, value_BKSH).astype(jnp.float32)
    products_BKXH = slope_BKXH.astype(jnp.float32) * mixed_BKXH.astype(jnp.float32)
    centred_BKXS = of_weights_BKXS - jnp.sum(products_BKXH, axis=-1, keepdims=True)
    return weights_BKXS.astype(jnp.float32) * centred_BKXS, None, of_value_BKSH


_mixed.defvjp(_mixed_forward, _mixed_backward)


def mixed_by_chunks(
    query_BLKGH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    visible_from: Callable[[jax.Array], jax.Array],
    *,
    cap: float,
    chunk: int = QUERIES,
) -> jax.Array:
    """`mixed_dense` of at most `chunk` queries after the other, each recomputed in the backward pass: no array is
    [B, L, S].

    visible_from(own_C) -> visible_BCS of the query slots own_C, of which those behind the end see nothing, and none a
    slot behind its own: each of BANDS parts of the row is mixed with the slots up to its end alone.
    """
    length = query_BLKGH.shape[1]
    count = -(-length // chunk)
    size = -(-length // count)  # all chunks alike, so that the last one is full but for a few
    band = size * -(-count // BANDS)
    mixed = []
    for first in range(0, length, band):
        end = min(first + band, length)
        slots = first + slots_in_pieces(end - first, size)
        operands = query_BLKGH[:, first:end], key_BKSH[:, :, :end], value_BKSH[:, :, :end]
        mixed.append(_mixed_band(*operands, visible_from, slots, cap=cap))
    return jnp.concatenate(mixed, axis=1)


def _mixed_band(
    query_BLKGH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    visible_from: Callable[[jax.Array], jax.Array],
    slots: jax.Array,
    *,
    cap: float,
) -> jax.Array:
    """`mixed_dense` of queries in these slots [chunks, chunk], over the first slots of their row."""

    @partial(jax.checkpoint, prevent_cse=False)
    def piece(query_BCKGH: jax.Array, own_C: jax.Array) -> jax.Array:
        visible_BCS = visible_from(own_C)[:, :, : key_BKSH.shape[2]]
        return mixed_dense(query_BCKGH, key_BKSH, value_BKSH, visible_BCS, cap=cap)

    chunks = cut(query_BLKGH, *slots.shape), slots
    return joined(jax.lax.map(lambda both: piece(*both), chunks), query_BLKGH.shape[1])


def mixed_by_nodes(
    query_BLKGH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    positions_BL: jax.Array,
    nodes_BL: jax.Array,
    slots: TreeSlots,
    *,
    window: int | jax.Array | None,
    cap: float,
) -> jax.Array:
    """`mixed_dense` of gap trees whose nodes have slots: a token is scored against what its branch can hold alone.

    A row of a prompt of 24 tokens and answers of 40 has 264 slots. A candidate's token sees 104 of them at most: in all
    22,336 scores a head, where a mask over the row has 69,696. A window, where there is one, is counted in positions.
    """
    batch, _, heads, groups, size = query_BLKGH.shape
    queries = _by_depth(query_BLKGH, slots)
    keys, values = (_by_depth(x_BKSH.swapaxes(1, 2), slots) for x_BKSH in (key_BKSH, value_BKSH))
    places, reals = _by_depth(positions_BL, slots), _by_depth(nodes_BL, slots)
    mixed = []
    for depth, query_BNQX in enumerate(queries):
        rows = batch * TREE_COUNTS[depth]
        key_RSX, value_RSX, place_RS1, real_RS1 = (_branch(x, depth) for x in (keys, values, places, reals))
        own_RQ1, place_R1S = places[depth].reshape(rows, -1, 1), place_RS1.swapaxes(1, 2)
        seen_RQS = (real_RS1.swapaxes(1, 2) > 0) & (place_R1S <= own_RQ1)
        if window is not None:
            seen_RQS = seen_RQS & (own_RQ1 - place_R1S < window)
        query_RQKGH = query_BNQX.reshape(rows, -1, heads, groups, size)
        key_RKSH, value_RKSH = (x.reshape(rows, -1, heads, size).swapaxes(1, 2) for x in (key_RSX, value_RSX))
        piece = mixed_dense(query_RQKGH, key_RKSH, value_RKSH, seen_RQS, cap=cap)
        mixed.append(piece.reshape(batch, -1, heads, groups, size))
    return jnp.concatenate(mixed, axis=1)


def _by_depth(x_BLX: jax.Array, slots: TreeSlots) -> list[jax.Array]:
    """[B, nodes, slots, X] of the trunk, the references and the candidates."""
    pieces, start = [], 0
    for count, size in zip(TREE_COUNTS, slots, strict=True):
        piece = x_BLX[:, start : start + count * size]
        pieces.append(piece.reshape(len(x_BLX), count, size, -1))
        start += count * size
    return pieces


def _branch(by_depth: list[jax.Array], depth: int) -> jax.Array:
    """[B nodes, slots of a branch, X]: what lies above each node of a depth, and the node itself."""
    above = [jnp.repeat(x, TREE_COUNTS[depth] // x.shape[1], axis=1) for x in by_depth[: depth + 1]]
    branch = jnp.concatenate(above, axis=2)
    return branch.reshape(-1, *branch.shape[2:])


def cut(x_BL: jax.Array, count: int, size: int) -> jax.Array:
    """[B, L, ..] as `count` pieces [count, B, size, ..], zeros behind the last slot."""
    padded = jnp.pad(x_BL, ((0, 0), (0, count * size - x_BL.shape[1]), *((0, 0),) * (x_BL.ndim - 2)))
    return padded.reshape(x_BL.shape[0], count, size, *x_BL.shape[2:]).swapaxes(0, 1)


def joined(pieces: jax.Array, length: int) -> jax.Array:
    """[B, length, ..] again, of what `cut` gave."""
    together = pieces.swapaxes(0, 1)
    return together.reshape(together.shape[0], -1, *together.shape[3:])[:, :length]


def slots_in_pieces(length: int, size: int) -> jax.Array:
    """Slot numbers [count, size], int32, of as many pieces as `length` slots fill; the last ones are behind the end."""
    count = -(-length // size)
    return jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
