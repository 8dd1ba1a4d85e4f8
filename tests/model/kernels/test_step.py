"""The kernel of a step against the dense reference, interpreted, and that a draw lowers with it for GPUs."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import DecodeSpec
from pit_jax.config import TransformerConfig
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.attention import takes_kernel
from pit_jax.model.kernels import cudnn, step
from pit_jax.model.kernels.step import mixed_in_a_step
from pit_jax.model.mixing import mixed_dense
from pit_jax.model.networks import LanguageModel
from pit_jax.parallel.mesh import mesh_of

GPU = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
CONFIG = TransformerConfig(width=64, query_heads=4, kv_heads=2, head_size=32, ffn=64, dtype="bfloat16")


@pytest.mark.parametrize(("groups", "slots"), [(1, 150), (4, 64), (2, 129)])
def test_a_step_mixes_what_the_dense_mask_mixes(groups: int, slots: int) -> None:
    """Blocks of 64 that overlap at the end; slots that are not seen before, between and behind, and in one row all."""
    rng, heads, size = np.random.default_rng(0), 2, 32
    query = jnp.asarray(rng.normal(0, 1, (4, heads, groups, size)), jnp.float32)
    key, value = (jnp.asarray(rng.normal(0, 1, (4, heads, slots, size)), jnp.float32) for _ in range(2))
    seen_BS = np.zeros((4, slots), bool)
    seen_BS[0] = True
    seen_BS[1, 3:20], seen_BS[1, 40:-2] = True, True
    seen_BS[2, -1] = True
    hidden_BKSH = ~seen_BS[:, None, :, None]
    junk = jnp.where(hidden_BKSH, jnp.float32(1e3), key), jnp.where(hidden_BKSH, jnp.float32(1e3), value)
    mixed = jax.jit(partial(mixed_in_a_step, interpret=True))(query, *junk, jnp.asarray(seen_BS))
    expected = jax.jit(partial(mixed_dense, cap=0.0))(query[:, None], key, value, jnp.asarray(seen_BS)[:, None])[:, 0]
    np.testing.assert_allclose(mixed[:3], expected[:3], rtol=1e-4, atol=1e-5)
    assert (mixed[3] == 0).all(), "where nothing is seen"


def test_a_draw_reads_its_cache_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one GPU, a kernel a layer; on two, none."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91100)
    for module in (cudnn, step):
        monkeypatch.setattr(module, "capability", lambda: 9.0)

    def kernels(devices: int) -> int:
        engine = Engine(LanguageModel(CONFIG, 30), DecodeSpec(40, 1, 0, ()))
        prompt_BP = jax.ShapeDtypeStruct((80, 24), jnp.int32)
        given: tuple[Any, ...] = (engine.weights, prompt_BP, jax.ShapeDtypeStruct(prompt_BP.shape, bool))
        rest = jax.eval_shape(lambda: (jax.random.key(0), Sampling(jnp.float32(1.0)), jnp.int32(0)))
        with jax.sharding.use_abstract_mesh(mesh_of(devices, 1, 1).abstract_mesh.update(abstract_device=GPU)):
            lowered = engine.complete.trace(*given, *rest).lower(lowering_platforms=("cuda",))
        return lowered.as_text().count("__gpu$xla.gpu.triton")

    assert (kernels(1), kernels(2)) == (CONFIG.layers, 0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"platform": "tpu"}, "NVIDIA GPUs of compute capability 8.0 and above, found tpu"),
        ({"dtype": "float32"}, "bfloat16, no cap, and heads of (32, 64, 128), found float32, 0.0 and 64"),
        ({"cap": 50.0}, "found bfloat16, 50.0 and 64"),
        ({"shape": (64, 8, 512, 96)}, "0.0 and 96"),
        ({"shape": (16, 8, 512, 64)}, "132 heads of rows and 64 slots, found 128 and 512"),
        ({"shape": (64, 8, 48, 64)}, "found 512 and 48"),
    ],
)
def test_what_it_takes(changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "capability", lambda: 8.0)
    given: dict[str, Any] = {"platform": "gpu", "dtype": "bfloat16", "cap": 0.0, "shape": (64, 8, 512, 64)}
    reason = step.step_refusal(**{**given, **changes})
    assert told in reason and bool(reason) == bool(told)


def test_a_model_that_asks_for_a_dense_mask_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "capability", lambda: 8.0)
    with jax.sharding.use_abstract_mesh(mesh_of(1, 1, 1).abstract_mesh.update(abstract_device=GPU)):
        found = {way: takes_kernel(replace(CONFIG, attention=way), (80, 2, 64, 32)) for way in ("auto", "dense")}
    assert found == {"auto": True, "dense": False}
