"""What programs are traced for: the devices of the mesh that is set, else those of this process."""

import jax


def platform() -> str:
    """Their kind: "cpu", "gpu" or "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)


def on_one_device() -> bool:
    """Whether there is no mesh, or one of a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.empty or mesh.size == 1)


def on_one_cpu() -> bool:
    """Both: no other device, and a CPU."""
    return platform() == "cpu" and on_one_device()
