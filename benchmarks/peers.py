"""The same work by this project and by a peer, in turns: a peer is a process that works when it is told to.

It is a Python file that imports nothing of the project, run by the interpreter of the environment that has what it
needs. It prints a JSON line when it is ready, and for every line that it reads one with the seconds that its work took.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


def environment(name: str, *packages: str, without: Sequence[str] = (), alone: Sequence[str] = ()) -> str:
    """The Python of .venv-<name>, an environment beside the checkout's own that is made where it is not there yet, of
    packages and what they need `without` some of it, and of packages `alone`."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        if without:
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *without], check=True)
        if alone:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *alone], check=True)
    return str(python)


class Peer:
    """A started peer; `ready` is what it said of itself."""

    def __init__(self, name: str, work: Mapping[str, Any], python: str = sys.executable):
        command = [python, "-m", f"benchmarks.{name}", json.dumps(dict(work))]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
            if line.startswith('{"'):  # TRL prints dictionaries of its own, in single quotes
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

    def figures(self, *, tokens: int, floor: float) -> dict[str, Any]:
        """Tokens a second of both, by how many times we are faster (median, least and largest), and which share of our
        seconds the floor is, of work that has so many tokens."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return {
            "ours": round(tokens / ours),
            "peer": round(tokens / theirs),
            "ratio": round(statistics.median(ratios), 2),
            "of": [round(min(ratios), 2), round(max(ratios), 2)],
            "floor": round(floor / ours, 2),
        }


def table_of(title: str, figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of turns by their names."""
    table = Table(title=title)
    for column in ("work", "ours, tokens/s", "peer", "ratio", "least to most", "floor"):
        table.add_column(column, justify="right")
    for name, found in figures.items():
        least, most = found["of"]
        cells = f"{found['ours']:,}", f"{found['peer']:,}", f"{found['ratio']:.2f}", f"{least} to {most}"
        table.add_row(name, *cells, f"{found['floor']:.0%}")
    return table
