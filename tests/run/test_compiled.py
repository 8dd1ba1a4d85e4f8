"""Programs compiled ahead of time: memory, traffic, errors of compilers, and that nothing is compiled twice."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from pit_jax.parallel.hlo import Collective, Loop, between_slices, collectives
from pit_jax.parallel.mesh import mesh_of, mesh_over
from pit_jax.parallel.sharding import P
from pit_jax.parallel.topologies import has_tpu_compiler, topology_of, tpu_devices
from pit_jax.run import compiled
from pit_jax.run.compiled import compile_program, device_bytes, needed_bytes, summed, too_large
from pit_jax.run.programs import Program

ROWS, WIDTH = 64, 32


def product(mesh: Any) -> Program:
    """x [64, 32] in rows times w [32, 32] in columns of eighths, the result whole everywhere."""

    def place(*axes: Any) -> NamedSharding:
        return NamedSharding(mesh, P(*axes))

    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=place("fsdp"))
    w = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32, sharding=place(None, "fsdp"))
    return Program("product", jax.jit(jnp.dot, out_shardings=place()), (x, w))


def test_a_program_on_simulated_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device holds an eighth of both matrices, sends seven eighths of what it gathers, and has the whole product."""
    program = product(mesh_of(1, 8, 1))
    found = compile_program(program, mesh_of(1, 8, 1), tmp_path)
    assert found.arguments == device_bytes(program.args) == 4 * (ROWS * WIDTH + WIDTH * WIDTH) // 8
    assert found.outputs == 4 * ROWS * WIDTH and found.temporaries is None and found.compiler == "cpu"
    assert {(one.kind, one.place) for one in found.traffic} == {("all-gather", "once")}
    assert too_large(program, mesh_of(1, 8, 1), found.arguments) is None
    alone = too_large(program, mesh_of(1, 8, 1), found.arguments - 1)
    assert alone is not None and alone.needed == found.arguments and alone.temporaries is None
    monkeypatch.setattr(compiled, "_compiled", None)
    assert compile_program(program, mesh_of(1, 8, 1), tmp_path) == found, "read from the folder"


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (66.87G) "
            "exceeds available HBM (15.75G).",
            66.87,
        ),
        (
            "CompileTimeHbmOom: Ran out of memory in memory space hbm. Used 38.44G of 15.75G hbm. Exceeded by 22.69G.",
            38.44,
        ),
        ("Used 512.0M of 15.75G hbm", 0.5),
    ],
)
def test_what_a_program_that_does_not_fit_needs(message: str, gib: float) -> None:
    assert needed_bytes(message) == int(gib * 2**30)
    assert needed_bytes("INTERNAL: Mosaic failed to compile") is None


def test_collectives_are_summed_by_kind_and_place() -> None:
    """Two gathers in a scan of three layers, one of them inside the loop over at most 11 tokens."""
    layers, tokens = Loop("layers", 3, True), Loop("tokens", 11, False)

    def gather(loops: tuple[Loop, ...], size: int) -> Collective:
        return Collective("gather", "all-gather", size, size, 4, loops, "")

    found = summed([gather((layers,), 400), gather((layers,), 40), gather((tokens, layers), 4)])
    assert [(one.place, one.count, one.sent, one.largest) for one in found] == [
        ("loop", 6, 3 * 0.75 * 440, 400),
        ("token", 33, 33 * 3.0, 4),
    ]


SLICES = """HloModule jit_f, num_partitions=8

ENTRY %main (p: f32[64,8,128]) -> f32[64,8,128] {
  %p = f32[64,8,128]{2,1,0} parameter(0)
  %after-all = token[] after-all()
  %send = (f32[64,8,128]{2,1,0:T(4,128)}, u32[], token[]) send(%p, %after-all), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %recv = f32[64,8,128]{2,1,0} copy(%p)
}
"""


def test_what_goes_between_slices() -> None:
    """As libtpu hands a sum over two slices to the host: a chip sends its 256 KiB once, on a ring of two."""
    (one,) = summed(between_slices(SLICES, 2), slices=True)
    assert (one.kind, one.sent, one.largest, one.slices) == ("all-reduce", 2.0**18, 2**18, True)
    assert collectives(SLICES) == []


@pytest.mark.skipif(not has_tpu_compiler(), reason="libtpu is not installed")
def test_a_program_for_a_tpu_that_is_not_there(tmp_path: Path) -> None:
    """One that fits, and one of 512 GiB, which says so."""
    mesh = mesh_over((1, 8, 1), tpu_devices(topology_of("v5e-8")))
    found = compile_program(product(mesh), mesh, tmp_path)
    assert found.compiler == "tpu" and found.needed is None and found.temporaries is not None
    assert found.arguments >= device_bytes(product(mesh).args)
    two = topology_of("v5e-4", 2)
    both = mesh_over((2, 4, 1), tpu_devices(two), 2)
    total = jax.jit(lambda x: jnp.sum(x, axis=0), out_shardings=NamedSharding(both, P("fsdp")))
    rows = jax.ShapeDtypeStruct((16, 4096), jnp.float32, sharding=NamedSharding(both, P(("data", "fsdp"))))
    crossing = compile_program(Program("total", total, (rows,)), both, tmp_path, 2)
    assert crossing.sent(slices=True) > 0 and {one.slices for one in crossing.traffic} == {True, False}
    huge = jax.ShapeDtypeStruct((2**27, 1024), jnp.float32, sharding=NamedSharding(mesh, P()))
    refused = compile_program(Program("huge", jax.jit(lambda x: x + 1), (huge,)), mesh, tmp_path)
    assert refused.needed is not None and refused.needed > 500 * 2**30 and not refused.error
