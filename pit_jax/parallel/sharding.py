"""Where parameters and batches live on the mesh: rules as data, first match wins, every parameter must match."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from pit_jax.errors import UserError

P = PartitionSpec
Batch = TypeVar("Batch")
BATCH_AXES = ("data", "fsdp")


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """In how many parts the rows of a batch lie, over data and fsdp."""
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


# Stacked blocks have a leading layer axis U.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(^|/)embedding$", P("tensor", "fsdp")),  # [V, D]
    (r"(^|/)unembedding$", P("fsdp", "tensor")),  # [D, V]
    (r"blocks/attention/(query|key|value)$", P(None, "fsdp", "tensor", None)),  # [U, D, N, H]
    (r"blocks/attention/out$", P(None, "tensor", None, "fsdp")),  # [U, N, H, D]
    (r"blocks/ffn/(gate|up)$", P(None, "fsdp", "tensor")),  # [U, D, F]
    (r"blocks/ffn/down$", P(None, "tensor", "fsdp")),  # [U, F, D]
    (r"blocks/ffn/router$", P(None, "fsdp", None)),  # [U, D, E]
    (r"blocks/ffn/expert_(gate|up)$", P(None, "tensor", "fsdp", None)),  # [U, E, D, F]
    (r"blocks/ffn/expert_down$", P(None, "tensor", None, "fsdp")),  # [U, E, F, D]
    (r"blocks/attention/(query|key|value)_bias$", P(None, "tensor", None)),  # [U, N, H]
    (r"blocks/ffn/(gate|up)_bias$", P(None, "tensor")),  # [U, F]
    (r"blocks/(attention/out|ffn/down)_bias$", P()),  # [U, D]
    (r"blocks/adapter/\w+_a$", P(None, "fsdp", None)),  # [U, in, rank]
    (r"blocks/adapter/\w+_b$", P(None, None, "tensor")),  # [U, rank, out]
    (r"/(scale|shift)$", P()),
    (r"(^|/)head/", P()),
)

# While decoding, weights stay where they are and a token's activations come to them: matrices are split along their
# outputs, or along the inputs of those that follow (1D weight-stationary, arXiv 2211.05102, section 3.2.1).
DECODE_RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"^embedding$", P(("tensor", "fsdp"), None)),  # [V, D]
    (r"^unembedding$", P(None, ("tensor", "fsdp"))),  # [D, V]
    (r"^blocks/attention/(query|key|value)$", P(None, None, "tensor", "fsdp")),  # [U, D, N, H]
    (r"^blocks/attention/out$", P(None, "tensor", "fsdp", None)),  # [U, N, H, D]
    (r"^blocks/ffn/(gate|up)$", P(None, None, ("tensor", "fsdp"))),  # [U, D, F]
    (r"^blocks/ffn/down$", P(None, ("tensor", "fsdp"), None)),  # [U, F, D]
    (r"^blocks/ffn/router$", P()),  # [U, D, E]
    (r"^blocks/ffn/expert_(gate|up|down)$", P(None, ("tensor", "fsdp"), None, None)),  # [U, E, D, F] or [U, E, F, D]
    (r"^blocks/attention/(query|key|value)_bias$", P(None, "tensor", None)),  # [U, N, H]
    (r"^blocks/ffn/(gate|up)_bias$", P(None, ("tensor", "fsdp"))),  # [U, F]
    (r"^blocks/(attention/out|ffn/down)_bias$", P()),  # [U, D]
    (r"/(scale|shift)$", P()),
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


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The spec without what does not divide; of several axes on one of the array's, the first ones that do."""

    def fitting(axes: Any, size: int) -> Any:
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        while names and size % math.prod(mesh.shape[name] for name in names):
            names = names[:-1]
        return names[0] if len(names) == 1 else names or None

    padded = tuple(spec) + (None,) * (len(shape) - len(spec))
    return P(*(fitting(axes, size) for axes, size in zip(padded, shape, strict=True)))


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


def constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Place an activation as far as its sizes divide; a no-op outside `jax.set_mesh` and `within`."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, _fit(spec, x.shape, mesh))


def within(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its activations constrained on `mesh`, whatever mesh of the same devices is set around it."""

    def adopted(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, P(*(P.UNCONSTRAINED,) * jnp.ndim(x)))

    def placed(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*jax.tree.map(adopted, args))

    placed.__name__ = getattr(function, "func", function).__name__  # what profiles call the program

    return placed


def put(tree: Any, sharding: Sharding) -> Any:
    """Host arrays onto the mesh; every process passes the same whole arrays. Arrays on a device are moved.

    What has a shape and gives parts of itself like an array is asked for the parts of this process alone.
    """

    def place(x: Any) -> jax.Array:
        if isinstance(x, jax.Array):
            return jax.device_put(x, sharding)
        x = x if hasattr(x, "shape") else np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def put_rows(mesh: Mesh, make: Callable[..., Batch], rows: Mapping[str, Any]) -> Batch:
    """make(**rows), a batch class from named host arrays (see `put`), with its rows over the mesh."""
    return make(**put(dict(rows), batch_sharding(mesh)))


def init_sharded(make: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh) -> Any:
    """The parameters make(key), directly in their shards."""
    return jax.jit(make, out_shardings=param_sharding(jax.eval_shape(make, key), mesh))(key)


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of placed arrays, as ShapeDtypeStructs of its own."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def abstract_params(make: Callable[[jax.Array], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the parameters that make(key) gives; nothing is computed."""
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        param_sharding(shapes, mesh),
    )
