"""Nested progress of RL: rounds of the stage, and inside a round the rollout and the updates."""

from pit_jax.files import Row
from pit_jax.run.screen import Screen

SHOWN = ("objective/scores", "second-gap/scores", "objective/kl", "truth/score", "val/eos_rate")  # of an evaluation


class RlScreen:
    def __init__(self, screen: Screen, name: str, rounds: int, updates: int):
        self._screen, self._name = screen, name
        self._rounds, self._phase = screen.bar(name, rounds), screen.bar("  rollout", updates)
        self._phase.hide()

    def begin(self, done: int) -> None:
        """A training that goes on after `done` rounds."""
        self._rounds.show(done)

    def rollout(self) -> None:
        """A round begins."""
        self._phase.show(0, name="  rollout")

    def update(self, done: int) -> None:
        """So many updates of the round are done."""
        self._phase.show(done, name="  updates")

    def show(self, row: Row) -> None:
        """A row of metrics: a bar's note in training, a line of an evaluation."""
        self._phase.hide()
        if row["phase"] == "train":
            note = f"score {row['objective/scores']:+.2f} kl {row['objective/kl']:.2f}"
            self._rounds.show(row["step"], note)
        else:
            kept = {name: row[name] for name in ("step", "phase", "time", *SHOWN) if name in row}
            self._screen.row(self._name, kept)
