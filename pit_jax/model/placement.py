"""Where activations lie in a decoding step: weights stay in their places (DECODE_RULES), and activations come to them.

Rows are whole on a device in attention, beside their cache, and between the layers. Before a matrix they are shared
with the devices that hold its other parts, and its result is brought back to the rows. A pass over whole rows keeps
them where they are (`step` is False), since there the weights are what is small. Without a mesh nothing is moved.
"""

import jax

from pit_jax.parallel.sharding import BATCH_AXES, P, constrain

PARTS = ("tensor", "fsdp")  # of a matrix, in the order of DECODE_RULES


def to_weights(x_BLX: jax.Array, step: bool) -> jax.Array:
    """The input of a matrix that is split along its outputs: all rows of a copy of the weights on each device."""
    return constrain(x_BLX, P("data")) if step else x_BLX


def between_weights(x_BLF: jax.Array, step: bool) -> jax.Array:
    """What one matrix gives to the next one, in parts along F: those that both have on the same device."""
    return constrain(x_BLF, P("data", None, PARTS)) if step else x_BLF


def heads_to_weights(x_BLNH: jax.Array, step: bool) -> jax.Array:
    """Heads as the matrices of attention hold them, in parts along N and H."""
    return constrain(x_BLNH, P("data", None, *PARTS)) if step else x_BLNH


def heads_to_rows(x_BLNH: jax.Array, step: bool) -> jax.Array:
    """Queries, keys or values beside the cache of their row; heads that do not divide are on all of the tensor axis."""
    return constrain(heads_to_weights(x_BLNH, step), P(BATCH_AXES, None, "tensor")) if step else x_BLNH


def to_rows(x_BLX: jax.Array, step: bool) -> jax.Array:
    """The result of a matrix, back with its rows."""
    return constrain(x_BLX, P(BATCH_AXES)) if step else x_BLX


def logits_to_rows(logits_BV: jax.Array) -> jax.Array:
    """Logits where their matrix gave them, then with their rows; in parts along V on the tensor axis alone."""
    return constrain(constrain(logits_BV, P("data", PARTS)), P(BATCH_AXES, "tensor"))


def cache_with_rows(cache_UBKSH: jax.Array) -> jax.Array:
    """Keys or values: rows over data and fsdp, heads over tensor; fewer heads than that axis has are on all of it."""
    return constrain(cache_UBKSH, P(None, BATCH_AXES, "tensor"))
