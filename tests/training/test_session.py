"""training/session.py: the order of a round, early stops, and a run killed anywhere and resumed bit by bit."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pit_jax import signals
from pit_jax.errors import UserError
from pit_jax.files import read_jsonl
from pit_jax.masked import Mean
from pit_jax.parallel.mesh import mesh_of
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.session import Session
from pit_jax.training.state import StatePlan, TrainState, plan_state
from pit_jax.training.step import Metrics
from tests.metric_rows import repeatable

EXTRAS = {"position": np.int32(0)}


@pytest.fixture(scope="module")
def plan(toy: ModuleType) -> StatePlan:
    """A weight and a position on eight devices."""
    whole = NamedSharding(mesh_of(2, 2, 2), PartitionSpec())
    shape = {"w": jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)}
    return plan_state(shape, optax.sgd(0.1), whole, seed=0, extras=EXTRAS)


@pytest.fixture
def session(plan: StatePlan, tmp_path: Path) -> Callable[..., Session]:
    """session(rounds, fresh=.., log_every=1, show=..) in one folder: what an earlier one left is resumed."""

    def make(rounds: int, fresh: Callable[[], TrainState] | None = None, **knobs: Any) -> Session:
        begin = fresh or (lambda: plan.begin({"w": jnp.zeros(())}, EXTRAS))
        settings = {"keep": 9, "log_every": 1, "show": lambda row: None, "say": print, **knobs}
        return Session(tmp_path, plan.abstract, begin, rounds=rounds, **settings)

    return make


def no_fresh_state() -> TrainState:
    raise AssertionError("a resumed session holds one state, that of its checkpoint")


def counting_step(state: TrainState, batch: float) -> tuple[TrainState, Metrics]:
    """Adds the batch to w, so that w tells what was trained on."""
    metrics = {"loss": Mean(jnp.float32(batch), jnp.float32(1))}
    return dataclasses.replace(state, params={"w": state.params["w"] + batch}, step=state.step + 1), metrics


def draws(round: int, events: list[Any]) -> Iterator[float]:
    """Two batches a round, named by the round alone."""
    for index in range(2):
        events.append(("draw", round))
        yield float(10 * round + index)


def train(session: Session, events: list[Any]) -> TrainState:
    """The loop that every stage writes."""
    with session:
        for done in session.rounds():
            events.append(("evaluate", done, float(session.state.params["w"])))
            session.evaluated(done, {"held": float(done)}, score=float(done))
            if done == session.last:
                break
            for batch in draws(done, events):
                session.update(counting_step, batch)
            session.end_round(done)
    return session.state


def test_metrics_without_checkpoints_are_no_fresh_start(session: Callable[..., Session], tmp_path: Path) -> None:
    """Whoever moved the folder away must say what is meant; a run killed before its first checkpoint has the folder."""
    train(session(2), [])
    for path in (tmp_path / "checkpoints").iterdir():
        shutil.rmtree(path)
    assert session(2).start == 0
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"metrics\.jsonl and no checkpoints, .* or delete .* to train anew"):
        session(2)


def saved_weights(folder: Path, plan: StatePlan) -> dict[int, float]:
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        found = {round: checkpoints.restore_params(plan.abstract.params, round=round) for round in checkpoints.rounds()}
    return {round: float(params["w"]) for round, (_, params) in found.items()}


def test_the_order_of_a_round(session: Any, plan: StatePlan, tmp_path: Path) -> None:
    """Evaluate, save, draw, in this order, and once more evaluate and save at the end.

    Batches are 0, 1 and 10, 11: what is saved of a round holds none of its own.
    """
    events: list[Any] = []
    state = train(session(2, show=lambda row: events.append((row["phase"], row["step"], row.get("loss")))), events)
    assert events == [
        ("evaluate", 0, 0.0),
        ("eval", 0, None),
        ("draw", 0),
        ("draw", 0),
        ("train", 1, 0.5),
        ("evaluate", 1, 1.0),
        ("eval", 1, None),
        ("draw", 1),
        ("draw", 1),
        ("train", 2, 10.5),
        ("evaluate", 2, 22.0),
        ("eval", 2, None),
    ]
    assert int(state.round) == 2 and int(state.step) == 4 and float(state.params["w"]) == 22.0
    assert saved_weights(tmp_path, plan) == {0: 0.0, 1: 1.0, 2: 22.0}


def test_a_resumed_session_goes_on_where_it_stands_and_never_begins_afresh(session: Any) -> None:
    events: list[Any] = []
    train(session(2), [])
    resumed = session(3, no_fresh_state)
    assert resumed.start == 2 and float(resumed.state.params["w"]) == 22.0
    state = train(resumed, events)
    assert events == [("evaluate", 2, 22.0), ("draw", 2), ("draw", 2), ("evaluate", 3, 63.0)]
    assert int(state.round) == 3 and int(state.step) == 6


def test_a_finished_session_is_only_evaluated(session: Any) -> None:
    events: list[Any] = []
    train(session(2), [])
    train(session(2, no_fresh_state), events)
    assert events == [("evaluate", 2, 22.0)]


def test_a_resumed_state_is_placed_as_the_plan_says(session: Any, plan: StatePlan) -> None:
    state = train(session(1), [])
    with session(1, no_fresh_state) as resumed:
        for found, before, place in zip(*map(jax.tree.leaves, (resumed.state, state, plan.sharding)), strict=True):
            assert found.sharding.is_equivalent_to(place, found.ndim) and found.dtype == before.dtype


def test_a_checkpoint_of_another_model_is_no_reason_to_begin_afresh(
    session: Any, plan: StatePlan, tmp_path: Path
) -> None:
    train(session(1), [])
    place: Any = plan.sharding.step
    wider = {"w": jax.ShapeDtypeStruct((2,), jnp.float32, sharding=place)}
    other = plan_state(wider, plan.optimizer, place, seed=0, extras=EXTRAS)
    with pytest.raises(UserError, match=r"does not fit the model: params/w: shape \[2\] asked, \[\] found"):
        Session(
            tmp_path, other.abstract, no_fresh_state, rounds=1, keep=1, log_every=1, show=lambda row: None, say=print
        )


def test_a_disk_without_room_is_found_out_before_anything_begins(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(3))
    with pytest.raises(UserError, match="not enough room for a checkpoint in .*; free some space or choose another"):
        session(1, no_fresh_state)


def test_a_loop_may_drop_the_rest_of_a_round(session: Any, tmp_path: Path) -> None:
    """`update` returns what the decision needs; the round is logged over the updates that were made."""
    with session(1) as running:
        for batch in range(5):
            metrics = running.update(counting_step, float(batch))
            if metrics["loss"].value >= 2:
                break
        assert {name: (float(m.sum), float(m.count)) for name, m in running.totals.items()} == {"loss": (3.0, 3.0)}
        running.end_round(0)
        assert running.totals == {}
    assert float(running.state.params["w"]) == 0 + 1 + 2 and int(running.state.round) == 1
    assert repeatable(tmp_path) == [{"step": 1, "phase": "train", "loss": 1.0}]


def test_a_loop_may_end_before_the_last_round(session: Any) -> None:
    """Evaluated and saved, it goes on from there when it is told to."""
    with session(5) as running:
        for done in running.rounds():
            running.evaluated(done, {}, score=None)
            if done == 1:
                break
            running.update(counting_step, 7.0)
            running.end_round(done)
    with session(5, no_fresh_state) as resumed:
        assert resumed.start == 1 and resumed.last == 5 and list(resumed.rounds()) == [1, 2, 3, 4, 5]
        assert int(resumed.state.round) == 1 and float(resumed.state.params["w"]) == 7.0


def test_ending_a_round_may_move_extras_and_add_metrics(session: Any, plan: StatePlan, tmp_path: Path) -> None:
    with session(2) as running:
        for done in range(2):
            running.update(counting_step, 1.0)
            moved = {"position": jnp.asarray(running.state.extras["position"]) + 7}
            running.end_round(done, metrics={"objective/kl": Mean(jnp.float32(3), jnp.float32(2))}, extras=moved)
            assert running.state.extras["position"].sharding == plan.sharding.extras["position"]
            assert running.state.round.sharding == plan.sharding.round and running.state.round.dtype == jnp.int32
    assert int(running.state.extras["position"]) == 14
    assert [row["objective/kl"] for row in repeatable(tmp_path)] == [1.5, 1.5]


def test_what_it_took_is_written_behind_every_row_of_training(session: Any, tmp_path: Path) -> None:
    """And what came behind the last of them when the session ends. Nobody is shown it, and the parts are the whole."""
    shown: list[str] = []
    with session(3, log_every=2, show=lambda row: shown.append(row["phase"])) as running:
        for done in running.rounds():
            if done == 3:
                running.settle()
                running.evaluated(done, {}, score=None)
                break
            running.update(counting_step, 1.0)
            running.performance.ran(8 * (done + 1), 0, {"update": 5.0})
            running.end_round(done)
    found = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if row["phase"] == "performance"]
    assert [(row["step"], row.get("perf/total_num_tokens"), row.get("perf/flops")) for row in found] == [
        (1, 8.0, 5.0),
        (2, 16.0, 5.0),
        (3, 24.0, 5.0),
        (3, None, None),
    ]
    assert "perf/seconds_evaluate" in found[3] and "perf/seconds_save" in found[3] and "performance" not in shown
    for row in found:
        assert row["perf/seconds"] == pytest.approx(sum(row[name] for name in row if "seconds_" in name)) != 0.0


def test_the_rounds_of_a_profile_are_traced(session: Any, tmp_path: Path) -> None:
    said: list[str] = []
    with session(3, profile=range(1, 2), say=said.append) as running:
        for done in running.rounds():
            if done == 3:
                break
            running.update(counting_step, 1.0)
            running.end_round(done)
    (written,) = (tmp_path / "profile" / "host-0").rglob("*.xplane.pb")
    assert written.stat().st_size > 0
    assert said == [f"--profile: rounds 1:2 traced; look at it with xprof {tmp_path / 'profile'}"]


def test_a_trace_ends_with_the_session_that_fails(session: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no batch for round 0"), session(3, profile=range(0, 9), say=print) as running:
        for done in running.rounds():
            running.end_round(done)
    assert list((tmp_path / "profile" / "host-0").rglob("*.xplane.pb"))


def test_extras_keep_their_keys(session: Any) -> None:
    with pytest.raises(AssertionError, match=r"extras changed keys: .*'place'"), session(1) as running:
        running.update(counting_step, 1.0)
        running.end_round(0, extras={"place": jnp.int32(3)})


def test_a_round_without_a_batch_is_an_error(session: Any) -> None:
    message = "no batch for round 0: the data supply is empty; check the data and the batch size"
    with pytest.raises(UserError, match=message), session(1) as running:
        running.end_round(0)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_non_finite_loss_stops_the_run_before_it_is_saved(
    session: Any, plan: StatePlan, tmp_path: Path, log_every: int
) -> None:
    """Whether or not a row was due: rounds 0 and 1 are saved, nothing later."""
    with pytest.raises(UserError, match="loss is nan in round 2"), session(5, log_every=log_every) as running:
        for done in running.rounds():
            running.evaluated(done, {}, score=None)
            running.update(counting_step, 1.0 if done == 0 else float("nan"))
            running.end_round(done)
    assert saved_weights(tmp_path, plan) == {0: 0.0, 1: 1.0}
    with session(5, no_fresh_state) as resumed:
        assert resumed.start == 1


def test_a_non_finite_held_out_metric_stops_it_too(session: Any, plan: StatePlan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held-out loss is inf after round 0"), session(5) as running:
        running.evaluated(0, {"loss": float("inf")}, score=1.0)
    assert saved_weights(tmp_path, plan) == {}


def test_the_first_loss_is_shown_at_once_and_later_ones_when_they_are_due(session: Any) -> None:
    shown: list[tuple[int, float]] = []
    with session(9, log_every=4, show=lambda row: shown.append((row["step"], row["loss"]))) as running:
        for done in range(6):
            running.update(counting_step, float(done))
            running.end_round(done)
            assert len(shown) == (1 if done < 3 else 2)
    assert shown == [(1, 0.0), (4, 2.0), (6, 4.5)], "the last row when the session ends"


def test_what_is_best_is_named_once_it_is_on_disk(session: Any, plan: StatePlan) -> None:
    """Scores 1, 3, none, 2."""
    with session(3) as running:
        assert running.best() is None
        for done, score in enumerate((1.0, 3.0, None, 2.0)):
            running.evaluated(done, {}, score=score)
            running.update(counting_step, 1.0)
            running.end_round(done)
        best = running.best()
    assert best is not None and best[0] == 1 and len(best[1]) == 12
    with session(3, no_fresh_state) as again:
        assert again.best() == best


def test_a_state_that_is_updated_is_donated(toy: ModuleType, tmp_path: Path) -> None:
    """So one state is alive at a time; the parameters that it began with stay."""
    plan, params, step = toy.toy_plan(mesh_of(2, 2, 2))
    settings: dict[str, Any] = {"keep": 1, "log_every": 1, "show": lambda row: None, "say": print}
    with Session(tmp_path, plan.abstract, lambda: plan.begin(params, toy.EXTRAS), rounds=2, **settings) as running:
        before = running.state
        running.evaluated(0, {}, score=None)
        running.update(step, toy.toy_batch(0))
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params)) and signals.deferring()
        running.end_round(0)
    assert not any(x.is_deleted() for x in jax.tree.leaves(params)) and not signals.deferring()


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, list[dict[str, Any]]]:
    """Five rounds without an interruption: the last state, and the rows of metrics."""
    folder = tmp_path_factory.mktemp("whole")
    return toy.toy_run(folder, 5), repeatable(folder)


@pytest.mark.parametrize(("place", "round"), [("save", 0), ("save", 4), ("update", 3), ("end", 4)])
def test_killed_anywhere_and_resumed_is_bit_identical(
    toy: ModuleType, whole: Any, tmp_path: Path, repository: Path, place: str, round: int
) -> None:
    """SIGKILL right after a save was begun, between two updates, or behind a round; rounds 0, 2, 4 and 5 are saved.

    The same call again ends where an uninterrupted run ends, bit by bit, and with the same rows.
    """
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    program = [sys.executable, str(Path(__file__).with_name("toy.py")), str(tmp_path), "5", place, str(round)]
    killed = subprocess.run(program, cwd=repository, env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert not {str(r) for r in range(round + 1, 6)} & left
    assert not round or {"0", "2"} & left, "a save that was begun may not be whole, an earlier one is"
    resumed = toy.toy_run(tmp_path, 5)
    assert int(resumed.round) == 5 and int(resumed.step) == 10
    toy.assert_same_bits(resumed, whole[0])
    assert repeatable(tmp_path) == whole[1]
