"""The reader of compiled programs: on one whose collectives are known, and on lines as a TPU's compiler prints them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from pit_jax.parallel.hlo import Collective, Loop, array_bytes, collectives
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import P

LAYERS, MOST, WIDTH = 3, 11, 16


@pytest.fixture(scope="module")
def found() -> list[Collective]:
    """A loop that ends when the sum is large, around a scan that gathers one of three matrices after the other."""
    mesh = mesh_of(1, 8, 1)

    def program(weights_UXY: jax.Array, x_BX: jax.Array) -> jax.Array:
        def layer(x_BX: jax.Array, weights_XY: jax.Array) -> tuple[jax.Array, None]:
            whole_XY = jax.lax.with_sharding_constraint(weights_XY, NamedSharding(mesh, P()))
            return jnp.tanh(x_BX @ whole_XY), None

        def body(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            step, x_BX = state
            return step + 1, jax.lax.scan(layer, x_BX, weights_UXY)[0]

        def more(state: tuple[jax.Array, jax.Array]) -> jax.Array:
            return (state[0] < MOST) & (jnp.sum(state[1]) < 1e6)

        return jax.lax.while_loop(more, body, (jnp.int32(0), x_BX))[1]

    def shape(size: tuple[int, ...], spec: Any) -> Any:
        return jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(mesh, spec))

    args = shape((LAYERS, WIDTH, WIDTH), P(None, "fsdp")), shape((32, WIDTH), P("fsdp"))
    return collectives(str(jax.jit(program).lower(*args).compile().as_text()))


def test_a_gather_in_a_scan_in_a_loop(found: list[Collective]) -> None:
    (gather,) = [collective for collective in found if collective.kind == "all-gather"]
    assert (gather.bytes, gather.largest, gather.group) == (4 * WIDTH**2, 4 * WIDTH**2, 8)
    assert [(loop.trips, loop.exact) for loop in gather.loops] == [(MOST, False), (LAYERS, True)]
    assert gather.inside_loop and gather.inside_open_loop and gather.times == MOST * LAYERS
    assert gather.sent == 4 * WIDTH**2 * 7 / 8


def test_the_end_of_a_loop_is_agreed_on_in_its_condition(found: list[Collective]) -> None:
    (reduce,) = [collective for collective in found if collective.kind == "all-reduce"]
    assert (reduce.bytes, reduce.group, reduce.times) == (4, 8, MOST)
    assert "reduce_sum" in reduce.source and reduce.sent == 2 * 4 * 7 / 8


def test_a_program_on_one_device_moves_nothing() -> None:
    assert collectives(str(jax.jit(jnp.cos).lower(np.float32(1)).compile().as_text())) == []


TPU = """HloModule jit_f, num_partitions=8

%fused.1 (p0: f32[8,4]) -> f32[8,8] {
  %p0 = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.1 = f32[8,8]{1,0:T(8,128)S(1)} all-gather(%p0), channel_id=7, replica_groups=[4,2]<=[8]
}

%fused.2 (p0: f32[8,4]) -> f32[8,8] {
  %p0 = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.2 = f32[8,8]{1,0:T(8,128)} all-gather(%p0), channel_id=7, replica_groups=[4,2]<=[8]
}

%fused.3 (p0: f32[16,4]) -> f32[16,8] {
  %p0 = f32[16,4]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.3 = f32[16,8]{1,0:T(8,128)} all-gather(%p0), channel_id=9, replica_groups=[4,2]<=[8]
}

%async_collective_fusion.4 (p0: f32[16,4]) -> f32[16,8] {
  %p0 = f32[16,4]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.4 = f32[16,8]{1,0:T(8,128)} all-gather(%p0), channel_id=9, replica_groups=[4,2]<=[8]
}

%all-reduce-scatter.1 (p0: bf16[64,2]) -> bf16[16,2] {
  %p0 = bf16[64,2]{1,0} parameter(0)
  %all-reduce.9 = bf16[64,2]{1,0} all-reduce(%p0), channel_id=1, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  ROOT %slice = bf16[16,2]{1,0} dynamic-slice(%all-reduce.9), dynamic_slice_sizes={16,2}
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%t), index=1
  %s.1 = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %d.1 = f32[8,4]{1,0} collective-permute-done(%s.1)
  %f.1 = f32[8,8]{1,0} fusion(%d.1), kind=kCustom, calls=%fused.1
  %f.2 = f32[8,8]{1,0} fusion(%d.1), kind=kCustom, calls=%fused.2, metadata={op_name="jit(f)/while/body/dot"}
  %f.4 = f32[16,8]{1,0} fusion(%e), kind=kCustom, calls=%async_collective_fusion.4
  ROOT %r = (s32[]{:T(128)}, f32[8,4]{1,0}) tuple(%c, %d.1)
}

%condition (t: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %t = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8,4], y: bf16[64,2]) -> (f32[8,4], bf16[16,2]) {
  %x = f32[8,4]{1,0} parameter(0)
  %async-collective-start.3 = f32[16,8]{1,0} fusion(%v), kind=kCustom, calls=%fused.3
  %w = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0}) while(%x), condition=%condition, body=%body
  %g = ((f32[2], f32[3]), (f32[8], f32[12])) all-gather-start(%a, %b), replica_groups=mesh['d'=2,'f'=4] {'f'}
  %gd = (f32[8]{0}, f32[12]{0}) all-gather-done(%g)
  %rs = f32[2,4]{1,0} reduce-scatter(%z), replica_groups={}, to_apply=%add
  %aa = (f32[4]{0}, f32[4]{0}) all-to-all(%k, %l), replica_groups={{0,1},{2,3},{4,5},{6,7}}
  ROOT %o = bf16[16,2]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_what_a_tpu_prints() -> None:
    """Steps of a gather in two fusions, of another in a loop that it goes on beside; groups in every notation."""
    loop = (Loop("w", 5, exact=True),)
    found = [(c.name, c.kind, c.bytes, c.largest, c.group, c.loops) for c in collectives(TPU)]
    assert found == [
        ("all-gather.3", "all-gather", 512, 512, 2, ()),
        ("s.1", "collective-permute", 128, 128, 2, loop),
        ("all-gather.1", "all-gather", 256, 256, 2, loop),
        ("g", "all-gather", 80, 48, 4, ()),
        ("rs", "reduce-scatter", 256, 256, 8, ()),
        ("aa", "all-to-all", 32, 32, 2, ()),
        ("all-reduce.9", "reduce-scatter", 256, 256, 4, ()),
    ]
    assert [c.sent for c in collectives(TPU)] == [256, 128, 128, 60, 224, 16, 192]


@pytest.mark.parametrize(
    ("type", "sizes"),
    [
        ("f32[2,3]{1,0:T(8,128)}", [24]),
        ("(pred[], bf16[4]{0}, s4[3]{0}, f8e4m3fn[5]{0})", [1, 8, 2, 5]),
        ("(s32[]{:T(128)}, /*index=1*/u64[2]{0})", [4, 16]),
        ("bf16[<=8,2]{1,0}", [32]),
    ],
)
def test_the_bytes_of_a_type(type: str, sizes: list[int]) -> None:
    assert array_bytes(type) == sizes
