"""The device mesh: axes `data` (batch), `fsdp` (batch and parameters), `tensor` (heads, feed-forward, vocabulary)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.parallel.sharding import row_shards

AXES = ("data", "fsdp", "tensor")
DECODE_SHARE = 1 << 30  # bytes of a copy of the weights on one device while decoding, at most, where fsdp allows it


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Sizes of (data, fsdp, tensor), -1 filled in. UserError when they do not use every device exactly once."""
    data, fsdp, tensor = config.data, config.fsdp, config.tensor
    if data == -1:
        data = num_devices // (fsdp * tensor)
    if data * fsdp * tensor != num_devices:
        raise UserError(
            f"mesh does not divide: asked for data x fsdp x tensor = {config.data} x {fsdp} x {tensor}, "
            f"found {num_devices} device(s); choose sizes whose product is {num_devices}, "
            "or simulate devices with --mesh.simulate=N"
        )
    check_slices((data, fsdp, tensor), config.slices)
    if config.decode and config.decode not in _divisors(fsdp):
        raise UserError(
            f"--mesh.decode={config.decode} does not divide --mesh.fsdp={fsdp}; choose one of {_divisors(fsdp)}, or 0"
        )
    return data, fsdp, tensor


def _divisors(size: int) -> list[int]:
    return [part for part in range(1, size + 1) if size % part == 0]


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices. Raises UserError as `mesh_shape` and `by_slice`."""
    return mesh_over(mesh_shape(config, jax.device_count()), jax.devices(), config.slices)


def mesh_over(shape: tuple[int, int, int], devices: Sequence[Any], slices: int = 1) -> Mesh:
    """The mesh (data, fsdp, tensor) over the devices of a run, or of a plan, whose devices may be none of this process.

    Over several slices the outermost part of the data axis is theirs: what crosses the slow network is the mean of
    gradients, never parameters. Raises UserError as `check_slices` and `by_slice`.
    """
    check_slices(shape, slices)
    inner = (shape[0] // slices, *shape[1:])
    parts = [_arranged(inner, part) for part in by_slice(devices, slices)]
    return Mesh(np.concatenate(parts), AXES, axis_types=(AxisType.Auto,) * 3)


def check_slices(shape: tuple[int, int, int], slices: int) -> None:
    """UserError where the slices do not divide the data axis."""
    data, fsdp, tensor = shape
    if data % slices:
        raise UserError(
            f"--mesh.slices={slices}: parameters are never split between slices, so that data={data}, beside "
            f"fsdp x tensor = {fsdp * tensor}, must be shared by them; make --mesh.data a multiple of {slices}, or "
            "--mesh.fsdp and --mesh.tensor smaller"
        )


def _arranged(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices of one slice, neighbours on its links; in their own order where JAX has no rule for a shape."""
    try:
        return np.array(
            mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=devices[0].platform == "tpu")
        )
    except (RuntimeError, AssertionError, ValueError):
        return np.array(devices).reshape(shape)


def by_slice(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice; those that know of none (CPUs) are cut into as many equal parts, in their order.

    Raises UserError where TPU devices lie in another number of slices, or in slices of several sizes.
    """
    size = len(devices) // slices
    known: list[int] = [getattr(device, "slice_index", number // size) for number, device in enumerate(devices)]
    parts = [[d for d, mine in zip(devices, known, strict=True) if mine == index] for index in sorted({*known})]
    if len(parts) != slices or len({len(part) for part in parts}) > 1:
        raise UserError(
            f"--mesh.slices={slices}: found slices of {', '.join(str(len(part)) for part in parts)} device(s); pass "
            f"--mesh.slices={len(parts)}, or start the run on slices of one size"
        )
    return parts


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    """A mesh of the first devices, as many as it takes."""
    devices = np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def decode_mesh(mesh: Mesh, share: int, weight_bytes: int) -> Mesh:
    """The same devices in the same order, for decoding: more data, and an fsdp axis of the `share` that hold a copy.

    0 = as few as keep a copy's part below DECODE_SHARE. Rows lie as on `mesh`. A decoding step moves its activations
    around those that share a copy of the weights (`weight_bytes`, in the compute dtype): few of them move little and
    read much, many the other way round.
    """
    data, fsdp, tensor = (mesh.shape[axis] for axis in AXES)
    enough = [share for share in _divisors(fsdp) if weight_bytes <= share * tensor * DECODE_SHARE]
    share = share or next(iter(enough), fsdp)
    devices = mesh.devices.reshape(data * fsdp // share, share, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def check_batch(name: str, size: int, parts: int, mesh: Mesh) -> None:
    """UserError unless a batch of `size`, cut into `parts`, splits evenly over the data and fsdp axes."""
    shards = row_shards(mesh)
    if size < 1 or size % (parts * shards):
        step, tensor = parts * shards, mesh.shape["tensor"]
        below = max(size, 0) // step * step
        near = [str(number) for number in (below, below + step) if number > 0]
        fitting = math.gcd(size, step) // parts  # devices that the batch as it is can be shared by
        wider = tensor * shards // fitting if size > 0 and size % parts == 0 and fitting else 0
        raise UserError(
            f"{name}={size} is not divisible: it is cut into {parts} part(s) over data x fsdp = {shards} device(s); "
            f"make it {' or '.join(near)}"
            + (f", or give data x fsdp {fitting} device(s), as with --mesh.tensor={wider}" if wider else "")
        )
