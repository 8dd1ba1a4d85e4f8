"""training/loop.py: the order of a round, early stops, and a run killed and resumed bit by bit."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.training.loop import run
from pit_jax.training.metrics import MetricsLog
from pit_jax.training.state import TrainState, create_state
from pit_jax.training.step import Metrics


def counting_state() -> TrainState:
    return create_state({"w": jnp.zeros(())}, optax.sgd(0.1), seed=0, extras={"position": jnp.int32(0)})


def counting_step(state: TrainState, batch: int) -> tuple[TrainState, Metrics]:
    """Adds the batch to w, so that w tells what was trained on."""
    metrics = {"loss": Mean(jnp.float32(batch), jnp.float32(1))}
    return dataclasses.replace(state, params={"w": state.params["w"] + batch}, step=state.step + 1), metrics


def record(
    events: list[Any], num_rounds: int, state: TrainState | None = None, per_round: int = 2, **hooks: Any
) -> TrainState:
    def supply(state: TrainState) -> Iterator[int]:
        for index in range(per_round):
            events.append(("draw", int(state.round)))
            yield 10 * int(state.round) + index

    def evaluate(state: TrainState, finished: int) -> dict[str, float]:
        events.append(("evaluate", finished, float(state.params["w"])))
        return {"score": finished}

    return run(
        counting_state() if state is None else state,
        counting_step,
        supply,
        evaluate=evaluate,
        save=lambda state, finished, scores: events.append(("save", finished, int(state.round), scores)),
        log=lambda finished, metrics: events.append(("log", finished, metrics["loss"].value)),
        num_rounds=num_rounds,
        **hooks,
    )


def test_the_order_of_a_round() -> None:
    """Evaluate, save, draw, in this order, and once more evaluate and save at the end."""
    events: list[Any] = []
    state = record(events, 2)
    assert events == [
        ("evaluate", 0, 0.0),
        ("save", 0, 0, {"score": 0}),
        ("draw", 0),
        ("draw", 0),
        ("log", 1, 0.5),
        ("evaluate", 1, 1.0),
        ("save", 1, 1, {"score": 1}),
        ("draw", 1),
        ("draw", 1),
        ("log", 2, 10.5),
        ("evaluate", 2, 22.0),
        ("save", 2, 2, {"score": 2}),
    ]
    assert int(state.round) == 2 and int(state.step) == 4 and float(state.params["w"]) == 22.0


def test_a_resumed_state_goes_on_where_it_stands() -> None:
    events: list[Any] = []
    state = record(events, 3, state=dataclasses.replace(counting_state(), round=jnp.int32(2)))
    assert events[0] == ("evaluate", 2, 0.0) and events[-1][:2] == ("save", 3)
    assert float(state.params["w"]) == 41.0


def test_a_finished_state_is_only_evaluated_and_saved() -> None:
    events: list[Any] = []
    record(events, 2, state=dataclasses.replace(counting_state(), round=jnp.int32(2)))
    assert [event[:2] for event in events] == [("evaluate", 2), ("save", 2)]


def test_stopping_a_round_drops_the_rest_of_its_batches() -> None:
    events: list[Any] = []
    state = record(events, 1, per_round=5, stop_round=lambda metrics: metrics["loss"].value >= 2)
    assert float(state.params["w"]) == 0 + 1 + 2
    assert ("log", 1, 1.0) in events and int(state.round) == 1


def test_a_run_that_is_stopped_ends_evaluated_and_saved() -> None:
    """Stopped at what the evaluation after one round found: nothing more is drawn."""
    events: list[Any] = []
    state = record(events, 5, stop=lambda: ("evaluate", 1, 1.0) in events)
    assert [event[:2] for event in events[-3:]] == [("log", 1), ("evaluate", 1), ("save", 1)]
    assert int(state.round) == 1


def test_finishing_a_round_may_move_extras_and_add_metrics() -> None:
    seen: list[Metrics] = []

    def finish(state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        moved = dataclasses.replace(state, extras={"position": state.extras["position"] + 7})
        return moved, {**metrics, "objective/kl": Mean(jnp.float32(3), jnp.float32(2))}

    state = run(
        counting_state(),
        counting_step,
        lambda state: iter([1]),
        evaluate=lambda state, finished: None,
        save=lambda state, finished, scores: None,
        log=lambda finished, metrics: seen.append(metrics),
        num_rounds=2,
        finish_round=finish,
    )
    assert int(state.extras["position"]) == 14
    assert [metrics["objective/kl"].value for metrics in seen] == [1.5, 1.5]


def test_an_empty_supply_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch for round 0: the data supply is empty"):
        record([], 1, per_round=0)


def test_a_non_finite_loss_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    """The log flushes before a save, as every stage has it: rounds 0 and 1 are saved, nothing later."""
    log, saved = MetricsLog(tmp_path, every=100, resume_round=0), []

    def save(state: TrainState, finished: int, scores: dict[str, float] | None) -> None:
        log.flush()
        saved.append(finished)

    with pytest.raises(UserError, match="loss is nan in round 2"):
        run(
            counting_state(),
            counting_step,
            lambda state: iter([1.0 if int(state.round) == 0 else float("nan")]),
            evaluate=lambda state, finished: None,
            save=save,
            log=log.train,
            num_rounds=5,
        )
    assert saved == [0, 1]


@pytest.mark.parametrize("kill_round", [0, 3])
def test_killed_in_the_middle_of_a_save_and_resumed_is_bit_identical(
    toy: ModuleType, tmp_path: Path, repository: Path, kill_round: int
) -> None:
    """SIGKILL right after a save was begun; the same call again ends where an uninterrupted run ends, bit by bit."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    program = [sys.executable, str(Path(__file__).with_name("toy.py")), str(tmp_path / "killed"), "5", str(kill_round)]
    killed = subprocess.run(program, cwd=repository, env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert not {str(r) for r in range(kill_round + 1, 6)} & left
    assert not kill_round or str(kill_round - 1) in left
    resumed, whole = toy.toy_run(tmp_path / "killed", 5), toy.toy_run(tmp_path / "whole", 5)
    assert int(resumed.round) == 5 and int(resumed.step) == 10
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        bits = [
            np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in (a, b)
        ]
        np.testing.assert_array_equal(*bits)
