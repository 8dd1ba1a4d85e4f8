"""The least time that a program can take on a chip: by arithmetic, by memory, by what it sends. Pure numbers.

    compute = operations / peak        memory = bytes to and from HBM / its speed
    ici     = bytes sent inside a slice / links        dcn = bytes sent to other slices / network

The four go on at the same time at best, so the longest of them bounds the program from below (Williams et al., 2009,
Roofline). Nothing real is as fast: matrices fill the units in part, and messages have latencies.
"""

from dataclasses import dataclass

from pit_jax.parallel.topologies import Chip


@dataclass(frozen=True)
class Demand:
    """What one call of a program asks of one chip."""

    flops: float
    hbm: float
    ici: float = 0.0
    dcn: float = 0.0


@dataclass(frozen=True)
class Roofline:
    """Seconds of one call on each resource."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.ici, self.dcn)

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(("compute", "memory", "ici", "dcn"), key=lambda name: getattr(self, name))


def roofline(demand: Demand, chip: Chip) -> Roofline:
    """By hand: 197e12 operations on a v5e take 1 s, 819e9 bytes of HBM 1 s, 200e9 bytes sent 1 s."""
    return Roofline(
        compute=demand.flops / chip.flops,
        memory=demand.hbm / chip.hbm_speed,
        ici=demand.ici / chip.ici,
        dcn=demand.dcn / chip.dcn,
    )
