"""What a row of tokens is, as structure: which tokens belong together, and so which ones a token may look at.

Callers say what their rows are and never how attention hides the rest: the dense mask of `visible` is made where it is
used, inside the reference attention.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import NODE_LL, NODE_LW, NODE_PARENTS, NODE_WL, NODE_WW, TREE_COUNTS, GapBatch, TreeSlots

NO_TOKEN = -1  # the position of a cache slot that holds none
NODES = list(NODE_PARENTS)  # in the order of their slots, those above a node before it


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sequences:
    """Rows of one or several sequences; a token sees the earlier ones of its own and itself."""

    positions_BL: jax.Array  # int32, from 0 in every sequence
    segments_BL: jax.Array  # int32, which sequence of the row; 0 = padding
    single: bool = field(default=False, metadata={"static": True})  # no row holds more than one sequence

    @staticmethod
    def alone(segments_BL: jax.Array) -> "Sequences":
        """Rows of one sequence each, whatever the padding side: its tokens are counted from 0."""
        real_BL = (segments_BL > 0).astype(jnp.int32)
        return Sequences(jnp.maximum(jnp.cumsum(real_BL, axis=1) - 1, 0), segments_BL, single=True)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tree:
    """Rows that hold a gap tree; a token sees earlier ones of its node and of the nodes above it (NODE_PARENTS)."""

    positions_BL: jax.Array  # int32, depth of the token in its own sequence
    nodes_BL: jax.Array  # int32, 0 = padding
    slots: TreeSlots | None = field(default=None, metadata={"static": True})  # of each node, where they have some


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Continuation:
    """A piece of rows of one sequence each that begins at cache slot `slot`; a token sees those up to its own position,
    whatever the order of their slots."""

    positions_BL: jax.Array  # int32
    positions_BS: jax.Array  # int32, of the token in a cache slot, those of this piece included, or NO_TOKEN
    slot: jax.Array  # int32 scalar


Rows = Sequences | Tree | Continuation


def is_step(rows: Rows) -> bool:
    """Whether the rows are one token each, behind a cache."""
    return isinstance(rows, Continuation) and rows.positions_BL.shape[1] == 1


def visible(rows: Rows) -> jax.Array:
    """visible_BLS, dense: whether the token in slot L sees the one in slot S."""
    match rows:
        case Continuation():
            held_B1S = rows.positions_BS[:, None, :]
            return (held_B1S != NO_TOKEN) & (held_B1S <= rows.positions_BL[:, :, None])
        case Tree():
            return _causal(rows.nodes_BL) & _above(rows.nodes_BL[:, :, None], rows.nodes_BL[:, None, :])
        case Sequences():
            same_BLS = rows.segments_BL[:, :, None] == rows.segments_BL[:, None, :]
            return _causal(rows.segments_BL) & same_BLS & (rows.segments_BL > 0)[:, None, :]


def near(rows: Rows, window: int | jax.Array) -> jax.Array:
    """near_BLS: whether the token in slot S is less than `window` positions behind the one in slot L."""
    others_BS = rows.positions_BS if isinstance(rows, Continuation) else rows.positions_BL
    return rows.positions_BL[:, :, None] - others_BS[:, None, :] < window


def visible_from(rows: Sequences | Tree, own_C: jax.Array, *, window: int | jax.Array | None = None) -> jax.Array:
    """visible_BCS of the query slots own_C alone, within a window if any; a slot behind the end sees nothing."""

    def picked(x_BL: jax.Array) -> jax.Array:
        return jnp.take(x_BL, own_C, axis=1, mode="fill", fill_value=0)[:, :, None]

    marks_BL = rows.nodes_BL if isinstance(rows, Tree) else rows.segments_BL
    slots_S = jnp.arange(marks_BL.shape[1], dtype=jnp.int32)
    earlier_1CS = (slots_S[None, :] <= own_C[:, None])[None]
    mine_BC1, others_B1S = picked(marks_BL), marks_BL[:, None, :]
    alike_BCS = (mine_BC1 == others_B1S) & (others_B1S > 0)
    seen_BCS = _above(mine_BC1, others_B1S) if isinstance(rows, Tree) else alike_BCS
    if window is not None:
        seen_BCS = seen_BCS & (picked(rows.positions_BL) - rows.positions_BL[:, None, :] < window)
    return seen_BCS & earlier_1CS


def _above(mine_BL1: jax.Array, others_B1S: jax.Array) -> jax.Array:
    """[B, L, S]: whether a token of a node may look at one of the other: a bit of the nodes that the first one sees.

    A table of all pairs of nodes would be read once for every pair of tokens.
    """
    nodes = range(max(NODE_PARENTS) + 1)
    seen_N = jnp.asarray([sum(1 << above for above in NODE_PARENTS.get(node, ())) for node in nodes], jnp.int32)
    return (seen_N[mine_BL1] >> others_B1S) & 1 > 0


def _causal(marks_BL: jax.Array) -> jax.Array:
    """causal_1LS: earlier or same slot."""
    return jnp.tril(jnp.ones((marks_BL.shape[1],) * 2, bool))[None]


def by_slots(batch: GapBatch, slots: TreeSlots) -> GapBatch:
    """The rows with every node in slots of its own, whatever its length; until then they lie side by side."""
    each_N = np.repeat(slots, TREE_COUNTS)
    first_N = np.cumsum(each_N) - each_N
    node_M = np.repeat(np.arange(len(each_N)), each_N)
    place_M = jnp.asarray(np.arange(len(node_M)) - first_N[node_M], jnp.int32)
    is_BNL = batch.nodes_BL[:, None] == jnp.asarray(NODES, jnp.int32)[None, :, None]
    start_BN, count_BN = jnp.argmax(is_BNL, axis=2).astype(jnp.int32), jnp.sum(is_BNL, axis=2, dtype=jnp.int32)
    none = batch.nodes_BL.shape[1]
    order_BM = jnp.where(place_M[None] < count_BN[:, node_M], start_BN[:, node_M] + place_M[None], none)

    def moved(x_BL: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BL, order_BM, axis=1, mode="fill", fill_value=0)

    def end(node: int) -> jax.Array:
        number = NODES.index(node)
        return int(first_N[number]) + count_BN[:, number] - 1

    return replace(
        batch,
        tokens_BL=moved(batch.tokens_BL),
        positions_BL=moved(batch.positions_BL),
        nodes_BL=moved(batch.nodes_BL),
        end_wl_B=end(NODE_WL),
        end_ww_B=end(NODE_WW),
        end_ll_B=end(NODE_LL),
        end_lw_B=end(NODE_LW),
    )
