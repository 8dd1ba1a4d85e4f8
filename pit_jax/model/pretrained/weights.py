"""Weights of a checkpoint folder in the Hugging Face layout, tensor by tensor onto the mesh and back.

safetensors only: no pickle is ever opened. Every name, shape and dtype is checked before the first number is read.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pit_jax.errors import UserError
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.parallel.hosts import is_main, whole
from pit_jax.parallel.sharding import named_leaves, param_sharding

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
# Buffers that older checkpoints hold beside their weights; they follow from the config.
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attention\.(bias|masked_bias))$")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies and what its file says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or without one, as transformers chooses, of the files that its index names.

    Raises:
        UserError: neither file, an index that is no index or points outside the folder or at nothing, a file that is
            not safetensors or lacks what the index puts into it.
    """
    placed: dict[str | None, Path]
    if (folder / SINGLE).is_file():
        placed = {None: folder / SINGLE}
    elif (folder / INDEX).is_file():
        placed = _index(folder)
    else:
        raise UserError(f"{folder}: asked for {SINGLE} or {INDEX}, found neither; export the weights as safetensors")
    tensors: dict[str, Tensor] = {}
    for path in dict.fromkeys(placed.values()):
        with _open(path) as file:
            names = file.keys()
            for name in names:
                piece = file.get_slice(name)
                tensors[name] = Tensor(path, tuple(piece.get_shape()), piece.get_dtype())
    lost = [name for name, path in placed.items() if name and (name not in tensors or tensors[name].file != path)]
    if lost:
        raise UserError(f"{folder / INDEX} puts {_some(lost)} into files that do not hold them; download them again")
    return tensors


def _index(folder: Path) -> dict[str | None, Path]:
    """The file of every tensor."""
    try:
        names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        placed: dict[str | None, Path] = {str(name): folder / str(file) for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX}: asked for a weight_map of files, found {error!r}") from error
    for path in dict.fromkeys(placed.values()):
        if path.resolve().parent != folder.resolve() and path.parent != folder:
            raise UserError(f"{folder / INDEX} names {path}, outside {folder}; a checkpoint lies in one folder")
        if not path.is_file():
            raise UserError(f"{folder / INDEX} names {path.name}, and there is no such file; download it")
    return placed


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: asked for a safetensors file, found {error}; download it again") from error


