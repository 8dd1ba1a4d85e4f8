"""The same work by this project and by a peer, in turns: a peer is a process that works when it is told to.

It is a Python file that imports nothing of the project, run by the interpreter of the environment that has what it
needs. It prints a JSON line when it is ready, and for every line that it reads one with the seconds that its work took.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent


class Peer:
    """A started peer; `ready` is what it said of itself."""

    def __init__(self, script: str, work: Mapping[str, Any], python: str = sys.executable):
        command = [python, str(HERE / script), json.dumps(dict(work))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready: dict[str, Any] = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def seconds(self) -> float:
        """Of its work, done once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line()["seconds"])

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.process.args!r} ended with {self.process.wait()}")


@dataclass(frozen=True)
class Turns:
    """Seconds of both, pair by pair."""

    ours: list[float]
    theirs: list[float]

    @staticmethod
    def of(ours: Callable[[], float], theirs: Callable[[], float], times: int) -> "Turns":
        """So many times one after the other, behind one of each that is not counted."""
        pairs = [(ours(), theirs()) for _ in range(1 + times)][1:]
        return Turns([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    @property
    def faster(self) -> float:
        """By how many times we are: the median over the pairs of their seconds by ours."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True))

    def figures(self, tokens: int) -> dict[str, Any]:
        """Tokens a second of both, and the ratio with its least and its largest."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        rates = {"ours": tokens / statistics.median(self.ours), "peer": tokens / statistics.median(self.theirs)}
        spread = [round(min(ratios), 2), round(max(ratios), 2)]
        return {**{name: round(rate) for name, rate in rates.items()}, "ratio": round(self.faster, 2), "of": spread}
