"""Checkpoints: asynchronous and atomic (orbax), verified on the way back, never silently replaced by a fresh start."""

import contextlib
import hashlib
import logging
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from pit_jax.errors import UserError
from pit_jax.files import check_writable
from pit_jax.parallel.hosts import all_well, barrier, ends_alone, is_main
from pit_jax.paths import is_remote, resolved, to_path
from pit_jax.training.fingerprint import inspect, leaf_digests, leaf_specs
from pit_jax.training.state import TrainState

# Of errors that say nothing about a checkpoint: storage, network or memory that fails for a while.
PASSING = re.compile(
    r"RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|PERMISSION_DENIED|UNAUTHENTICATED|Permission"
    r"|[Cc]onnection|[Tt]ime.?out|[Tt]imed out|MemoryError|[Ss]tale file handle|Input/output error"
    r"|\b(?:HTTP|status)\D{0,20}(?:401|403|408|429|5\d\d)\b|Too many open files"
)
_META = ocp.args.Composite(meta=ocp.args.JsonRestore())


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves notices of pre-emption alone: pit_jax.parallel.preemption counts when it asks for them."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one stage: folder/<round>/, the newest `keep` of them and the one with the highest score.

    Beside the arrays every checkpoint holds the names, shapes, dtypes and digests of its leaves and its score. What
    is read back is compared with them, so a garbled file is noticed even where the storage format would not.

    A checkpoint is written in the background into a temporary folder and renamed when whole; a process killed at any
    time leaves the earlier ones as they were. Use it in a `with` block, which waits for the last one.
    `say` receives what a person should know (default: a warning).

    Raises UserError at once when the folder cannot be written (unless `read_only`).
    """

    def __init__(
        self, folder: Path | str, *, keep: int = 1, read_only: bool = False, say: Callable[[str], None] = _warn
    ):
        self._folder, self._keep, self._say = resolved(to_path(folder)), keep, say
        self._read_only = read_only
        self._unfinished: int | None = None  # the round being written
        self._notes: dict[int, dict[str, Any] | None] = {}
        if read_only and not self._folder.is_dir():
            raise UserError(f"no checkpoints: folder {self._folder} does not exist; run the stage that writes it")
        if not read_only:
            check_writable(self._folder)
        with _without_advice() if read_only else contextlib.nullcontext():
            options = ocp.CheckpointManagerOptions(
                create=not read_only, read_only=read_only, max_to_keep=None, cleanup_tmp_directories=not read_only
            )
            self._manager = _Manager(self._folder, options=options)

    def rounds(self) -> list[int]:
        """Rounds of the checkpoints on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def check_space(self, state: TrainState) -> None:
        """UserError unless the disk has room for one checkpoint of `state` (arrays or ShapeDtypeStructs)."""
        if is_remote(self._folder):  # has no end
            return
        need = sum(spec["bytes"] for spec in leaf_specs(state).values())
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise UserError(
                f"not enough room for a checkpoint in {self._folder}: it takes {need / 2**20:.1f} MiB and "
                f"{free / 2**20:.1f} MiB are free; free some space or choose another --workdir"
            )

    def save(self, round: int, state: TrainState, *, score: float | None) -> None:
        """Write `state` in the background as the checkpoint of `round`; a round already on disk is left as it is.

        `state` may be donated as soon as this returns. `score` (higher is better) ranks the checkpoint; None = never
        the best. Raises UserError (nothing is written) for parameters that are not finite, UserError when this
        or the previous checkpoint could not be written.
        """
        assert not self._read_only, "opened read-only"
        if score is not None and not math.isfinite(score):
            raise UserError(
                f"the score of round {round} is {score}; give None for a checkpoint that must not be chosen"
            )
        self.wait()
        if round in self.rounds():
            return
        leaves, finite = inspect(state)
        broken = [name for name, fine in finite.items() if name.startswith("params/") and not fine]
        if broken:
            raise UserError(f"parameters are not finite after round {round}, nothing saved: {broken[:5]}")
        meta = {"round": round, "score": score, "leaves": leaves}
        self._unfinished = round
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta))
        self._guard(lambda: self._manager.save(round, args=args, force=True))

    def wait(self) -> None:
        """Return when the checkpoint being written is on disk, and drop those no longer kept. Raises UserError."""
        if self._read_only or self._unfinished is None:
            return
        self._guard(self._manager.wait_until_finished)
        self._unfinished = None
        self._drop_old()

    def _drop_old(self) -> None:
        rounds = self.rounds()
        for round in set(rounds) - {*rounds[-self._keep :], self.best_round()}:
            self._manager.delete(round)

    def close(self) -> None:
        """`wait`, then release the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not ends_alone(kind):  # else `close` would wait for hosts that wait for this one
            self.close()

    def best_round(self) -> int | None:
        """The round with the highest score (the newest of equals); None when no checkpoint has one."""
        notes = {round: self._meta(round) for round in self.rounds()}
        scored = [(meta["score"], round) for round, meta in notes.items() if meta and meta["score"] is not None]
        return max(scored)[1] if scored else None

    def digest(self, round: int) -> str:
        """Twelve hex digits that name the parameters of a checkpoint (for the lineage of what is trained from it)."""
        meta = self._meta(round)
        if meta is None:
            raise UserError(
                f"the checkpoint of round {round} in {self._folder} cannot be read; rounds: {self.rounds()}"
            )
        leaves = sorted(
            (name, leaf.get("digest")) for name, leaf in meta["leaves"].items() if name.startswith("params/")
        )
        return hashlib.sha256(repr(leaves).encode()).hexdigest()[:12]

    def restore_latest(self, abstract: TrainState) -> tuple[int, TrainState] | None:
        """(round, state) of the newest readable checkpoint, placed as `abstract` is; None if there is none.

        Unreadable ones that are newer are renamed to corrupt-<round> and reported. Raises UserError when names, shapes
        or dtypes are not those of `abstract`, UserError when there are checkpoints and none is readable.
        """
        rounds = self.rounds()
        if not rounds:
            return None
        latest = self._first_readable(rounds[::-1], abstract)
        if not self._read_only:
            self._drop_old()  # a kill may have come between a save and this
        return latest

    def restore_params(self, abstract_params: Any, *, round: int | None = None) -> tuple[int, Any]:
        """(round, params) of a checkpoint: `round`, or else the best, or else the newest; nothing else is read.

        `abstract_params` may be a part of the parameter tree. Raises as `restore_latest`, UserError when `round` is
        not on disk, UserError when nothing is. A named round never falls back to another one.
        """
        rounds = self.rounds()
        if not rounds:
            raise UserError(f"no checkpoints in {self._folder}; run the stage that writes them")
        if round is not None and round not in rounds:
            raise UserError(f"no checkpoint of round {round} in {self._folder}; found rounds {rounds}")
        best = self.best_round()
        newest_first = [best, *(r for r in rounds[::-1] if r != best)] if best is not None else rounds[::-1]
        restored_round, tree = self._first_readable(
            [round] if round is not None else newest_first, {"params": abstract_params}
        )
        return restored_round, tree["params"]

    def _first_readable(self, rounds: list[int], abstract: Any) -> tuple[int, Any]:
        failures: dict[int, str] = {}
        for round in rounds:
            try:
                tree = self._read(round, abstract)
            except MismatchError:
                raise
            except Exception as error:  # storage errors come in many types; each is reported here or raised below
                failures[round] = self._damage(round, error)
                continue
            for bad, reason in failures.items():
                self._say(
                    f"checkpoint of round {bad} in {self._folder} is corrupt ({reason}); using round {round} instead"
                )
            if not self._read_only:
                self._set_aside(failures)
            return round, tree
        listing = "; ".join(f"round {round}: {reason}" for round, reason in failures.items())
        raise UserError(
            f"no readable checkpoint in {self._folder} ({listing}). Put back a copy, or remove the folder to start anew"
        )

    def _read(self, round: int, abstract: Any) -> Any:
        """The tree of a checkpoint, verified. What one host cannot read is an error on all of them."""
        failure, meta, tree = None, None, None
        try:
            meta, tree = self._restored(round, abstract)
        except MismatchError:  # of what all hosts ask for
            raise
        except Exception as error:
            failure = error
        if not all_well(failure is None):  # before the digests, for which the hosts wait for each other
            raise failure or UserError("another host cannot read it")
        assert meta is not None
        garbled = [name for name, digest in leaf_digests(tree).items() if digest != meta["leaves"][name]["digest"]]
        if garbled:
            raise UserError(f"digests do not fit: {garbled[:5]}")
        return tree

    def _restored(self, round: int, abstract: Any) -> tuple[dict[str, Any], Any]:
        meta = self._manager.restore(round, args=_META)["meta"]
        partial = not isinstance(abstract, TrainState)
        _require_match(meta["leaves"], leaf_specs(abstract), partial, f"checkpoint of round {round} in {self._folder}")
        args = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=partial,
        )
        return meta, self._manager.restore(round, args=ocp.args.Composite(state=args))["state"]

    def _damage(self, round: int, error: Exception) -> str:
        """What an error says about a checkpoint. UserError where it says something about the moment instead."""
        if PASSING.search(f"{type(error).__name__}: {error}"):
            raise UserError(
                f"checkpoint of round {round} in {self._folder} cannot be read at the moment ({_first_line(error)}); "
                "nothing was changed: run the same command again"
            ) from error
        return _first_line(error)

    def _meta(self, round: int) -> dict[str, Any] | None:
        """Score and leaves of a checkpoint; None, said once, when they cannot be read."""
        if round not in self._notes:
            try:
                self._notes[round] = self._manager.restore(round, args=_META)["meta"]
            except Exception as error:
                damage = self._damage(round, error)
                self._notes[round] = None
                self._say(f"checkpoint of round {round} in {self._folder} is corrupt ({damage}); not counted")
        return self._notes[round]

    def _set_aside(self, rounds: dict[int, str]) -> None:
        if not rounds:
            return
        for round in rounds if is_main() else ():
            target, copies = self._folder / f"corrupt-{round}", 1
            while target.exists():
                target, copies = self._folder / f"corrupt-{round}-{copies}", copies + 1
            (self._folder / str(round)).rename(target)
        self._notes = {}
        barrier("corrupt checkpoints set aside")
        self._manager.reload()

    def _guard(self, action: Callable[[], Any]) -> None:
        round = self._unfinished
        try:
            action()
        except Exception as error:
            self._unfinished = None
            self._manager.reload()
            raise UserError(
                f"the checkpoint of round {round} could not be written to {self._folder}: {error}. "
                f"Earlier checkpoints are intact (rounds {[r for r in self.rounds() if r != round]}); "
                "free some space or mend the folder, then run the same command again"
            ) from error


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Orbax warns that a folder opened read-only is read-only."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


class MismatchError(UserError):
    """A checkpoint holds other leaves than asked for: a different model or optimizer, not damage."""


def _require_match(saved: dict[str, Any], asked: dict[str, Any], partial: bool, where: str) -> None:
    if any("digest" not in leaf for leaf in saved.values()):
        raise MismatchError(
            f"{where} was written by an earlier pit_jax, with other checksums; read it with that version"
        )
    lines = [f"{name}: missing in the checkpoint" for name in asked if name not in saved]
    lines += [] if partial else [f"{name}: only in the checkpoint" for name in saved if name not in asked]
    for name in asked.keys() & saved.keys():
        for what in ("shape", "dtype"):
            if asked[name][what] != saved[name][what]:
                lines.append(f"{name}: {what} {asked[name][what]} asked, {saved[name][what]} found")
    if lines:
        shown = "; ".join(sorted(lines)[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        raise MismatchError(f"{where} does not fit the model: {shown}. Use the config it was trained with")
