"""What programs are traced for, by the mesh that is set."""

import jax
import pytest
from jax.sharding import AbstractDevice

from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.target import on_one_cpu, on_one_device, platform


def test_without_a_mesh_it_is_a_device_of_this_process() -> None:
    assert platform() == "cpu" and on_one_device() and on_one_cpu()


@pytest.mark.parametrize(("devices", "alone"), [(1, True), (8, False)])
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_with_a_mesh_it_is_its_devices(kind: str, devices: int, alone: bool) -> None:
    device = AbstractDevice(device_kind="any", num_cores=None, platform=kind)
    with jax.sharding.use_abstract_mesh(mesh_of(devices, 1, 1).abstract_mesh.update(abstract_device=device)):
        assert (platform(), on_one_device(), on_one_cpu()) == (kind, alone, alone and kind == "cpu")
