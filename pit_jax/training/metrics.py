"""metrics.jsonl and TensorBoard: means summed on the device, divided and written every few rounds."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pit_jax.errors import UserError
from pit_jax.files import Row, append_jsonl, read_metrics, write_jsonl
from pit_jax.masked import Mean
from pit_jax.parallel.hosts import is_main, whole
from pit_jax.paths import METRICS, is_remote, to_path


class MetricsLog:
    """Appends rows {"step", "phase": "train" | "eval" | "performance", "time", name: float, ...} to metrics.jsonl.

    `step` counts finished rounds in all phases: a train row covers the rounds since the row before it, an eval row
    measures the state after `step` rounds, a performance row (training/performance.py) covers what was done since the
    row before it and is not the same in a run that is repeated. `time` is seconds since the stage started, going on
    after a resume.

    Opened with `resume_round`, it drops (atomically) the rows that the resumed run will write again: train rows past
    that round and eval rows at or past it. Call `flush` before saving a checkpoint: then a train row never straddles a
    checkpoint, and a non-finite loss stops the run before its parameters are saved.
    UserError where the rows end before `resume_round`: some were lost.
    With tensorboardX installed the same numbers go to folder/tensorboard. `on_row` hears of train and eval rows.
    """

    def __init__(
        self, folder: Path | str, *, every: int, resume_round: int, on_row: Callable[[Row], None] | None = None
    ):
        if every < 1:
            raise UserError(f"metrics are written every N >= 1 rounds, found {every}")
        self._path = to_path(folder) / METRICS
        self._every, self._on_row = every, on_row
        self._pending: list[tuple[int, dict[str, Mean]]] = []  # on the device until the next flush
        known = read_metrics(self._path)
        if resume_round and max((row["step"] for row in known), default=0) < resume_round:
            raise UserError(
                f"{self._path} ends before round {resume_round}, up to which its stage is saved; put back a copy, or "
                f"delete {self._path.parent} to train anew"
            )
        rows = [row for row in known if not _written_again(row, resume_round)]
        self._start = time.monotonic() - (rows[-1].get("time", 0.0) if rows else 0.0)
        self._board = None
        write_jsonl(self._path, rows)
        if is_main():
            self._board = _board(self._path.parent / "tensorboard", resume_round)

    def train(self, finished: int, metrics: dict[str, Mean]) -> None:
        """Keep one round's sums; every `every` rounds they are added up and written. No device is waited for before.

        Raises UserError when the sums just fetched are not finite.
        """
        self._pending.append((finished, metrics))
        if finished % self._every == 0:
            self.flush()

    @property
    def pending(self) -> bool:
        """Whether there are rounds that no train row covers yet."""
        return bool(self._pending)

    def flush(self) -> None:
        """Write the train row gathered so far, if any. Raises UserError, naming metric and round."""
        pending, self._pending = whole(self._pending), []
        totals: dict[str, tuple[float, float]] = {}
        for finished, metrics in pending:
            for name in sorted(metrics, key=lambda name: name != "loss"):
                total, count = float(metrics[name].sum), float(metrics[name].count)
                if not math.isfinite(total):
                    raise UserError(
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

        Raises UserError when one is not finite: leave out what was not measured.
        """
        self.flush()
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UserError(f"held-out {name} is {value} after round {finished}; the run stops")
        self._write(finished, "eval", metrics)

    def performance(self, finished: int, figures: dict[str, float]) -> None:
        """Write what was measured of the work up to `finished` rounds; nothing where there is nothing."""
        if figures:
            self._write(finished, "performance", figures)

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
        append_jsonl(self._path, [row])
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name if phase == "performance" else f"{phase}/{name}", value, finished)
            if not is_remote(self._path):  # where every flush writes the whole file: its writer does, every two minutes
                self._board.flush()
        if self._on_row is not None and phase != "performance":
            self._on_row(row)


def _written_again(row: Row, resume_round: int) -> bool:
    return row["step"] > resume_round or (row["step"] == resume_round and row["phase"] == "eval")


def _board(folder: Path, resume_round: int) -> Any:
    """A TensorBoard writer, or None where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resume_round)
