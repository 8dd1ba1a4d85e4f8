"""Weights of a checkpoint folder in the Hugging Face layout, tensor by tensor onto the mesh and back.

safetensors only: no pickle is ever opened. Every name, shape and dtype is checked before the first number is read.
"""

import functools
import json
import math
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

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.adapters import matrix_sizes
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.parallel.hosts import is_main, whole
from pit_jax.parallel.sharding import named_leaves, param_sharding

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
# Buffers that older checkpoints hold beside their weights, which follow from the config, and what reads images.
UNREAD = re.compile(r"\.(rotary_emb\.inv_freq|attention\.(bias|masked_bias))$|^(model\.)?(vision_tower|multi_modal_)")
# A text part's names within a model of images and text, as they are alone.
OF_TEXT_PART = ((r"^(model\.language_model|language_model\.model)\.", "model."), (r"^language_model\.", ""))
FEW = 10**7  # parameters, of which all is made and named in a moment
HEADS = ("lm_head.", "embed_out.")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies and what its file says of it."""

    name: str
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
                tensors[name] = Tensor(name, path, tuple(piece.get_shape()), piece.get_dtype())
    lost = [name for name, path in placed.items() if name and (name not in tensors or tensors[name].file != path)]
    if lost:
        raise UserError(f"{folder / INDEX} puts {_some(lost)} into files that do not hold them; download them again")
    return tensors


def is_in(folder: Path) -> bool:
    """Whether a folder has weights that `tensors_in` looks for."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def check_sizes(folder: Path, config: TransformerConfig) -> None:
    """UserError for a config that describes far more parameters than the files hold, before memory is taken for them.

    Smaller differences are named by `check_tensors`, tensor by tensor.
    """
    matrices = sum(rows * columns for rows, columns in matrix_sizes(config).values())
    matrices += 3 * config.experts * config.width * config.ffn
    described = config.layers * matrices + config.vocab_rows * config.width
    held = sum(math.prod(tensor.shape) for tensor in tensors_in(folder).values())
    if described > max(2 * held, FEW):
        raise UserError(
            f"{folder}: config.json describes {described:,} parameters (layers={config.layers}, width={config.width}, "
            f"ffn={config.ffn}, heads of {config.head_size}, vocabulary={config.vocab_rows}), the files hold {held:,}; "
            "the two do not belong together"
        )


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


def as_causal(tensors: Mapping[str, Tensor], entries: Sequence[Entry]) -> dict[str, Tensor]:
    """The tensors by the names that they have in a causal language model.

    A text part loses what surrounds it, and those of a file saved from the base model alone get their prefix.
    """
    (norm,) = (entry.theirs for entry in entries if entry.ours == ("final_norm/scale",))
    prefix = norm[: norm.index(".") + 1]
    named = dict(tensors)
    for pattern, replacement in OF_TEXT_PART:
        named = {re.sub(pattern, replacement, name): tensor for name, tensor in named.items()}
    if norm.removeprefix(prefix) not in named:
        return named
    return {name if name.startswith(HEADS) else prefix + name: tensor for name, tensor in named.items()}


def tensor_shapes(entries: Sequence[Entry], params: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor that holds a part of `params` (arrays, or their shapes)."""
    leaves = named_leaves(params)
    for entry in entries:
        shapes = [leaves[path].shape for path in entry.ours]
        zeros = [np.broadcast_to(np.float32(0), shape[entry.stacks :]) for shape in shapes]
        shape = entry.write(zeros).shape
        for name, _ in entry.places(shapes[0]):
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
    extra = [name for name in sorted(tensors.keys() - expected.keys()) if not UNREAD.search(name) and name != tied]
    if len(missing) == 1 and missing[0].startswith(HEADS) and not extra and not wrong:
        raise UserError(
            f"the config says that the output is a matrix of its own, and the weights hold no {missing[0]}: saved from "
            "a base model alone, they have no output to start from; write tie_word_embeddings=true into config.json "
            "where the model ties it to the embedding, else take the checkpoint of the causal language model"
        )
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
        UserError: as `tensors_in` and `check_tensors`, for another matrix than the embedding under `tied`, and for a
            tensor with numbers that are NaN or infinite.
    """
    tensors = as_causal(tensors_in(folder), entries)
    check_tensors(tensors, entries, shapes, tied=tied)
    if tied in tensors:
        (embedding,) = (entry.theirs for entry in entries if entry.ours == ("embedding",))
        if not np.array_equal(_array(tensors[embedding]), _array(tensors[tied])):
            raise UserError(
                f"{folder}: the config ties the output to the embedding, and {tied} is another matrix than "
                f"{embedding}; write tie_word_embeddings=false into config.json to use both, or remove {tied}"
            )
    shardings = param_sharding(shapes, mesh)
    zeros = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), out_shardings=shardings)
    placed, places = named_leaves(zeros()), named_leaves(shardings)
    for entry in entries:
        for name, index in entry.places(placed[entry.ours[0]].shape):
            parts = entry.read(_finite(tensors[name]))
            for path, part in zip(entry.ours, parts, strict=True):
                placed[path] = _put(placed[path], part, index, places[path])
    return jax.tree.unflatten(jax.tree.structure(shapes), list(placed.values()))


def _finite(tensor: Tensor) -> np.ndarray:
    array = _array(tensor)
    if bad := array.size - int(np.isfinite(array).sum()):
        raise UserError(
            f"{tensor.file}: {bad:,} of the {array.size:,} numbers of {tensor.name} are NaN or infinite; nothing can "
            "be trained from them: download it again, or take another checkpoint"
        )
    return array


def _array(tensor: Tensor) -> np.ndarray:
    with _open(tensor.file) as file:  # opened for one tensor, so that no more of it stays mapped
        array: np.ndarray = file.get_tensor(tensor.name)
    return array.view(DTYPES[tensor.dtype]) if array.dtype != DTYPES[tensor.dtype] else array


def _put(old: jax.Array, part: np.ndarray, index: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """`old` with a part at an index of its leading axes."""
    part_sharding = NamedSharding(sharding.mesh, PartitionSpec(*tuple(sharding.spec)[len(index) :]))
    new = jax.make_array_from_callback(part.shape, part_sharding, lambda shard: part[shard].astype(old.dtype))
    return _fill(sharding)(old, new, tuple(np.int32(i) for i in index)) if index else new


@functools.cache
def _fill(sharding: NamedSharding) -> Callable[..., jax.Array]:
    """fill(stack, part, index): one part of a stack replaced, in its own memory."""

    def fill(stack: jax.Array, part: jax.Array, index: tuple[jax.Array, ...]) -> jax.Array:
        start = (*index, *(jnp.zeros_like(index[0]) for _ in part.shape))
        return jax.lax.dynamic_update_slice(stack, part.reshape((1,) * len(index) + part.shape), start)

    return jax.jit(fill, donate_argnums=0, out_shardings=sharding)


def unloaded(params: Any, entries: Sequence[Entry], dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of a checkpoint, one at a time on the host."""
    leaves = named_leaves(params)
    for entry in entries:
        stacks = [leaves[path] for path in entry.ours]
        for name, index in entry.places(stacks[0].shape):
            parts = [whole(stack[index] if index else stack) for stack in stacks]
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
