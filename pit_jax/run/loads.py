"""How a stage uses the programs that it lists: how often each runs, what one run computes, and what lies beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pit_jax.model.flops import Work


@dataclass(frozen=True)
class Load:
    """Of one program of a stage."""

    calls: float
    """In the training: what it costs is calls * work."""
    work: Work
    """Of one call, all rows together."""
    checks: float = 0.0
    """Calls beyond the training, for evaluations on held-out prompts."""
    before: Work = Work()
    """What the stage computes beside its calls, once, before the training."""
    decoded: int = 0
    """Tokens a row that it decodes one after another: passes over all weights, and over the cache."""
    rows: int = 0
    """Rows that it decodes."""
    cached: int = 0
    """Slots a row of its cache."""
    holds: tuple[str, ...] = ()
    """Which of the stage's residents are among its arguments; none that it does not read, which jit leaves out."""
    away: tuple[str, ...] = ()
    """Which of them are not on the mesh while it runs: on the host, or freed."""


Loads = Mapping[str, Load]
"""By the names of programs."""


def total(loads: Iterable[Load]) -> Work:
    """Of a whole training, evaluations left out."""
    work = Work()
    for load in loads:
        work += load.before + load.calls * load.work
    return work
