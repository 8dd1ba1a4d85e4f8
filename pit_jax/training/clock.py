"""Wall time by phase: what has passed between two points of a loop belongs to the phase that ends at the second.

Nothing is measured on a device, and no device waits for the clock. Programs are queued, so a phase holds the time in
which the host was busy with it or waited for it: preparing batches costs nothing as long as the device has work, and
still has its seconds here. Compiling is what the compiler takes; the tracing before it is in the phase that does it.
"""

import time
from typing import Any

import jax
from jax import monitoring

COMPILING = "/jax/core/compile/backend_compile_duration"  # programs that a cache gives count with what that takes
COMPILE = "compile"


class _Compiled:
    """Seconds that this process has spent compiling since somebody wanted to know."""

    listening = False
    seconds = 0.0


def compile_seconds() -> float:
    """Seconds that this process has spent compiling since this was first asked."""
    if not _Compiled.listening:
        _Compiled.listening = True
        monitoring.register_event_duration_secs_listener(_heard)
    return _Compiled.seconds


def _heard(event: str, duration_secs: float, **_: str | int) -> None:
    if event == COMPILING:
        _Compiled.seconds += duration_secs


class Clock:
    """Sums of seconds by phase. All time since the clock was made, or its sums were taken, is in one of them."""

    def __init__(self) -> None:
        self._since, self._compiled = time.perf_counter(), compile_seconds()
        self._seconds: dict[str, float] = {}

    def lap(self, phase: str, *results: Any) -> None:
        """Add what has passed since the last lap to `phase`; what of it was compiling is added to COMPILE instead.

        With `results` (arrays) the host waits for them before. To be used where the next program is queued already, so
        that the device goes on, or where the next line needs them.
        """
        jax.block_until_ready(results)
        now, compiled = time.perf_counter(), compile_seconds()
        passed = now - self._since
        compiling = min(compiled - self._compiled, passed)
        self._since, self._compiled = now, compiled
        self._seconds[phase] = self._seconds.get(phase, 0.0) + passed - compiling
        if compiling:
            self._seconds[COMPILE] = self._seconds.get(COMPILE, 0.0) + compiling

    def take(self) -> dict[str, float]:
        """The sums by phase up to the last lap, which begin anew."""
        seconds, self._seconds = self._seconds, {}
        return seconds
