"""Where parameters and batches live on the mesh: rules as data, first match wins, every parameter must match."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pit_jax.errors import UserError

P = PartitionSpec
Batch = TypeVar("Batch")
BATCH_AXES = ("data", "fsdp")

# Stacked blocks have a leading layer axis U.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(^|/)embedding$", P("tensor", "fsdp")),  # [V, D]
    (r"(^|/)unembedding$", P("fsdp", "tensor")),  # [D, V]
    (r"blocks/attention/(query|key|value)$", P(None, "fsdp", "tensor", None)),  # [U, D, N, H]
    (r"blocks/attention/out$", P(None, "tensor", None, "fsdp")),  # [U, N, H, D]
    (r"blocks/ffn/(gate|up)$", P(None, "fsdp", "tensor")),  # [U, D, F]
    (r"blocks/ffn/down$", P(None, "tensor", "fsdp")),  # [U, F, D]
    (r"blocks/attention/(query|key|value)_bias$", P(None, "tensor", None)),  # [U, N, H]
    (r"blocks/ffn/(gate|up)_bias$", P(None, "tensor")),  # [U, F]
    (r"blocks/(attention/out|ffn/down)_bias$", P()),  # [U, D]
    (r"blocks/adapter/\w+_a$", P(None, "fsdp", None)),  # [U, in, rank]
    (r"blocks/adapter/\w+_b$", P(None, None, "tensor")),  # [U, rank, out]
    (r"/(scale|shift)$", P()),
    (r"(^|/)head/", P()),
)


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """{"blocks/attention/query": leaf}, in the order in which the tree is flattened."""
    return {_path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def param_sharding(params: Any, mesh: Mesh, rules: tuple[tuple[str, PartitionSpec], ...] = RULES) -> Any:
    """NamedSharding of every leaf of `params` (arrays or ShapeDtypeStructs).

    An axis that the mesh does not divide is replicated. Raises UserError for a parameter that no rule covers.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = _path_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _fit(spec, leaf.shape, mesh))
        raise UserError(
            f"no sharding rule covers parameter {name!r} of shape {leaf.shape}; add one to parallel/sharding.py"
        )

    return jax.tree_util.tree_map_with_path(place, params)


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    axes = tuple(spec) + (None,) * (len(shape) - len(spec))
    return P(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        )
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data x fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keep the leading axis of an activation over data x fsdp; a no-op outside `jax.set_mesh`."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Host arrays onto the mesh; every process passes the same whole arrays.

    What has a shape and gives parts of itself like an array is asked for the parts of this process alone.
    """

    def place(x: Any) -> jax.Array:
        x = x if hasattr(x, "shape") else np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def put_rows(mesh: Mesh, make: Callable[..., Batch], rows: Mapping[str, Any]) -> Batch:
    """make(**rows), a batch class from named host arrays (see `put`), with its rows over the mesh."""
    return make(**put(dict(rows), batch_sharding(mesh)))


def init_sharded(make: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh) -> Any:
    """The parameters make(key), directly in their shards."""
    return jax.jit(make, out_shardings=param_sharding(jax.eval_shape(make, key), mesh))(key)


def abstract_params(make: Callable[[jax.Array], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the parameters that make(key) gives; nothing is computed."""
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        param_sharding(shapes, mesh),
    )
