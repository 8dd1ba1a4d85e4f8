"""Names of TPUs, the machines that they are, and meshes over several slices."""

import jax
import numpy as np
import pytest

from pit_jax.errors import UserError
from pit_jax.parallel.mesh import mesh_over
from pit_jax.parallel.topologies import CHIPS, has_tpu_compiler, topology_of, tpu_devices


@pytest.mark.parametrize(
    ("name", "slices", "chips", "hosts", "kind"),
    [
        ("v5e-1", 1, 1, 1, "v5litepod-1"),
        ("v5e-8", 1, 8, 1, "v5litepod-8"),
        ("v6e-8", 2, 16, 2, "v6e-8"),
        ("v5e-256", 1, 256, 64, "v5litepod-256"),
        ("v5litepod-16", 1, 16, 4, "v5litepod-16"),
        ("v4-8", 1, 4, 1, "v4-8"),
        ("v4-16", 1, 8, 2, "v4-16"),
        ("v5p-64", 1, 32, 8, "v5p-64"),
        ("v5p:4x4x4", 1, 64, 16, "v5p-128"),
        ("v6e-64", 1, 64, 16, "v6e-64"),
        ("v5e-256", 4, 1024, 256, "v5litepod-256"),
    ],
)
def test_a_name_counts_cores_or_chips(name: str, slices: int, chips: int, hosts: int, kind: str) -> None:
    topology = topology_of(name, slices)
    assert (topology.chips, topology.hosts, topology.accelerator_type) == (chips, hosts, kind)


@pytest.mark.parametrize(
    ("name", "slices", "told"),
    [
        ("h100-8", 1, "v4, v5e, v5p, v6e"),
        ("v5e-7", 1, "known: v5e-1, v5e-4, v5e-8"),
        ("v5e-256", 5, "1280 chips"),
    ],
)
def test_a_machine_that_there_is_not(name: str, slices: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        topology_of(name, slices)


def test_every_chip_has_its_shapes_once() -> None:
    for chip in CHIPS.values():
        sizes = [int(np.prod([int(side) for side in shape.split("x")])) for shape in chip.shapes]
        assert sizes == sorted(set(sizes)) and "docs.cloud.google.com/tpu" in chip.source


def test_only_the_data_axis_crosses_slices() -> None:
    """Eight devices as two slices of four: the first half of the data axis is the first slice, whole."""
    mesh = mesh_over((4, 2, 1), jax.devices(), slices=2)
    ids = np.array([[device.id for device in row.flat] for row in mesh.devices])
    assert {int(id) // 4 for id in ids[:2].flat} == {0} and {int(id) // 4 for id in ids[2:].flat} == {1}
    with pytest.raises(UserError, match=r"make --mesh.data a multiple of 2"):
        mesh_over((1, 8, 1), jax.devices(), slices=2)


@pytest.mark.skipif(not has_tpu_compiler(), reason="libtpu is not installed")
@pytest.mark.parametrize(("name", "slices"), [("v5e-1", 1), ("v4-16", 1), ("v5p-64", 1), ("v6e-8", 2), ("v5e-256", 4)])
def test_the_compiler_knows_the_machine(name: str, slices: int) -> None:
    topology = topology_of(name, slices)
    devices = tpu_devices(topology)
    assert len(devices) == topology.chips and len({device.id for device in devices}) == topology.chips
    assert [getattr(device, "slice_index", 0) or 0 for device in devices] == sorted(
        slice for slice in range(slices) for _ in range(topology.chips // slices)
    )
