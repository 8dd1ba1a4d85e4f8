"""Checkpoint folders read and written: shards, dtypes, meshes, and folders that are not what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from pit_jax.architecture import TransformerConfig
from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import FAMILIES
from pit_jax.parallel.mesh import make_mesh

CONFIG = TransformerConfig(
    width=16, layers=3, query_heads=4, kv_heads=2, head_size=4, ffn=24, tied=False, qkv_bias=True
)
MODEL = LanguageModel(CONFIG, 33)
ENTRIES = FAMILIES["qwen2"].entries(CONFIG)
SHAPES = jax.eval_shape(MODEL.init, jax.random.key(0))
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def params() -> Any:
    """Random everywhere, biases and norms too."""
    leaves, tree = jax.tree.flatten(SHAPES)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.fixture
def folder(params: Any, tmp_path: Path) -> Path:
    weights.save(tmp_path, params, ENTRIES, dtype=np.float32)
    return tmp_path


def same(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b)))


def test_what_is_saved_is_loaded_in_its_shards(folder: Path, params: Any, mesh: Mesh) -> None:
    found = weights.load(folder, ENTRIES, SHAPES, mesh)
    assert same(found, params)
    query = found["blocks"]["attention"]["query"]
    assert query.addressable_shards[0].data.shape == (3, 8, 2, 4), "fsdp over D, tensor over N"
    assert same(weights.load(folder, ENTRIES, SHAPES, make_mesh(MeshConfig(data=8))), params)


def test_several_files_and_their_index(params: Any, tmp_path: Path, mesh: Mesh) -> None:
    weights.save(tmp_path, params, ENTRIES, dtype=np.float32, most_bytes=4000)
    files = sorted(path.name for path in tmp_path.iterdir())
    count = len(files) - 1
    assert count > 3 and files == [
        *(f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)),
        weights.INDEX,
    ]
    index = json.loads((tmp_path / weights.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert same(weights.load(tmp_path, ENTRIES, SHAPES, mesh), params)


def test_a_single_file_comes_before_an_index(folder: Path, params: Any, mesh: Mesh) -> None:
    """As in transformers: the files of the index are those of before a merge."""
    other = jax.tree.map(lambda x: x + 1, params)
    weights.save(folder, other, ENTRIES, dtype=np.float32, most_bytes=4000)
    assert (folder / weights.INDEX).is_file() and (folder / weights.SINGLE).is_file()
    assert same(weights.load(folder, ENTRIES, SHAPES, mesh), params)


def test_bfloat16_is_read_exactly(params: Any, tmp_path: Path, mesh: Mesh) -> None:
    weights.save(tmp_path, params, ENTRIES, dtype=jnp.bfloat16)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), params)
    assert same(weights.load(tmp_path, ENTRIES, SHAPES, mesh), rounded)


def test_buffers_of_old_checkpoints_and_a_tied_head_are_passed_over(folder: Path, params: Any, mesh: Mesh) -> None:
    path = folder / weights.SINGLE
    tensors = load_file(path) | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"written.twice": embedding}, path)
    assert same(weights.load(folder, ENTRIES, SHAPES, mesh, tied="written.twice"), params)
    save_file(tensors | {"written.twice": embedding + 1}, path)
    with pytest.raises(
        UserError, match=r"written\.twice is another matrix than model\.embed_tokens\.weight; write tie_"
    ):
        weights.load(folder, ENTRIES, SHAPES, mesh, tied="written.twice")
    with pytest.raises(UserError, match=r"nothing reads written\.twice"):
        weights.load(folder, ENTRIES, SHAPES, mesh)


def bare(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def test_a_base_model_s_file_with_the_output_beside_it(folder: Path, params: Any, mesh: Mesh) -> None:
    """And without: it is no model of language then."""
    tensors = bare(load_file(folder / weights.SINGLE))
    assert {"embed_tokens.weight", "lm_head.weight"} < tensors.keys()
    save_file(tensors, folder / weights.SINGLE)
    assert same(weights.load(folder, ENTRIES, SHAPES, mesh), params)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / weights.SINGLE)
    with pytest.raises(
        UserError, match=r"the weights hold no lm_head\.weight: saved from a base model alone, they have"
    ):
        weights.load(folder, ENTRIES, SHAPES, mesh)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_a_text_part_and_what_reads_images(folder: Path, params: Any, mesh: Mesh, prefix: str) -> None:
    """As transformers 4 and 5 name them."""
    inside, head = (prefix + "model.", "language_model.") if prefix == "language_model." else (prefix, "")
    tensors = {
        head + name if name.startswith("lm_head") else inside + name.removeprefix("model."): tensor
        for name, tensor in load_file(folder / weights.SINGLE).items()
    }
    images = {"vision_tower.x.weight": np.zeros(2), "model.multi_modal_projector.linear.weight": np.zeros(2)}
    save_file(tensors | images, folder / weights.SINGLE)
    assert same(weights.load(folder, ENTRIES, SHAPES, mesh), params)


def changed(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / weights.SINGLE)
        change(tensors)
        save_file(tensors, folder / weights.SINGLE)

    return apply


def put(tensors: dict[str, np.ndarray], dtype: Any, number: float) -> None:
    """A number into a query matrix of another dtype."""
    matrix = tensors[QUERY].astype(dtype)
    matrix[3, 2] = number
    tensors[QUERY] = matrix


def index(content: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / weights.SINGLE).rename(folder / "all.safetensors")
        (folder / weights.INDEX).write_text(content if isinstance(content, str) else json.dumps(content))

    return apply


def cut(folder: Path) -> None:
    path = folder / weights.SINGLE
    path.write_bytes(path.read_bytes()[:-100])


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / weights.SINGLE).unlink(), r"asked for model\.safetensors or .*, found neither"),
    (lambda folder: (folder / weights.SINGLE).write_bytes(b"\x80\x04rubbish"), "asked for a safetensors file, found"),
    (cut, "asked for a safetensors file, found"),
    (changed(lambda tensors: tensors.pop(QUERY)), f"do not fit the config: missing {QUERY}"),
    (changed(lambda t: t.update(extra=np.zeros(2, np.float32))), "nothing reads extra"),
    (
        changed(lambda t: t.update({"model.layers.0.mlp.up_proj.weight": np.zeros((16, 24), np.float32)})),
        r"up_proj.weight has shape \[16, 24\], asked for \[24, 16\]",
    ),
    (
        changed(lambda t: t.update({QUERY: np.zeros((16, 16), np.int64)})),
        r"q_proj.weight has dtype I64, asked for one of F32, BF16, F16",
    ),
    (changed(lambda t: t.update({"lm_head.weight": np.zeros((40, 16), np.float32)})), r"has shape \[40, 16\]"),
    (
        changed(lambda t: put(t, np.float32, np.nan)),
        r"1 of the 256 numbers of .*layers\.1.*q_proj.weight are NaN or inf",
    ),
    (changed(lambda t: put(t, np.float16, -np.inf)), r"1 of the 256 numbers of .* are NaN or infinite; nothing can"),
    (changed(lambda t: put(t, jnp.bfloat16, np.nan)), r"model\.safetensors: 1 of the 256 numbers of .* are NaN"),
    (index("{"), "asked for a weight_map of files, found"),
    (index({"weight_map": ["a"]}), "asked for a weight_map of files, found"),
    (index({"weight_map": {QUERY: "../elsewhere.safetensors"}}), "outside .*; a checkpoint lies in one folder"),
    (index({"weight_map": {QUERY: "/etc/passwd"}}), "outside .*; a checkpoint lies in one folder"),
    (index({"weight_map": {QUERY: "model-7.safetensors"}}), "names model-7.safetensors, and there is no such file"),
    (index({"weight_map": {"absent": "all.safetensors"}}), "puts absent into files that do not hold them"),
]


@pytest.mark.parametrize(("spoil", "message"), HOSTILE)
def test_a_folder_that_is_not_what_it_says(
    folder: Path, mesh: Mesh, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message):
        weights.load(folder, ENTRIES, SHAPES, mesh)


def test_a_folder_in_which_everything_is_missing_names_a_few(folder: Path, mesh: Mesh) -> None:
    save_file({"x": np.zeros(1, np.float32)}, folder / weights.SINGLE)
    with pytest.raises(UserError, match=r"missing model.embed_tokens.weight, .* and \d\d more; nothing reads x"):
        weights.load(folder, ENTRIES, SHAPES, mesh)
