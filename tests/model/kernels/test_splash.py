"""Splash attention against one mask: the kernel in interpret mode, for other devices than a TPU's."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.model import attention
from pit_jax.model.kernels.splash import HEAD_SIZES, LARGEST_BLOCK, block_of, mixed_by_splash
from pit_jax.model.mixing import mixed_dense
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Sequences, near, visible
from pit_jax.parallel.mesh import mesh_of, mesh_over
from pit_jax.parallel.topologies import has_tpu_compiler, topology_of, tpu_devices
from tests.model.lowering import lowered

LENGTH = 150  # two blocks, the second one padded
PADDED = np.concatenate([np.zeros(20), np.full(80, 1), np.full(45, 2), np.zeros(5)]).astype(np.int32)
RIGHT = np.concatenate([np.ones(140), np.zeros(10)]).astype(np.int32)
SPLASH = partial(mixed_by_splash, interpret=True)


def mixed_by_mask(
    query: jax.Array, key: jax.Array, value: jax.Array, segments_BL: jax.Array, *, cap: float, window: int = 0
) -> jax.Array:
    """What the kernel mixes, with one mask."""
    (b, length, n, h), k = query.shape, key.shape[2]
    rows = Sequences.alone(segments_BL)
    seen_BLS = visible(rows) & near(rows, window or length)
    grouped = query.reshape(b, length, k, n // k, h)
    return mixed_dense(grouped, key.swapaxes(1, 2), value.swapaxes(1, 2), seen_BLS, cap=cap).reshape(query.shape)


@pytest.mark.parametrize(("window", "cap", "kv_heads"), [(9, 2.0, 1), pytest.param(0, 0.0, 2, marks=pytest.mark.slow)])
def test_the_kernel_mixes_what_one_mask_mixes(window: int, cap: float, kv_heads: int) -> None:
    """Outputs and gradients at real slots, of four query heads; rows of two sequences, padded left and right."""
    rng = np.random.default_rng(0)
    query, weight = (jnp.asarray(rng.normal(0, 1, (2, LENGTH, 4, 16)), jnp.float32) for _ in range(2))
    key, value = (jnp.asarray(rng.normal(0, 1, (2, LENGTH, kv_heads, 16)), jnp.float32) for _ in range(2))
    segments_BL = jnp.asarray(np.stack([PADDED, RIGHT]))
    real_BL11 = (segments_BL > 0)[:, :, None, None]

    def read(mix: Callable[..., jax.Array]) -> Any:
        def loss(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
            mixed = jnp.where(real_BL11, mix(*operands, segments_BL, cap=cap, window=window), 0.0)
            return jnp.sum(mixed * weight), mixed

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    (gradients, mixed), (expected_gradients, expected) = read(SPLASH), read(mixed_by_mask)
    for found, wanted in zip((mixed, *gradients), (expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=16, ffn=24)


@pytest.mark.parametrize(("mix", "length"), [(mixed_by_mask, 24), pytest.param(SPLASH, LENGTH, marks=pytest.mark.slow)])
def test_a_model_on_a_mesh_with_every_other_layer_windowed(
    mix: Callable[..., jax.Array], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states and the gradient of every parameter; four tensor devices for two key/value heads, which are
    repeated. With one mask in the kernel's place, which compiles sooner, all that stands around it is tested."""
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    monkeypatch.setattr(attention, "mixed_by_splash", mix)
    config = replace(CONFIG, window=5, windowed=(True, False), attention_softcap=3.0)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(LanguageModel(config, 30).init, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.3, 0.25, s.shape), jnp.float32), shapes)
    tokens_BL = jnp.asarray(rng.integers(0, 30, (2, length)), jnp.int32)
    rows = Sequences.alone(jnp.asarray(np.stack([PADDED > 0, RIGHT])[:, -length:], jnp.int32))

    def read(way: Any) -> Any:
        model = LanguageModel(replace(config, attention=way), 30)

        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            hidden_BLD = jnp.where(rows.segments_BL[:, :, None] > 0, model.hidden(params, tokens_BL, rows), 0.0)
            return jnp.sum(hidden_BLD**2), hidden_BLD

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    with jax.set_mesh(mesh_of(1, 2, 4)):
        found, expected = read("splash"), read("dense")
    for (path, mine), wanted in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("longest", [128, 256, 384, 512, 640, 1552, 2064, 4096])
def test_blocks_are_as_large_as_padding_allows(longest: int) -> None:
    known = {128: 128, 256: 256, 384: 128, 512: 512, 640: 128, 1552: 256, 2064: 256, 4096: 512}
    block, least = block_of(longest), -(-longest // 128) * 128
    assert block == known[longest] and -(-longest // block) * block <= 1.125 * least


TPU = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")


def test_auto_is_decided_by_the_devices_that_a_program_is_for() -> None:
    """Forwards, the same once more for the backward pass, and its two kernels; on a CPU's mesh without a TPU."""
    config = replace(CONFIG, dtype="bfloat16", remat="full")
    text = str(lowered(config, mesh_of(2, 2, 2), 300, TPU, "tpu").as_text())
    assert text.count("custom_call @tpu_custom_call") == 4 and "300x300" not in text


@pytest.mark.skipif(not has_tpu_compiler(), reason="libtpu is not installed")
def test_the_largest_heads_and_blocks_compile_for_a_tpu() -> None:
    """One key/value head for two tensor devices, a cap and a window, on a slice of four chips."""
    config = replace(
        CONFIG, dtype="bfloat16", head_size=max(HEAD_SIZES), kv_heads=1, attention_softcap=50.0, window=100
    )
    mesh = mesh_over((1, 2, 2), tpu_devices(topology_of("v5e-4")))
    assert block_of(LARGEST_BLOCK) == LARGEST_BLOCK
    assert "tpu_custom_call" in lowered(config, mesh, LARGEST_BLOCK, TPU, "tpu").compile().as_text()
