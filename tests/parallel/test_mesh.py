"""Which meshes are accepted, and what a person is told about the others."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AxisType

from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.parallel.mesh import (
    AXES,
    DECODE_SHARE,
    by_slice,
    check_batch,
    decode_mesh,
    make_mesh,
    mesh_of,
    mesh_shape,
)


@pytest.mark.parametrize(
    ("config", "devices", "expected"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(), 1, (1, 1, 1)),
        (MeshConfig(fsdp=4, tensor=2), 8, (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(fsdp=4), 64, (16, 4, 1)),
    ],
)
def test_the_data_axis_takes_what_is_left(config: MeshConfig, devices: int, expected: tuple[int, int, int]) -> None:
    assert mesh_shape(config, devices) == expected


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (
            MeshConfig(fsdp=3),
            8,
            "mesh does not divide: asked for data x fsdp x tensor = -1 x 3 x 1, found 8 device(s); "
            "choose sizes whose product is 8, or simulate devices with --mesh.simulate=N",
        ),
        (MeshConfig(data=2, fsdp=2), 8, "asked for data x fsdp x tensor = 2 x 2 x 1, found 8 device(s)"),
        (MeshConfig(fsdp=4, tensor=4), 8, "asked for data x fsdp x tensor = -1 x 4 x 4, found 8 device(s)"),
        (MeshConfig(data=16), 8, "asked for data x fsdp x tensor = 16 x 1 x 1, found 8 device(s)"),
        (MeshConfig(data=0), 8, "asked for data x fsdp x tensor = 0 x 1 x 1, found 8 device(s)"),
        (
            MeshConfig(fsdp=4, decode=3),
            8,
            "--mesh.decode=3 does not divide --mesh.fsdp=4; choose one of [1, 2, 4], or 0",
        ),
    ],
)
def test_a_mesh_that_does_not_use_every_device_once_is_refused(config: MeshConfig, devices: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        mesh_shape(config, devices)
    assert message in str(error.value)


def test_the_mesh_holds_every_device_and_names_its_axes() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert mesh.axis_names == AXES == ("data", "fsdp", "tensor")
    assert set(mesh.devices.ravel()) == set(jax.devices())
    assert set(mesh.axis_types) == {AxisType.Auto}
    with pytest.raises(UserError, match="mesh does not divide"):
        make_mesh(MeshConfig(data=3))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_a_mesh_of_the_first_devices(shape: tuple[int, int, int]) -> None:
    mesh = mesh_of(*shape)
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert mesh.devices.ravel().tolist() == jax.devices()[: mesh.size] and set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(("size", "parts"), [(4, 1), (8, 2), (64, 16)])
def test_a_batch_that_divides_is_accepted(size: int, parts: int) -> None:
    check_batch("--sft.batch-size", size, parts, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))


@pytest.mark.parametrize(
    ("size", "parts", "proposal"),
    [
        (6, 1, "make it 4 or 8, or give data x fsdp 2 device(s), as with --mesh.tensor=4"),
        (4, 2, "make it 8, or give data x fsdp 2 device(s), as with --mesh.tensor=4"),
        (0, 1, "make it 4"),
        (-4, 1, "make it 4"),
        (63, 16, "make it 64"),
        (13, 1, "make it 12 or 16, or give data x fsdp 1 device(s), as with --mesh.tensor=8"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(size: int, parts: int, proposal: str) -> None:
    with pytest.raises(UserError) as error:
        check_batch("--sft.batch-size", size, parts, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert str(error.value) == (
        f"--sft.batch-size={size} is not divisible: it is cut into {parts} part(s) over data x fsdp = 4 device(s); "
        f"{proposal}"
    )


def test_slices_are_outermost_in_the_data_axis() -> None:
    """Devices of one slice stand together, so that only what the data axis sums crosses slices."""
    mesh = make_mesh(MeshConfig(fsdp=2, slices=2))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert {d.id for d in mesh.devices[:2].ravel()} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "devices",
    [
        [SimpleNamespace(slice_index=index, number=index) for index in (0, 0, 1, 1)],
        [SimpleNamespace(slice_index=index, number=index) for index in (1, 0, 1, 0)],
        [SimpleNamespace(number=number) for number in (0, 0, 1, 1)],
    ],
)
def test_devices_by_slice(devices: list[SimpleNamespace]) -> None:
    """Those that know of no slice are cut in the middle."""
    assert [[device.number for device in part] for part in by_slice(devices, 2)] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("indices", [(0, 0, 0, 0), (0, 1, 2, 3), (0, 0, 0, 1)])
def test_slices_that_are_not_there_are_refused(indices: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="--mesh.slices=2: found slices of"):
        by_slice([SimpleNamespace(slice_index=index) for index in indices], 2)
    with pytest.raises(UserError, match="never split between slices, so that data=1"):
        mesh_shape(MeshConfig(fsdp=8, slices=2), 8)


@pytest.mark.parametrize(
    ("share", "weight_bytes", "expected"),
    [
        (0, 1, (8, 1, 1)),
        (0, DECODE_SHARE, (8, 1, 1)),
        (0, DECODE_SHARE + 1, (4, 2, 1)),
        (0, 5 * DECODE_SHARE, (1, 8, 1)),
        (0, 100 * DECODE_SHARE, (1, 8, 1)),
        (4, 1, (2, 4, 1)),
    ],
)
def test_as_few_devices_as_hold_the_weights_share_a_copy(
    share: int, weight_bytes: int, expected: tuple[int, int, int]
) -> None:
    """The devices keep their order, so that every row of a batch stays where it is."""
    mesh = mesh_of(1, 8, 1)
    found = decode_mesh(mesh, share, weight_bytes)
    assert found.devices.shape == expected and found.axis_names == AXES
    assert found.devices.ravel().tolist() == mesh.devices.ravel().tolist()


def test_the_tensor_axis_holds_its_part_of_a_copy() -> None:
    assert decode_mesh(mesh_of(1, 4, 2), 0, 4 * DECODE_SHARE).devices.shape == (2, 2, 2)
