"""RL under monitors, from start to end at the smallest size: one ends the stage, or is noted, and survives a kill."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config, MonitorsConfig
from pit_jax.recipes import rl
from pit_jax.recipes.catalogue import GAP
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.folders import StageFolder
from pit_jax.training.session import Session
from tests.world import MakeContext, finish_parents

ROUNDS = 3
LIMITS = MonitorsConfig(
    max_step_kl=1e9, max_kl=1e9, min_entropy=0.0, max_repetition=1.0, max_second_gap_fall=1e-9, max_disagreement=1e9
)


def config_of(**monitors: Any) -> Config:
    """Three quick rounds, an evaluation after each, and a learning rate that moves the gap."""
    base = Config()
    curriculum = replace(base.rl.curriculum, references=("rejected",), rounds=(ROUNDS,))
    knobs: dict[str, Any] = {
        "batch_size": 16,
        "minibatches": 2,
        "epochs": 1,
        "evaluate_every": 1,
        "heldout_prompts": 16,
    }
    optimizer = replace(base.rl.optimizer, learning_rate=1e-2, warmup=0.0)
    limits = replace(LIMITS, **monitors)
    settings = replace(
        base.rl, **knobs, curriculum=curriculum, optimizer=optimizer, monitors=limits, kl_coef=0.0, select_kl=1e9
    )
    return replace(base, rl=replace(settings, stop_kl=0.0), rm=replace(base.rm, second_gap_steps=5))


@pytest.fixture
def start(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """start(config) -> a context in which everything but the improver's RL is finished.

    The second gap model says the opposite of the first: whatever RL gains, it loses.
    """

    def make(config: Config) -> Context:
        context = finish_parents(place(config))
        drawn = params.restored

        def restored(context: Context, folder: StageFolder, init: Any, round: int | None = None) -> Any:
            if folder.name != "rm-second-gap":
                return drawn(context, folder, init, round)
            scorer = drawn(context, context.folder_of(GAP), init, round)
            return {**scorer, "head": jax.tree.map(lambda x: -x, scorer["head"])}

        monkeypatch.setattr(params, "restored", restored)
        monkeypatch.setattr(rl, "require_gates", lambda context: {})
        return context

    return make


def run(context: Context) -> dict[str, Any]:
    """To its end; the done marker."""
    with jax.set_mesh(context.mesh):
        rl.run(context)
    done = context.folder.done()
    assert done is not None
    return done


def evaluated(context: Context) -> dict[int, dict[str, float]]:
    """Round -> metrics of its held-out evaluation."""
    lines = (context.folder.path / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if row["phase"] == "eval"}


def leaf_digests(context: Context, round: int) -> dict[str, str]:
    path = context.folder.path / "checkpoints" / str(round) / "meta"
    return {name: leaf["digest"] for name, leaf in json.loads((path / "metadata").read_text())["leaves"].items()}


def test_a_second_gap_that_contradicts_the_gap_ends_the_stage(start: Any) -> None:
    """Where the gap rises above its lowest, at which this one was highest; a checkpoint from before is kept."""
    context = start(config_of())
    done = run(context)
    rows = evaluated(context)
    gaps = [row["objective/scores"] for row in rows.values()]
    assert [row["second-gap/scores"] for row in rows.values()] == pytest.approx([-gap for gap in gaps], abs=1e-5)
    last = len(rows) - 1
    assert all(gap <= min(gaps[:i]) for i, gap in enumerate(gaps[:-1]) if i) and gaps[-1] > min(gaps[:-1])
    assert done["round"] < last < ROUNDS
    (monitor,) = done["monitors"]
    assert (monitor["name"], monitor["round"], monitor["limit"]) == ("second-gap", last, 1e-9)
    assert monitor["figure"] == pytest.approx(gaps[-1] - min(gaps[:-1]), abs=1e-5)
    assert gaps[done["round"]] == max(gaps[:-1])
    assert context.folder.lineage()["ancestors"]["rm-second-gap"] == "digest of rm-second-gap"


def test_a_killed_run_resumes_with_its_monitors(start: Any) -> None:
    """Under `warn` the stage goes on; killed before its last checkpoint, it ends with the same monitors again."""
    context = start(config_of(action="warn", max_kl=1e-4))
    folder = context.folder
    done = run(context)
    rows, digests = evaluated(context), leaf_digests(context, ROUNDS)
    (folder.path / "done.json").unlink()
    shutil.rmtree(folder.path / "checkpoints" / str(ROUNDS))
    assert run(context) == done
    assert list(rows) == list(range(ROUNDS + 1))
    noted: list[Any] = [(found["name"], found["round"], pytest.approx(found["figure"])) for found in done["monitors"]]
    assert ("kl", 1, rows[1]["objective/kl"]) in noted
    assert leaf_digests(context, ROUNDS) == digests
    assert without_time(evaluated(context)) == without_time(rows)


def test_updates_that_go_too_far_are_evaluated_at_once(start: Any) -> None:
    """Evaluations are due after rounds 0 and 3. Stopped after round 1, the run keeps what it started from; warned of,
    the first round is evaluated and later ones are not."""
    for action, rounds in (("stop", [0, 1]), ("warn", [0, 1, 3])):
        config = config_of(action=action, max_step_kl=1e-9, max_second_gap_fall=1e9)
        context = start(replace(config, rl=replace(config.rl, evaluate_every=ROUNDS)))
        done = run(context)
        assert list(evaluated(context)) == rounds
        assert [(monitor["name"], monitor["round"]) for monitor in done["monitors"]] == [("step", 1)]
        assert (done["round"] == 0) == (action == "stop")
        shutil.rmtree(context.folder.path)


def test_a_monitor_ends_its_round_and_a_warning_does_not(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a round's minibatches has moved nothing yet, the second has. Warned of, all three rounds take their
    two epochs of two minibatches; and where the KL of a round is spent, two of them."""
    update, updates = Session.update, list[Any]()

    def noted(self: Session, *args: Any) -> Any:
        updates.append(args)
        return update(self, *args)

    monkeypatch.setattr(Session, "update", noted)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"action": "stop"}, 2),
        ({}, 4 * ROUNDS),
        ({"stop_kl": 1e-9}, 2 * ROUNDS),
    ]
    for changes, count in cases:
        stop_kl = changes.pop("stop_kl", 0.0)
        config = config_of(max_step_kl=1e-9, max_second_gap_fall=1e9, **{"action": "warn", **changes})
        context = start(replace(config, rl=replace(config.rl, epochs=2, stop_kl=stop_kl)))
        run(context)
        assert len(updates) == count
        updates.clear()
        shutil.rmtree(context.folder.path)


def without_time(rows: dict[int, dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "time"} for row in rows.values()]


def test_rl_ends_where_nothing_gets_better(start: Any) -> None:
    """At the first evaluation that is no better than one before it."""
    config = config_of(action="warn")
    context = start(config)
    run(context)
    gaps = [row["objective/scores"] for row in evaluated(context).values()]
    shutil.rmtree(context.folder.path)
    late = [round for round in range(ROUNDS + 1) if int(np.argmax(gaps[: round + 1])) < round]
    context = start(replace(config, rl=replace(config.rl, patience=1)))
    done = run(context)
    assert late[0] < ROUNDS and list(evaluated(context)) == list(range(late[0] + 1)), gaps
    assert done["ended"] == f"no better held-out score in 1 evaluations, after {late[0]} of {ROUNDS} rounds"
    assert done["round"] == int(np.argmax([row["objective/scores"] for row in evaluated(context).values()]))
