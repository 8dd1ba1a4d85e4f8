"""What a training makes of its machine: seconds by phase, tokens, operations and memory, as rows of metrics.jsonl.

    perf/seconds                    since the row before; its parts are perf/seconds_<phase>, compiling one of them
    perf/total_num_tokens           real tokens of the rows trained on, each rollout counted once; padding is none
    perf/tokens_per_second          of all chips, over the seconds of data, rollout, score and update: evaluating,
                                    saving and compiling are left out; .._per_chip is a chip's part
    perf/rollout_tokens_per_second  tokens drawn, over the seconds of the rollout
    perf/flops                      operations on real tokens as model/flops.py counts them, attention included;
                                    recomputation and padding are not
    perf/mfu                        perf/flops over what the chips can do in the same seconds at their bf16 peak
                                    (PaLM, arXiv 2204.02311, appendix B); mfu_<phase> that of a phase. Neither is
                                    there for a kind of device whose peak is not known
    perf/device_peak_bytes          most memory in use on one of this host's devices since the process began; not
                                    there where a device does not count it, as CPUs
    perf/host_peak_bytes            most memory resident in this process

Seconds and memory are those of the host that writes. A CPU may run a program while it is being queued: there,
phases of a round of RL may have what belongs to their neighbours.
"""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax

from pit_jax.parallel.peaks import peak_flops
from pit_jax.training.clock import Clock

TRAINING = ("data", "rollout", "score", "update")  # phases whose seconds are a training's own


class Performance:
    """The figures of one training, gathered until a row is due."""

    def __init__(self, devices: frozenset[Any] | set[Any]):
        """`devices` are those that it runs on."""
        self.clock = Clock()
        self._chips = len(devices)
        self._peak = peak_flops(next(iter(devices)).device_kind)
        self._tokens, self._drawn = 0.0, 0.0
        self._flops: dict[str, float] = {}

    def ran(self, tokens: float, drawn: float, flops: Mapping[str, float]) -> None:
        """Count real tokens trained on, how many of them were drawn for that, and the operations of each phase."""
        self._tokens += tokens
        self._drawn += drawn
        for phase, operations in flops.items():
            self._flops[phase] = self._flops.get(phase, 0.0) + operations

    def take(self) -> dict[str, float]:
        """The figures up to the clock's last lap, which begin anew; {} where no time has passed."""
        seconds = self.clock.take()
        tokens, drawn, flops = self._tokens, self._drawn, self._flops
        self._tokens, self._drawn, self._flops = 0.0, 0.0, {}
        if not seconds:
            return {}
        trained = sum(seconds.get(phase, 0.0) for phase in TRAINING)
        figures = {"perf/seconds": sum(seconds.values())}
        figures |= {f"perf/seconds_{phase}": passed for phase, passed in seconds.items()}
        if tokens and trained:
            figures["perf/total_num_tokens"] = tokens
            figures["perf/tokens_per_second"] = tokens / trained
            figures["perf/tokens_per_second_per_chip"] = tokens / trained / self._chips
        if drawn and seconds.get("rollout"):
            figures["perf/rollout_tokens_per_second"] = drawn / seconds["rollout"]
        return figures | self._utilisation(flops, seconds, trained) | memory()

    def _utilisation(
        self, flops: Mapping[str, float], seconds: Mapping[str, float], trained: float
    ) -> dict[str, float]:
        if not flops or not trained:
            return {}
        figures = {"perf/flops": sum(flops.values())}
        if self._peak is None:
            return figures
        possible = self._peak * self._chips
        figures["perf/mfu"] = figures["perf/flops"] / (trained * possible)
        timed = {phase: operations for phase, operations in flops.items() if seconds.get(phase)}
        return figures | {f"perf/mfu_{phase}": n / (seconds[phase] * possible) for phase, n in timed.items()}


def memory() -> dict[str, float]:
    """The high-water marks of this process, in bytes. Asking is no wait for a device."""
    marks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**({"perf/device_peak_bytes": float(max(marks))} if marks else {}), "perf/host_peak_bytes": float(resident)}
