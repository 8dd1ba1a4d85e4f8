"""The command as a process, with what it took."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENTRY = Path(__file__).resolve().parents[1] / "launch" / "tpu_run.py"
BEFORE_IMPROVER_RL = (("sft", "policy"), ("sft", "improver"), ("rm", "policy"), ("rm", "improver"), ("rl", "policy"))
"""(stage, model) of all that the improver's RL needs, in order."""


@dataclass(frozen=True)
class Cost:
    seconds: float
    resident: int  # bytes, at the peak


def execute(flags: Sequence[str], *, stdout: int | None = None) -> Cost:
    """Run launch/tpu_run.py with flags; a failure ends the benchmark. `stdout` is that of subprocess.Popen."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ENTRY), *flags], stdout=stdout)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(flags)} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024)
