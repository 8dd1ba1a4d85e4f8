"""--profile: what the devices and the host do in some rounds of a training, as a trace for XProf."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pit_jax.errors import UserError
from pit_jax.parallel.hosts import index
from pit_jax.paths import is_remote, upload

NO_ROUNDS = range(0)


def asked_rounds(profile: str) -> range:
    """The rounds that --profile=START:STOP names, STOP left out; none for "". Raises UserError for anything else."""
    if not profile:
        return NO_ROUNDS
    match = re.fullmatch(r"(\d+):(\d+)", profile)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(
            f"--profile={profile}: asked for START:STOP with START below STOP, counted from 0 in rounds of RL and "
            "updates of other trainings: 10:13 is the eleventh to the thirteenth"
        )
    return range(int(match[1]), int(match[2]))


class Trace:
    """The trace of one training; every host writes its own, as XProf shows them: folder/host-<index>.

    A round begins with the evaluation and the saving that are due before it. A training that is resumed inside
    of the rounds is traced from there on.
    """

    def __init__(self, rounds: range, folder: Path, say: Callable[[str], None]):
        self._rounds, self._say = rounds, say
        self._folder = folder / f"host-{index()}"
        # The profiler cannot write into an object store.
        self._scratch = tempfile.TemporaryDirectory(prefix="pit_jax-trace-") if rounds and is_remote(folder) else None
        self._first: int | None = None  # of the rounds traced, while they are

    def at(self, round: int, state: Any) -> None:
        """A round begins: start or stop. Where that is so, the host waits for `state`, so that rounds are whole."""
        if self._first is None and round in self._rounds:
            jax.block_until_ready(state)
            self._first = round
            jax.profiler.start_trace(self._folder if self._scratch is None else self._scratch.name)
        elif self._first is not None and round >= self._rounds.stop:
            self.stop(round, state)

    def stop(self, round: int, state: Any) -> None:
        """The training has come to `round` and goes no further: write what there is of a trace, if any."""
        if self._first is None:
            return
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        if self._scratch is not None:
            upload(Path(self._scratch.name), self._folder)
            self._scratch.cleanup()
        rounds = f"rounds {self._first}:{round}" if round > self._first else f"what stands before round {round}"
        self._say(f"--profile: {rounds} traced; look at it with xprof {self._folder.parent}")
        self._first, self._rounds = None, NO_ROUNDS

    def missed(self, start: int, last: int) -> None:
        """Say so where the training, which went from round `start` to `last`, met none of the rounds asked for."""
        if self._rounds:
            self._say(
                f"--profile={self._rounds.start}:{self._rounds.stop}: nothing is traced, since the training went from "
                f"round {start} to {last}"
            )
