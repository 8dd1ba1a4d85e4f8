"""The command as a process, with what it took."""

import os
import socket
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


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(flags: Sequence[str], *, processes: int, devices: int) -> list[subprocess.Popen[bytes]]:
    """The command with flags, as the CPU hosts of one run with so many devices in all; errors of main can be read."""
    share = f"--xla_force_host_platform_device_count={devices // processes}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {share}",
    }
    hosts: list[list[str]] = [[]]
    if processes > 1:
        shared = [f"--hosts.coordinator=127.0.0.1:{free_port()}", f"--hosts.count={processes}", "--hosts.heartbeat=30"]
        hosts = [[*shared, f"--hosts.index={index}"] for index in range(processes)]
    return [
        subprocess.Popen(
            [sys.executable, str(ENTRY), *flags, *host],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
        )
        for index, host in enumerate(hosts)
    ]


def finish(running: Sequence[subprocess.Popen[bytes]], *, timeout: float) -> None:
    """Wait for the hosts of a run; a failure ends the benchmark."""
    _, errors = running[0].communicate(timeout=timeout)
    codes = [process.wait(timeout=timeout) for process in running]
    if any(codes):
        raise SystemExit(f"{running[0].args!r} ended with {codes}: {errors.decode()[-2000:]}")
