"""What cuDNN is given, with JAX's own attention in its place, and that a model's backward pass lowers for GPUs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.model.kernels import cudnn
from pit_jax.model.mixing import mixed_dense
from pit_jax.model.rows import Sequences, near, visible
from pit_jax.parallel.mesh import mesh_of
from tests.model.lowering import lowered


@pytest.mark.parametrize("window", [0, 3])
def test_packed_rows_need_no_mask(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding on the left, on the right and on both sides, in 9 slots; numbers and gradients as with one mask."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, **how: plain(*x, **{**how, "implementation": None}))
    rng = np.random.default_rng(0)
    query = jnp.asarray(rng.normal(0, 1, (3, 9, 4, 8)), jnp.float32)
    key, value = (jnp.asarray(rng.normal(0, 1, (3, 9, 2, 8)), jnp.float32) for _ in range(2))
    padded = [[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0, 0]]
    rows = Sequences.alone(jnp.asarray(padded, jnp.int32))
    seen_BLS = visible(rows) & near(rows, window or 9)

    real_BLNH = (rows.segments_BL > 0)[:, :, None, None]
    slope_BLNH = jnp.asarray(rng.normal(0, 1, query.shape), jnp.float32)

    def plain_mask(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        grouped = query.reshape(3, 9, 2, 2, 8)
        mixed = mixed_dense(grouped, key.swapaxes(1, 2), value.swapaxes(1, 2), seen_BLS, cap=0.0)
        return jnp.where(real_BLNH, mixed.reshape(query.shape), 0.0)

    def by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(real_BLNH, cudnn.mixed_by_cudnn(query, key, value, rows.segments_BL, window=window), 0.0)

    @jax.jit
    def both(*operands: jax.Array) -> list[tuple[jax.Array, tuple[jax.Array, ...]]]:
        passes = [jax.vjp(mix, *operands) for mix in (by_cudnn, plain_mask)]
        return [(mixed, backward(slope_BLNH)) for mixed, backward in passes]

    (mixed, gradients), (expected, wanted) = both(query, key, value)
    for found, right in zip((mixed, *gradients), (expected, *wanted), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


CONFIG = TransformerConfig(
    width=16, query_heads=4, kv_heads=2, ffn=24, dtype="bfloat16", window=100, windowed=(True, False), attention="cudnn"
)


def test_a_model_lowers_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel forwards and one backwards for each of two windows, with two key/value heads on four devices."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
    gpu = jax.sharding.AbstractDevice("NVIDIA A100-SXM4-40GB", 108, "gpu")
    text = str(lowered(CONFIG, mesh_of(2, 1, 4), 301, gpu, "cuda").as_text())
    assert text.count("custom_call @__cudnn$fmhaSoftmax(") == text.count("@__cudnn$fmhaSoftmaxBackward(") == 2
    assert "301x301" not in text, "no mask and no scores"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"platform": "cpu"}, "NVIDIA GPUs of compute capability 8.0 and above, found cpu"),
        ({"dtype": "float32"}, "in bfloat16, found --transformer.dtype=float32"),
        ({"head_size": 256}, "up to 128, found 256"),
        ({"head_size": 12}, "multiple of 8"),
        ({"cap": 50.0}, "attention_softcap=50"),
    ],
)
def test_what_it_takes(change: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "capability", lambda: 8.0)
    reason = cudnn.cudnn_refusal(**{"platform": "gpu", "dtype": "bfloat16", "head_size": 64, "cap": 0.0, **change})
    assert (told in reason) and bool(reason) == bool(told)


def test_the_capability_of_what_is_no_gpu_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        compute_capability = "gfx942"

    assert cudnn.capability() == 0.0
    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    assert cudnn.capability() == 0.0
    Device.compute_capability = "9.0"
    assert cudnn.capability() == 9.0
