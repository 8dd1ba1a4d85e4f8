"""metrics.jsonl and TensorBoard: means summed on the device, divided and written every few rounds."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pit_jax.masked import Mean

Row = dict[str, Any]


class MetricsLog:
    """Appends rows {"step", "phase": "train" | "eval", "time", name: float, ...} to folder/metrics.jsonl.

    `step` counts finished rounds in both phases: a train row covers the rounds since the row before it, an eval row
    measures the state after `step` rounds. `time` is seconds since the stage started, going on after a resume.

    Opened with `resume_round`, it drops (atomically) the rows that the resumed run will write again: train rows past
    that round and eval rows at or past it. Call `flush` before saving a checkpoint: then a train row never straddles a
    checkpoint, and a non-finite loss stops the run before its parameters are saved.
    With tensorboardX installed the same numbers go to folder/tensorboard.
    """

    def __init__(
        self, folder: Path | str, *, every: int, resume_round: int, on_row: Callable[[Row], None] | None = None
    ):
        if every < 1:
            raise ValueError(f"metrics are written every N >= 1 rounds, found {every}")
        self._path = Path(folder) / "metrics.jsonl"
        self._every, self._on_row = every, on_row
        self._pending: list[tuple[int, dict[str, Mean]]] = []  # on the device until the next flush
        self._writes = jax.process_index() == 0
        rows = [row for row in read_rows(self._path) if not _written_again(row, resume_round)]
        self._start = time.monotonic() - (rows[-1]["time"] if rows else 0.0)
        self._board = None
        if self._writes:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._path, "".join(json.dumps(row) + "\n" for row in rows))
            self._board = _board(self._path.parent / "tensorboard", resume_round)

    def train(self, finished: int, metrics: dict[str, Mean]) -> None:
        """Keep one round's sums; every `every` rounds they are added up and written. No device is waited for before.

        Raises FloatingPointError when the sums just fetched are not finite.
        """
        self._pending.append((finished, metrics))
        if finished % self._every == 0:
            self.flush()

    def flush(self) -> None:
        """Write the train row gathered so far, if any. Raises FloatingPointError, naming metric and round."""
        pending, self._pending = jax.device_get(self._pending), []
        totals: dict[str, tuple[float, float]] = {}
        for finished, metrics in pending:
            for name in sorted(metrics, key=lambda name: name != "loss"):
                total, count = float(metrics[name].sum), float(metrics[name].count)
                if not math.isfinite(total):
                    raise FloatingPointError(
                        f"{name} is {total} in round {finished}; the run stops and what it saved before stays. Lower "
                        "the learning rate, or look at that round's batch"
                    )
                known_total, known_count = totals.get(name, (0.0, 0.0))
                totals[name] = (known_total + total, known_count + count)
        values = {name: total / count for name, (total, count) in totals.items() if count}
        if values:
            self._write(pending[-1][0], "train", values)

    def eval(self, finished: int, metrics: dict[str, float]) -> None:
        """Write held-out metrics of the state after `finished` rounds; a train row that is due goes first.

        Raises FloatingPointError when one is not finite: leave out what was not measured.
        """
        self.flush()
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"held-out {name} is {value} after round {finished}; the run stops")
        self._write(finished, "eval", metrics)

    def close(self) -> None:
        """Flush, and close TensorBoard."""
        try:
            self.flush()
        finally:
            if self._board is not None:
                self._board.close()

    def _write(self, finished: int, phase: str, metrics: dict[str, float]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        seconds = round(time.monotonic() - self._start, 3)
        row: Row = {"step": finished, "phase": phase, "time": seconds, **values}
        if self._writes:
            with self._path.open("ab", buffering=0) as file:  # one write call: a row is there whole or, killed, cut off
                file.write((json.dumps(row) + "\n").encode())
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{phase}/{name}", value, finished)
            self._board.flush()
        if self._on_row is not None:
            self._on_row(row)


def read_rows(path: Path | str) -> list[Row]:
    """The rows of a metrics.jsonl; [] when there is none. A last line cut off by a kill is left out.

    Raises ValueError with the line number for any other line that is not JSON.
    """
    path = Path(path)
    lines = path.read_text().split("\n") if path.exists() else [""]
    rows = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or cut off
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}): {line[:80]!r}; mend or remove it"
            ) from error
    return rows


def _written_again(row: Row, resume_round: int) -> bool:
    return row["step"] > resume_round or (row["step"] == resume_round and row["phase"] == "eval")


def _replace(path: Path, text: str) -> None:
    """Write `text` beside `path`, then move it there."""
    beside = path.with_suffix(".tmp")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _board(folder: Path, resume_round: int) -> Any:
    """A TensorBoard writer, or None where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resume_round)
