"""RL under guard, from start to end at the smallest size: an alarm ends the stage, or is noted, and survives a kill."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import pytest
from rich.progress import Progress

from pit_jax.config import Config, GuardsConfig
from pit_jax.stages import models, rl
from pit_jax.stages.context import Context

ROUNDS = 3
LIMITS = GuardsConfig(
    max_step_kl=1e9, max_kl=1e9, min_entropy=0.0, max_repetition=1.0, max_guard_fall=1e-9, max_disagreement=1e9
)


def config_of(**guards: Any) -> Config:
    """Three quick rounds, an evaluation after each, and a learning rate that moves the gap."""
    base = Config()
    curriculum = replace(base.rl.curriculum, references=("rejected",), rounds=(ROUNDS,))
    knobs = {"batch_size": 16, "minibatches": 2, "epochs": 1, "evaluate_every": 1, "heldout_prompts": 16}
    optimizer = replace(base.rl.optimizer, learning_rate=1e-2, warmup=0.0)
    limits = replace(LIMITS, **guards)
    settings = replace(
        base.rl, **knobs, curriculum=curriculum, optimizer=optimizer, guards=limits, kl_coef=0.0, select_kl=1e9
    )
    return replace(base, rl=replace(settings, stop_kl=0.0), rm=replace(base.rm, guard_steps=5))


@pytest.fixture
def start(place: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """start(config) -> a context in which everything but the improver's RL is finished.

    The guard says the opposite of the gap model: whatever RL gains, the guard loses.
    """
    drawn = models.restored

    def restored(context: Context, stage: str, model: str, make: Callable[..., Any]) -> Any:
        if model != "guard":
            return drawn(context, stage, model, make)
        scorer = drawn(context, "rm", "improver", make)
        return {**scorer, "head": jax.tree.map(lambda x: -x, scorer["head"])}

    monkeypatch.setattr(models, "restored", restored)
    monkeypatch.setattr(rl, "require_gates", lambda context: {})

    def make(config: Config) -> Context:
        context: Context = place(config)
        for parent in context.folder("rl", "improver").parents(context.config):
            parent.path.mkdir(exist_ok=True)
            parent.finish(round=1, digest=f"digest of {parent.name}")
        return context

    return make


def evaluated(context: Context) -> dict[int, dict[str, float]]:
    """Round -> metrics of its held-out evaluation."""
    lines = (context.folder("rl", "improver").path / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if row["phase"] == "eval"}


def leaf_sums(context: Context, round: int) -> dict[str, int]:
    path = context.folder("rl", "improver").path / "checkpoints" / str(round) / "meta"
    return {name: leaf["sum"] for name, leaf in json.loads((path / "metadata").read_text())["leaves"].items()}


def test_a_guard_that_contradicts_the_gap_ends_the_stage(start: Any) -> None:
    """Where the gap rises above its lowest, at which this guard was highest; a checkpoint from before is kept."""
    context = start(config_of())
    folder = context.folder("rl", "improver")
    with Progress(disable=True) as progress:
        rl.run(context, "improver", progress)
    rows, done = evaluated(context), folder.done()
    gaps = [row["objective/scores"] for row in rows.values()]
    assert [row["guard/scores"] for row in rows.values()] == pytest.approx([-gap for gap in gaps], abs=1e-5)
    last = len(rows) - 1
    assert all(gap <= min(gaps[:i]) for i, gap in enumerate(gaps[:-1]) if i) and gaps[-1] > min(gaps[:-1])
    assert done is not None and done["round"] < last < ROUNDS
    (alarm,) = done["alarms"]
    assert (alarm["name"], alarm["round"], alarm["limit"]) == ("guard", last, 1e-9)
    assert alarm["figure"] == pytest.approx(gaps[-1] - min(gaps[:-1]), abs=1e-5)
    assert gaps[done["round"]] == max(gaps[:-1])
    assert folder.lineage()["rm-guard"] == "digest of rm-guard"


def test_a_killed_run_resumes_with_its_alarms(start: Any) -> None:
    """Under `warn` the stage goes on; killed before its last checkpoint, it ends with the same alarms again."""
    context = start(config_of(action="warn", max_kl=1e-4))
    folder = context.folder("rl", "improver")
    with Progress(disable=True) as progress:
        rl.run(context, "improver", progress)
        done, rows, sums = folder.done(), evaluated(context), leaf_sums(context, ROUNDS)
        (folder.path / "done.json").unlink()
        shutil.rmtree(folder.path / "checkpoints" / str(ROUNDS))
        rl.run(context, "improver", progress)
    assert done is not None and list(rows) == list(range(ROUNDS + 1))
    assert ("kl", 1, rows[1]["objective/kl"]) in [
        (alarm["name"], alarm["round"], pytest.approx(alarm["figure"])) for alarm in done["alarms"]
    ]
    assert folder.done() == done
    assert leaf_sums(context, ROUNDS) == sums
    assert without_time(evaluated(context)) == without_time(rows)


def test_updates_that_go_too_far_are_evaluated_at_once(start: Any) -> None:
    """Evaluations are due after rounds 0 and 3. Stopped after round 1, the run keeps what it started from; warned of,
    the first round is evaluated and later ones are not."""
    for action, rounds in (("stop", [0, 1]), ("warn", [0, 1, 3])):
        config = config_of(action=action, max_step_kl=1e-9, max_guard_fall=1e9)
        context = start(replace(config, rl=replace(config.rl, evaluate_every=ROUNDS)))
        folder = context.folder("rl", "improver")
        with Progress(disable=True) as progress:
            rl.run(context, "improver", progress)
        done = folder.done()
        assert done is not None and list(evaluated(context)) == rounds
        assert [(alarm["name"], alarm["round"]) for alarm in done["alarms"]] == [("step", 1)]
        assert (done["round"] == 0) == (action == "stop")
        shutil.rmtree(folder.path)


def test_an_alarm_ends_its_round_and_a_warning_does_not(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a round's minibatches has moved nothing yet, the second has. Warned of, all three rounds take their
    two epochs of two minibatches."""
    asked, updates = rl.Rounds.stop, []
    monkeypatch.setattr(rl.Rounds, "stop", lambda self, metrics: updates.append(metrics) or asked(self, metrics))
    for action, count in (("stop", 2), ("warn", 4 * ROUNDS)):
        config = config_of(action=action, max_step_kl=1e-9, max_guard_fall=1e9)
        context = start(replace(config, rl=replace(config.rl, epochs=2)))
        with Progress(disable=True) as progress:
            rl.run(context, "improver", progress)
        assert len(updates) == count
        updates.clear()
        shutil.rmtree(context.folder("rl", "improver").path)


def without_time(rows: dict[int, dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "time"} for row in rows.values()]
