"""Where activations lie in a decoding step: weights stay in their places (DECODE_RULES), and activations come to them.

Rows are whole on a device in attention, beside their cache, and between the layers. Before a matrix they are shared
with the devices that hold its other parts, and its result is brought back to the rows. A pass over whole rows keeps
them where they are (`step` is False), since there the weights are what is small. Without a mesh nothing is moved.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

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


def mixed_on_devices(
    mix: Callable[..., jax.Array],
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    segments_BL: jax.Array,
) -> jax.Array:
    """mix(query, key, value, segments) -> mixed_BLNH, a kernel that XLA cannot split, of each device's rows and heads.

    Rows over data and fsdp, heads over tensor. Key/value heads that this axis does not divide are repeated until it
    does, so that every device holds those of its own queries; where that is not possible it holds all heads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return mix(query_BLNH, key_BLKH, value_BLKH, segments_BL)
    heads = key_BLKH.shape[2]
    shared = math.lcm(heads, mesh.shape["tensor"])
    divides = query_BLNH.shape[2] % shared == 0
    if divides and shared > heads:
        key_BLKH, value_BLKH = (jnp.repeat(x, shared // heads, axis=2) for x in (key_BLKH, value_BLKH))
    place = P(BATCH_AXES, None, "tensor" if divides else None)
    # The kernels do not say over which axes their results vary (check_vma), which shard_map would check.
    on_devices = jax.shard_map(mix, in_specs=(place,) * 3 + (P(BATCH_AXES),), out_specs=place, check_vma=False)
    return on_devices(query_BLNH, key_BLKH, value_BLKH, segments_BL)


def experts_on_devices(
    mix: Callable[..., jax.Array],
    x_BLD: jax.Array,
    chosen_BLX: jax.Array,
    weights_BLX: jax.Array,
    *matrices: jax.Array,
    step: bool,
) -> jax.Array:
    """mix(x, chosen, weights, *matrices) -> mixed_BLD, summed over the devices, each of which has some of the experts.

    Over the tensor axis, with all of its tokens there; in a step over all parts of the weights. Experts that an axis
    does not divide are on all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return mix(x_BLD, chosen_BLX, weights_BLX, *matrices)
    axes: tuple[str, ...] = PARTS if step else PARTS[:1]
    while axes and len(matrices[0]) % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]

    def of_own(x_BLD: jax.Array, chosen_BLX: jax.Array, weights_BLX: jax.Array, *matrices: jax.Array) -> jax.Array:
        first = jax.lax.axis_index(axes) * len(matrices[0]) if axes else 0
        return jax.lax.psum(mix(x_BLD, chosen_BLX - first, weights_BLX, *matrices), axes)

    place = P("data" if step else BATCH_AXES)
    specs = (place,) * 3 + (P(axes or None),) * len(matrices)
    on_devices = jax.shard_map(of_own, in_specs=specs, out_specs=place, check_vma=False)
    return on_devices(x_BLD, chosen_BLX, weights_BLX, *matrices)
