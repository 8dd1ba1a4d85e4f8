"""One training on disk: restored or begun, updated, logged, evaluated, saved and finished. What every training shares.

A stage reads as one loop over `rounds()`. The order of a round makes resuming exact: evaluate the old state, save it,
*then* draw batches. A run killed anywhere goes on from a saved state that no batch of the coming round has touched.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from pit_jax import signals
from pit_jax.errors import UserError
from pit_jax.files import Row
from pit_jax.parallel.preemption import noticed, preempted
from pit_jax.parallel.sharding import put
from pit_jax.paths import METRICS, is_remote
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.metrics import MetricsLog
from pit_jax.training.performance import Performance
from pit_jax.training.state import TrainState
from pit_jax.training.step import Metrics, Step
from pit_jax.training.trace import NO_ROUNDS, Trace


class Session:
    """The state of a training and what stands of it in a folder. Use it in a `with` block."""

    def __init__(
        self,
        folder: Path,
        abstract: TrainState,
        fresh: Callable[[], TrainState],
        *,
        rounds: int,
        keep: int,
        log_every: int,
        show: Callable[[Row], None],
        say: Callable[[str], None],
        profile: range = NO_ROUNDS,
    ):
        """Open the newest checkpoint in `folder`, placed as `abstract` is; without one, begin with `fresh()`.

        `keep` checkpoints are kept beside the best, a row of metrics is written every `log_every` rounds and shown,
        `say` hears what a person should know. The rounds `profile` are traced. Raises UserError as Checkpoints does,
        and where metrics are there and the folder of checkpoints, which is made before them, is not.
        """
        lost = (folder / METRICS).exists() and not (folder / "checkpoints").exists()
        if lost and not is_remote(folder):  # a store has no folder before there is something in it
            raise UserError(
                f"{folder} has {METRICS} and no checkpoints, without which it cannot go on; put checkpoints/ back, or "
                f"delete {folder} to train anew"
            )
        self._checkpoints = Checkpoints(folder / "checkpoints", keep=keep, say=say)
        self._checkpoints.check_space(abstract)
        restored = self._checkpoints.restore_latest(abstract)
        self.start, self.state = restored if restored is not None else (0, fresh())
        self.last = rounds
        self._log = MetricsLog(folder, every=log_every, resume_round=self.start, on_row=show)
        self._totals: Metrics = {}
        self._finished = self.start
        self._trace = Trace(profile, folder / "profile", say)
        self.performance = Performance(self.state.step.sharding.device_set)

    def __enter__(self) -> "Session":
        signals.defer(True)  # `heed_notice` saves and ends
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._trace.stop(self._finished, self.state if kind is None else ())
            if kind is None:
                self._trace.missed(self.start, self._finished)
                self.settle()
                self._log.performance(self._finished, self.performance.take())
                self._log.close()
        except BaseException as failure:
            kind = type(failure)
            raise
        finally:
            try:
                self._checkpoints.__exit__(kind)
            finally:
                signals.defer(False)

    def rounds(self) -> Iterator[int]:
        """The number of finished rounds, from that of the state to the last: train one more while it is less."""
        for round in range(self.start, self.last + 1):
            self._trace.at(round, self.state)
            yield round

    def settle(self) -> None:
        """Log the updates so far, for which the host waits: what comes next then waits for its own work alone."""
        if self._log.pending:
            self._log.flush()
            self.performance.clock.lap("update")
            self._log.performance(self._finished, self.performance.take())

    def evaluated(self, round: int, metrics: dict[str, float], *, score: float | None) -> None:
        """Log held-out metrics of the state after `round` rounds, and save it.

        `score` (higher is better) ranks the checkpoint; with None it is never chosen. What goes on being written
        while the training goes on is not in the seconds of saving, but for the last one.
        """
        self.performance.clock.lap("evaluate")
        self._log.eval(round, metrics)
        self._checkpoints.save(round, self.state, score=score)
        self.performance.clock.lap("save")

    def heed_notice(self, round: int) -> None:
        """Where this machine is about to be taken away: save the state after `round` rounds and raise Preempted.

        To be called behind an evaluation that is due, so that a resumed run makes no other choice among checkpoints.
        """
        if noticed():
            self.settle()
            self._checkpoints.save(round, self.state, score=None)
            raise preempted(f"the state after {round} of {self.last} rounds is saved")

    def update(self, step: Step, batch: Any) -> Metrics:
        """One update of the state, which is donated: read what is needed of the old one before. Returns its metrics."""
        self.state, metrics = step(self.state, batch)
        totals = self._totals
        self._totals = {name: totals[name] + metrics[name] for name in metrics} if totals else metrics
        return metrics

    @property
    def totals(self) -> Metrics:
        """Sums of the metrics over the updates of the round so far."""
        return self._totals

    def end_round(self, round: int, *, metrics: Metrics | None = None, extras: dict[str, Any] | None = None) -> None:
        """Count the round that follows `round` finished ones, and log its updates' metrics with `metrics` beside them.

        `extras` takes the place of the state's, leaf by leaf where the old ones are. Raises UserError for a round
        without an update, and when a metric is not finite.
        """
        if not self._totals:
            raise UserError(f"no batch for round {round}: the data supply is empty; check the data and the batch size")
        if extras is not None:
            before = self.state.extras
            assert extras.keys() == before.keys(), f"extras changed keys: {extras.keys() ^ before.keys()}"
            placed = jax.tree.map(lambda x, old: put(x, old.sharding), extras, before)
            self.state = dataclasses.replace(self.state, extras=placed)
        # Set from the host, where it is known, so that reading it never waits for the device.
        finished = put(np.int32(round + 1), self.state.round.sharding)
        self.state = dataclasses.replace(self.state, round=finished)
        totals, self._totals = {**self._totals, **(metrics or {})}, {}
        self._finished = round + 1
        self._log.train(self._finished, totals)
        if round == 0:
            self._log.flush()  # the first loss is shown at once
        self.performance.clock.lap("update")
        if not self._log.pending:
            self._log.performance(self._finished, self.performance.take())

    def best_round(self) -> int:
        """The round of the checkpoint with the best score, of those that have one; 0 where none has."""
        self._checkpoints.wait()
        return self._checkpoints.best_round() or 0

    def best(self) -> tuple[int, str] | None:
        """(round, digest) of the checkpoint with the best score, once all are on disk; None where none has one."""
        self._checkpoints.wait()
        self.performance.clock.lap("save")
        round = self._checkpoints.best_round()
        return None if round is None else (round, self._checkpoints.digest(round))
