"""The roofline by hand: one second on each resource of a v5e, and the longest of them counts."""

import pytest

from pit_jax.parallel.topologies import CHIPS
from pit_jax.run.roofline import Demand, roofline


@pytest.mark.parametrize(
    ("demand", "bound", "seconds"),
    [
        (Demand(197e12, 819e8), "compute", 1.0),
        (Demand(197e11, 2 * 819e9), "memory", 2.0),
        (Demand(197e12, 819e9, ici=600e9), "ici", 3.0),
        (Demand(197e12, 819e9, ici=200e9, dcn=12.5e9), "dcn", 4.0),
    ],
)
def test_the_longest_resource_bounds(demand: Demand, bound: str, seconds: float) -> None:
    least = roofline(demand, CHIPS["v5e"])
    assert least.bound == bound and least.seconds == pytest.approx(seconds)
