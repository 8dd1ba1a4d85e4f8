"""The state of RL is what a run goes on from: it ends the same wherever it was killed, and nothing in it is idle.

Over models of three weights (toy_rl.py).
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import Config
from pit_jax.recipes import rl
from pit_jax.run.context import Context
from pit_jax.training.checkpoint import Checkpoints
from tests.recipes.toy_rl import Ended, config_of, evaluated, run, toy, train

__all__ = ["run", "toy"]
EVERYTHING: dict[str, Any] = {
    "second_gap": True,
    "kl_coef": 0.3,
    "kl_target": 0.01,
    "kl_horizon": 8,
    "anchor": "previous",
    "monitors": {
        "action": "warn",
        "max_step_kl": 1e-3,
        "max_kl": 0.05,
        "min_entropy": 0.9,
        "max_repetition": 0.05,
        "max_second_gap_fall": 0.1,
        "max_disagreement": 1.1,
    },
}
RUNS = {
    "plateau": config_of((3, 1), switch="plateau", patience=1, **EVERYTHING),
    "success": config_of((3, 1), switch="success", success=0.75, **EVERYTHING),
}


def kill(context: Context, round: int, last: int) -> None:
    """As if the run had been killed behind the checkpoint of `round`."""
    for later in range(round + 1, last + 1):
        shutil.rmtree(context.folder.path / "checkpoints" / str(later), ignore_errors=True)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(run: Any, name: str) -> None:
    """From every checkpoint: the same rows, the same choice by its digest, to the last bit."""
    context, whole = run(RUNS[name])
    last = max(evaluated(whole))
    for round in range(last):
        kill(context, round, last)
        assert train(context) == whole, round


def changed(leaf: Any) -> Iterator[Any]:
    """Other values of an array, far and near."""
    for shift in (100, -100, 1, -1):
        yield leaf + jnp.asarray(shift, leaf.dtype)
    yield jnp.zeros_like(leaf)


def came_to(ended: Ended) -> Any:
    """Without what merely shows a state: the digest of a checkpoint, and what is logged of the extras themselves."""
    shown = ("kl_coef", "curriculum/phase")
    rows = [{name: value for name, value in row.items() if name not in shown} for row in ended.rows]
    return rows, ended.best and ended.best[0], ended.over


def setback(ended: Ended) -> int:
    """The first evaluation that is no better than those before it, which ends the phase."""
    gaps = [row["objective/scores"] for row in ended.rows if row["phase"] == "eval"]
    return next(i for i in range(1, len(gaps) - 1) if gaps[i] <= max(gaps[:i]))


class Resumed:
    """A run that was killed behind `round`, to be gone on with from a state whose extras hold other values."""

    def __init__(self, context: Context, kept: Path, round: int, monkeypatch: pytest.MonkeyPatch):
        self._context, self._kept = context, kept
        self._values: dict[str, Any] = {}
        self.leaves: dict[str, Any] = {}
        """The extras that the killed run left."""
        restore = Checkpoints.restore_latest

        def other(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self.leaves[name] = np.array(leaf)  # the step takes the state's own
            return jax.device_put(self._values[name], leaf.sharding) if name in self._values else leaf

        def altered(checkpoints: Checkpoints, abstract: Any) -> Any:
            found = restore(checkpoints, abstract)
            assert found is not None and found[0] == round
            state = found[1]
            return round, replace(state, extras=jax.tree_util.tree_map_with_path(other, state.extras))

        monkeypatch.setattr(Checkpoints, "restore_latest", altered)

    def __call__(self, **values: Any) -> Any:
        """What it comes to, or how it fails."""
        folder = self._context.folder.path
        shutil.rmtree(folder)
        shutil.copytree(self._kept, folder)
        self._values = values
        try:
            return came_to(train(self._context))
        except Exception as error:
            return repr(error)


@pytest.fixture
def unread(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """unread(configs, among) -> the leaves of the extras whose value decides nothing in any of these runs."""

    def find(configs: Sequence[Config], *, among: Collection[str] = ()) -> set[str]:
        idle: set[str] = set()
        read: set[str] = set()
        for number, config in enumerate(configs):
            context, whole = run(config)
            round = setback(whole) if config.rl.curriculum.switch == "plateau" else 1
            kill(context, round, max(evaluated(whole)))
            kept = tmp_path / f"kept-{number}"
            shutil.copytree(context.folder.path, kept)
            with monkeypatch.context() as patch:
                resumed = Resumed(context, kept, round, patch)
                expected = resumed()
                assert expected == came_to(whole)
                leaves = {name: leaf for name, leaf in resumed.leaves.items() if not among or name in among}
                for name in leaves.keys() - read:
                    if any(resumed(**{name: value}) != expected for value in changed(leaves[name])):
                        read.add(name)
            idle |= leaves.keys()
            shutil.rmtree(context.folder.path)
        return idle - read

    return find


def test_every_leaf_of_the_extras_is_read(unread: Any) -> None:
    """Change one, and the run changes: a state holds nothing that nobody would miss.

    The second run keeps its anchor: no rollouts do so well that its first phase ends early.
    """
    patient = config_of((2, 1), switch="success", success=2.0, **EVERYTHING)
    assert unread([RUNS["plateau"], patient]) == set()


def test_a_leaf_that_nobody_reads_is_noticed(unread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = rl.begin_extras
    monkeypatch.setattr(rl, "begin_extras", lambda *args: {**begin(*args), "idle": jnp.float32(0.0)})
    assert unread([RUNS["success"]], among=["idle", "kl_coef"]) == {"idle"}
