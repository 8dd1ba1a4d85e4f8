"""What the stages leave in a working folder, read back. A file that is not there yet is None or empty."""

import math
from pathlib import Path

from pit_jax import files
from pit_jax.files import Row


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.jsonl in the order of their steps; of a step repeated after a resume, the last one."""
    latest = {(row["step"], row["phase"]): row for row in files.read_metrics(path)}
    return [latest[key] for key in sorted(latest)]


def curve(rows: list[Row], phase: str, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric in one phase, without the steps at which it is absent or not finite."""
    pairs = [(row["step"], row.get(name)) for row in rows if row["phase"] == phase]
    kept = [(step, float(value)) for step, value in pairs if isinstance(value, int | float) and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def latest(rows: list[Row], name: str) -> float | None:
    """The last finite value of a metric, held-out rows before training rows; None when there is none."""
    for phase in ("eval", "train"):
        _, values = curve(rows, phase, name)
        if values:
            return values[-1]
    return None
