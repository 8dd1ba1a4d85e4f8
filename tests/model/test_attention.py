"""Rows read in pieces, which need a cache; whole rows in chunks of queries."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.attention import way_of
from pit_jax.model.cache import Apart, Stacked
from pit_jax.model.kernels import cudnn
from pit_jax.model.mixing import CHUNK, mixed_by_chunks, mixed_dense
from pit_jax.model.networks import LanguageModel, layers_apart
from pit_jax.model.rows import NO_TOKEN, Continuation, Sequences, Tree, near, visible, visible_from
from pit_jax.parallel.mesh import mesh_of

CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
WINDOWED = TransformerConfig(**{**vars(CONFIG), "window": 3, "windowed": (True, False), "window_rope_theta": 50.0})


@pytest.mark.parametrize("kind", [Stacked, Apart])
@pytest.mark.parametrize("config", [CONFIG, WINDOWED], ids=["full", "windowed"])
def test_pieces_read_one_after_another_are_the_whole_rows(config: TransformerConfig, kind: Any) -> None:
    """Left-padded rows of 8 slots as pieces of 4, 3 and 1: the hidden states of one pass, and a cache full of them."""
    model, rng = LanguageModel(config, 30), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.3, 0.25, s.shape), jnp.float32), shapes)
    tokens_BL = jnp.asarray(rng.integers(0, 30, (3, 8)), jnp.int32)
    segments_BL = jnp.asarray(np.arange(8)[None] >= np.array([[0], [2], [5]]), jnp.int32)
    whole, real_BS = Sequences.alone(segments_BL), segments_BL > 0
    held_BS = jnp.where(real_BS, whole.positions_BL, NO_TOKEN)
    expected_BLD = jax.jit(model.hidden)(params, tokens_BL, whole)
    decode, cache = jax.jit(model.decode), kind.empty(config, 3, 8)
    params = layers_apart(params, config.layers) if kind is Apart else params
    for start, stop in ((0, 4), (4, 7), (7, 8)):
        rows = Continuation(whole.positions_BL[:, start:stop], held_BS, jnp.int32(start))
        found_BLD, cache = decode(params, tokens_BL[:, start:stop], rows, cache)
        own_BL = np.asarray(real_BS)[:, start:stop]
        np.testing.assert_allclose(found_BLD[own_BL], expected_BLD[:, start:stop][own_BL], rtol=1e-5, atol=1e-5)
    for layer in range(config.layers):
        assert bool(jnp.all(jnp.any(cache.of(layer)[0] != 0, axis=-1))), "every slot was written"


def test_a_continuation_without_a_cache_is_refused() -> None:
    model = LanguageModel(CONFIG, 30)
    rows = Continuation(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 4), jnp.int32), jnp.int32(0))
    with pytest.raises(AssertionError, match="a continuation needs the cache it continues"):
        jax.eval_shape(model.hidden, jax.eval_shape(model.init, jax.random.key(0)), jnp.zeros((1, 2), jnp.int32), rows)


def whole_rows(kind: str) -> Sequences | Tree:
    """Two rows of 11 slots: several sequences, padded on both sides; or a gap tree."""
    if kind == "tree":
        nodes_BL = jnp.asarray([[1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 0], [1, 2, 3, 3, 3, 4, 5, 6, 7, 7, 7]], jnp.int32)
        return Tree(jnp.cumsum(jnp.ones_like(nodes_BL), axis=1) // 2, nodes_BL)
    segments_BL = jnp.asarray([[0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0], [1] * 11], jnp.int32)
    return Sequences.alone(segments_BL)


@pytest.mark.parametrize("kind", ["sequences", "tree"])
@pytest.mark.parametrize(("window", "chunk"), [(None, 4), (3, 4), (None, 1)])
def test_chunks_of_queries_mix_what_the_dense_mask_mixes(kind: str, window: int | None, chunk: int) -> None:
    """With gradients and a cap; 11 slots in chunks of 4, the last one not full, and of 1, two of them a band."""
    rows, rng = whole_rows(kind), np.random.default_rng(2)
    query, key, value, weight = (
        jnp.asarray(rng.normal(0, 1, shape), jnp.float32)
        for shape in ((2, 11, 2, 2, 4), (2, 2, 11, 4), (2, 2, 11, 4), (2, 11, 2, 2, 4))
    )
    marks_BL = rows.nodes_BL if isinstance(rows, Tree) else rows.segments_BL
    weight = jnp.where((marks_BL > 0)[:, :, None, None, None], weight, 0.0)  # what padding mixes is nobody's
    seen_BLS = visible(rows) if window is None else visible(rows) & near(rows, window)

    def dense(*operands: jax.Array) -> jax.Array:
        return jnp.sum(weight * mixed_dense(operands[0], operands[1], operands[2], seen_BLS, cap=2.0))

    def chunks(*operands: jax.Array) -> jax.Array:
        seen_from: Any = partial(visible_from, rows, window=window)
        mixed = mixed_by_chunks(operands[0], operands[1], operands[2], seen_from, cap=2.0, chunk=chunk)
        return jnp.sum(weight * mixed)

    operands = query, key, value
    expected, gradients = jax.value_and_grad(dense, argnums=(0, 1, 2))(*operands)
    found, others = jax.jit(jax.value_and_grad(chunks, argnums=(0, 1, 2)))(*operands)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for other, gradient in zip(others, gradients, strict=True):
        np.testing.assert_allclose(other, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [CONFIG, WINDOWED], ids=["full", "windowed"])
def test_a_model_may_attend_in_chunks(config: TransformerConfig) -> None:
    """Rows longer than a chunk do by themselves, and no array of theirs is as large as rows times slots squared."""
    params = jax.tree.map(
        lambda s: jnp.asarray(np.random.default_rng(0).normal(0.3, 0.25, s.shape), jnp.float32),
        jax.eval_shape(LanguageModel(config, 30).init, jax.random.key(0)),
    )
    length = 2 * CHUNK + 8
    tokens_BL = jnp.asarray(np.random.default_rng(1).integers(0, 30, (1, length)), jnp.int32)
    rows = Sequences.alone(jnp.ones_like(tokens_BL))
    ways = {way: LanguageModel(replace(config, attention=way), 30) for way in ("dense", "auto")}
    programs = {way: jax.jit(model.hidden).lower(params, tokens_BL, rows).compile() for way, model in ways.items()}
    dense, chunks = (programs[way](params, tokens_BL, rows) for way in ("dense", "auto"))
    np.testing.assert_allclose(chunks, dense, rtol=1e-4, atol=1e-4)
    square = re.compile(rf"\[[\d,]*{length},{length}\]")
    found = {way: bool(square.search(str(program.as_text()))) for way, program in programs.items()}
    assert found == {"dense": True, "auto": False}


def way(asked: str, platform: str, *, length: int = 600, several: bool = False, tree: bool = False, **more: Any) -> str:
    slots_BL = jnp.ones((1, length), jnp.int32)
    rows = Tree(slots_BL, slots_BL) if tree else Sequences(slots_BL, slots_BL, single=not several)
    device = jax.sharding.AbstractDevice("some device", 1, platform)
    with jax.sharding.use_abstract_mesh(mesh_of(1, 1, 1).abstract_mesh.update(abstract_device=device)):
        return way_of(replace(CONFIG, **{"attention": asked, "head_size": 64, "dtype": "bfloat16", **more}), rows)


def test_auto_takes_the_kernel_of_the_devices_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
    assert [way("auto", "cpu", length=length) for length in (CHUNK, CHUNK + 1)] == ["dense", "chunks"]
    assert [way("auto", "tpu", length=length) for length in (256, 257)] == ["dense", "splash"]
    assert [way("auto", "gpu", length=length) for length in (8, 600)] == ["cudnn", "cudnn"]
    assert way("auto", "tpu", head_size=24) == way("auto", "gpu", several=True) == "chunks"
    assert way("auto", "gpu", attention_softcap=50.0) == way("auto", "gpu", dtype="float32") == "chunks"
    assert way("auto", "tpu", several=True, attention_softcap=50.0, dtype="float32") == "splash"
    assert way("splash", "tpu", length=8) == "splash" and way("dense", "tpu") == "dense"


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_tree_has_no_kernel(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
    assert [way("auto", platform, length=length, tree=True) for length in (CHUNK, CHUNK + 1)] == ["dense", "chunks"]
    for named in {"gpu": ["cudnn"], "tpu": ["splash"]}.get(platform, []):
        assert way(named, platform, length=8, tree=True) == "chunks"


@pytest.mark.parametrize(
    ("asked", "platform", "more", "told"),
    [
        ("splash", "cpu", {}, "attention=splash: this kernel runs on TPUs, found cpu; choose auto, dense or chunks"),
        ("splash", "cpu", {"tree": True}, "runs on TPUs"),
        ("splash", "tpu", {"head_size": 24}, "takes heads of 16, 64, 80, 96, 128, 256, found 24"),
        ("cudnn", "tpu", {}, "NVIDIA GPUs"),
        ("cudnn", "gpu", {"several": True}, "rows of one sequence each, found several"),
    ],
)
def test_a_kernel_that_cannot_be_had(
    asked: str, platform: str, more: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
    with pytest.raises(UserError, match=re.escape(told)):
        way(asked, platform, **more)