def _some(names: Sequence[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _names(entry: Entry, layers: int) -> list[str]:
    return [entry.theirs.format(layer=layer) for layer in range(layers)] if entry.layered else [entry.theirs]


def tensor_shapes(entries: Sequence[Entry], params: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor that holds a part of `params` (arrays, or their shapes)."""
    leaves = named_leaves(params)
    for entry in entries:
        shapes = [leaves[path].shape for path in entry.ours]
        zeros = [np.broadcast_to(np.float32(0), shape[1:] if entry.layered else shape) for shape in shapes]
        shape = entry.write(zeros).shape
        for name in _names(entry, shapes[0][0] if entry.layered else 1):
            yield name, shape


def check_tensors(tensors: Mapping[str, Tensor], entries: Sequence[Entry], params: Any, *, tied: str | None) -> None:
    """UserError that names the tensors which are missing, which nothing reads, and whose shape or dtype is another.

    `params` are shapes, as `abstract_params` gives them; `tied` is the name under which a tied embedding may be
    written once more.
    """
    missing, wrong = [], []
    expected = dict(tensor_shapes(entries, params))
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            missing.append(name)
        elif tensor.shape != shape:
            wrong.append(f"{name} has shape {list(tensor.shape)}, asked for {list(shape)}")
        elif tensor.dtype not in DTYPES:
            wrong.append(f"{name} has dtype {tensor.dtype}, asked for one of {', '.join(DTYPES)}")
    extra = [name for name in sorted(tensors.keys() - expected.keys()) if not BUFFERS.search(name) and name != tied]
    problems = [
        *([f"missing {_some(missing)}"] if missing else []),
        *([f"nothing reads {_some(extra)}"] if extra else []),
        *wrong[:5],
    ]
    if problems:
        raise UserError(f"the weights do not fit the config: {'; '.join(problems)}")


def load(folder: Path, entries: Sequence[Entry], shapes: Any, mesh: Mesh, *, tied: str | None = None) -> Any:
    """The parameters of a checkpoint, in their shards.

    One tensor at a time is on the host; stacked layers are filled in place.

    Args:
        folder: holds model.safetensors, or its index and files.
        entries: the tensors of the family (families.Family.entries).
        shapes: the parameters as ShapeDtypeStructs.
        mesh: where they go.
        tied: as for `check_tensors`.

    Raises:
        UserError: as `tensors_in` and `check_tensors`, and for another matrix than the embedding under `tied`.
    """
    tensors = tensors_in(folder)
    check_tensors(tensors, entries, shapes, tied=tied)
    if tied in tensors:
        (embedding,) = (entry.theirs for entry in entries if entry.ours == ("embedding",))
        if not np.array_equal(_array(embedding, tensors[embedding]), _array(tied, tensors[tied])):
            raise UserError(
                f"{folder}: the config ties the output to the embedding, and {tied} is another matrix than "
                f"{embedding}; write tie_word_embeddings=false into config.json to use both, or remove {tied}"
            )
    shardings = param_sharding(shapes, mesh)
    zeros = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), out_shardings=shardings)
    placed, places = named_leaves(zeros()), named_leaves(shardings)
    for entry in entries:
        names = _names(entry, placed[entry.ours[0]].shape[0] if entry.layered else 1)
        for layer, name in enumerate(names):
            parts = entry.read(_array(name, tensors[name]))
            for path, part in zip(entry.ours, parts, strict=True):
                put = _put_layer if entry.layered else _put_whole
                placed[path] = put(placed[path], part, layer, places[path])
    return jax.tree.unflatten(jax.tree.structure(shapes), list(placed.values()))


def _array(name: str, tensor: Tensor) -> np.ndarray:
    with _open(tensor.file) as file:  # opened for one tensor, so that no more of it stays mapped
        array: np.ndarray = file.get_tensor(name)
    return array.view(DTYPES[tensor.dtype]) if array.dtype != DTYPES[tensor.dtype] else array


def _put_whole(old: jax.Array, part: np.ndarray, layer: int, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(part.shape, sharding, lambda index: part[index].astype(old.dtype))


def _put_layer(stack: jax.Array, part: np.ndarray, layer: int, sharding: NamedSharding) -> jax.Array:
    spec = PartitionSpec(*tuple(sharding.spec)[1:])
    whole = _put_whole(stack, part, layer, NamedSharding(sharding.mesh, spec))
    return _fill(sharding)(stack, whole, np.int32(layer))


@functools.cache
def _fill(sharding: NamedSharding) -> Callable[..., jax.Array]:
    """fill(stack, part, layer): one layer of a stack replaced, in its own memory."""
    return jax.jit(
        lambda stack, part, layer: jax.lax.dynamic_update_index_in_dim(stack, part, layer, 0),
        donate_argnums=0,
        out_shardings=sharding,
    )


def unloaded(params: Any, entries: Sequence[Entry], dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of a checkpoint, one at a time on the host."""
    leaves = named_leaves(params)
    for entry in entries:
        stacks = [leaves[path] for path in entry.ours]
        for layer, name in enumerate(_names(entry, stacks[0].shape[0] if entry.layered else 1)):
            parts = [whole(stack[layer] if entry.layered else stack) for stack in stacks]
            yield name, np.ascontiguousarray(entry.write(parts).astype(dtype))


def save(folder: Path, params: Any, entries: Sequence[Entry], *, dtype: Any, most_bytes: int = 2 << 30) -> None:
    """Write the tensors as safetensors files of at most `most_bytes` (and one tensor), and their index.

    Args:
        dtype: of every tensor, np.float32 or jnp.bfloat16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, total = [], 0
    for i, group in enumerate(_grouped(unloaded(params, entries, dtype), most_bytes)):
        if is_main():
            save_file(group, folder / f"part-{i}.tmp", metadata={"format": "pt"})
        written.append(list(group))
        total += sum(array.nbytes for array in group.values())
    if not is_main():
        return
    names = [SINGLE] if len(written) == 1 else [_shard(i, len(written)) for i in range(len(written))]
    for i, name in enumerate(names):
        (folder / f"part-{i}.tmp").replace(folder / name)
    if len(written) > 1:
        weight_map = {tensor: names[i] for i, tensors in enumerate(written) for tensor in tensors}
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        draft = folder / f"{INDEX}.tmp"
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / INDEX)


def _grouped(arrays: Iterable[tuple[str, np.ndarray]], most_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    """Arrays in order, as many at a time as `most_bytes` hold, and one at least."""
    group: dict[str, np.ndarray] = {}
    size = 0
    for name, array in arrays:
        if group and size + array.nbytes > most_bytes:
            yield group
            group, size = {}, 0
        group[name] = array
        size += array.nbytes
    yield group


def _shard(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"
