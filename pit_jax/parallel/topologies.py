"""TPU chips and slices by name, and their devices for compilers alone: no TPU is needed.

A name is an accelerator type as Cloud TPU spells it, `v5e-256` (of v4 and v5p the number counts TensorCores, two a
chip: `v5p-64` are 32 chips), or a shape in chips, `v5p:4x4x4`; `--mesh.slices` of them, joined by the data centre
network, make a multi-slice machine.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax

from pit_jax.errors import UserError

GIB = 2**30
MOST_CHIPS = 1024


@dataclass(frozen=True)
class Chip:
    """What one chip can do at best, and what a slice of such chips looks like."""

    name: str
    flops: float
    """Peak bf16 operations a second."""
    hbm: float
    """Bytes of HBM that a program may use: what the compiler says is available, a little less than is built in."""
    hbm_speed: float
    """Bytes a second between HBM and the cores."""
    ici: float
    """Bytes a second that a chip sends to its neighbours over all its links (half of the bidirectional figure)."""
    dcn: float
    """Bytes a second that a chip sends to other slices."""
    cores: int
    """TensorCores a chip, by which accelerator types count."""
    hosted: int
    """Chips a host of a slice of several hosts."""
    alone: int
    """Chips of the largest slice that is one host."""
    shapes: tuple[str, ...]
    """Shapes of slices in chips, smallest first; one for each number of chips."""
    source: str


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")

# Available HBM: the limit in the error of libtpu 0.0.42.1 for a program that needs 400 GiB.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            flops=275e12,
            hbm=30.75 * GIB,
            hbm_speed=1200e9,
            ici=300e9,
            dcn=6.25e9,
            cores=2,
            hosted=4,
            alone=4,
            shapes=CUBES,
            source="docs.cloud.google.com/tpu/docs/v4; 6 links of 50 GB/s (arXiv 2304.01433); network assumed: v5p's",
        ),
        Chip(
            name="v5e",
            flops=197e12,
            hbm=15.75 * GIB,
            hbm_speed=819e9,
            ici=200e9,
            dcn=3.125e9,
            cores=1,
            hosted=4,
            alone=8,
            shapes=FLAT,
            source="docs.cloud.google.com/tpu/docs/v5e (400 GB/s both ways; 6.4 Tb/s of network for 256 chips)",
        ),
        Chip(
            name="v5p",
            flops=459e12,
            hbm=95.74 * GIB,
            hbm_speed=2765e9,
            ici=600e9,
            dcn=6.25e9,
            cores=2,
            hosted=4,
            alone=4,
            shapes=CUBES,
            source="docs.cloud.google.com/tpu/docs/v5p (1,200 GB/s both ways; 50 Gb/s of network a chip)",
        ),
        Chip(
            name="v6e",
            flops=918e12,
            hbm=31.25 * GIB,
            hbm_speed=1638e9,
            ici=400e9,
            dcn=3.125e9,
            cores=1,
            hosted=4,
            alone=8,
            shapes=FLAT,
            source="docs.cloud.google.com/tpu/docs/v6e (800 GB/s both ways); network: at least v5e's, assumed",
        ),
    )
}


@dataclass(frozen=True)
class Topology:
    """Slices of one shape."""

    chip: Chip
    shape: str
    slices: int = 1

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * _chips(self.shape)

    @property
    def hosts(self) -> int:
        """Of all slices."""
        chips = _chips(self.shape)
        return self.slices * (1 if chips <= self.chip.alone else chips // self.chip.hosted)

    @property
    def accelerator_type(self) -> str:
        """Of one slice."""
        kind = "v5litepod" if self.chip.name == "v5e" else self.chip.name
        return f"{kind}-{_chips(self.shape) * self.chip.cores}"

    def __str__(self) -> str:
        several = f"{self.slices} slices of " if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{self.shape}"


def topology_of(name: str, slices: int = 1) -> Topology:
    """The machine of a name. UserError for an unknown chip, a slice that there is not, or more than 1,024 chips."""
    match = re.fullmatch(r"(v4|v5e|v5litepod|v5p|v6e)(?:-(\d+)|:(\d+(?:x\d+){1,2}))", name)
    if match is None:
        raise UserError(
            f"--plan.topology={name}: asked for a TPU as v5e-256 or v5p:4x4x4, of {', '.join(CHIPS)}; for several "
            "slices add --mesh.slices"
        )
    chip = CHIPS["v5e" if match[1] == "v5litepod" else match[1]]
    sizes = {_chips(shape) * chip.cores: shape for shape in chip.shapes}
    if match[2] and int(match[2]) not in sizes:
        known = ", ".join(f"{chip.name}-{size}" for size in sizes)
        raise UserError(f"--plan.topology={name}: no slice has this size; known: {known}, or name a shape in chips")
    topology = Topology(chip, sizes[int(match[2])] if match[2] else match[3], slices)
    if topology.chips > MOST_CHIPS:
        raise UserError(
            f"--plan.topology={name} in {slices} slice(s): {topology.chips} chips; plans are for 1 to {MOST_CHIPS}"
        )
    return topology


def has_tpu_compiler() -> bool:
    """Whether libtpu is installed, which compiles for TPUs on any machine."""
    return importlib.util.find_spec("libtpu") is not None


def tpu_devices(topology: Topology) -> list[Any]:
    """The devices of a machine that is not there, one a chip, for programs that are compiled and never run.

    Raises UserError for a shape that the compiler does not know.
    """
    from jax.experimental import topologies

    os.environ.update(COMPILING_ALONE)
    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    if _chips(topology.shape) % 4:  # a part of a host
        padded = (*topology.shape.split("x"), "1")[:3]
        options["chips_per_host_bounds"] = [int(size) for size in padded]
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        described = topologies.get_topology_desc(f"{topology.chip.name}:{topology.shape}", "tpu", **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--plan.topology: {topology} is no slice that libtpu knows ({error})") from error
    assert len(described.devices) == topology.chips, f"{topology}: {len(described.devices)} devices"
    return list(described.devices)


# libtpu looks for a TPU and its workers where it is not told that there is none, and locks a file against others.
COMPILING_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def simulated_devices(count: int) -> list[Any]:
    """CPU devices in the place of chips. UserError where JAX has already begun with fewer."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # it has begun: what there is must do
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"a plan of {count} chips needs as many simulated devices, found {len(devices)}")
    return devices[:count]


def _chips(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))
