"""What the stages leave in a working folder, read back. A file that is not there yet is None or empty."""

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_json(path: Path) -> Any | None:
    """The content of a JSON file, None when there is no such file. ValueError when it is not JSON."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: asked for JSON, found {error}; delete the file and re-run the stage that wrote it"
        ) from error


def read_lines(path: Path) -> list[Row]:
    """The objects of a JSONL file. A last line that is still being written is left out.

    Raises:
        ValueError: a finished line is not a JSON object; the message names the line.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: asked for a JSON object a line, found {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: asked for a JSON object a line, found {type(row).__name__}")
        rows.append(row)
    return rows


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.jsonl in the order of their steps; of a step repeated after a resume, the last one."""
    latest = {(row["step"], row["phase"]): row for row in read_lines(path)}
    return [latest[key] for key in sorted(latest)]


def curve(rows: list[Row], phase: str, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric in one phase, without the steps at which it is absent or not finite."""
    found = [(row["step"], row.get(name)) for row in rows if row["phase"] == phase]
    kept = [(step, float(value)) for step, value in found if isinstance(value, int | float) and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def latest(rows: list[Row], name: str) -> float | None:
    """The last finite value of a metric, held-out rows before training rows; None when there is none."""
    for phase in ("eval", "train"):
        _, values = curve(rows, phase, name)
        if values:
            return values[-1]
    return None
