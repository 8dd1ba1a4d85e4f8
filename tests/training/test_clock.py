"""training/clock.py: all time is in a phase, and compiling is in one of its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import monitoring

from pit_jax.training import clock
from pit_jax.training.clock import COMPILING, Clock, compile_seconds


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """passes(seconds) on a clock that stands still otherwise."""
    now = [100.0]

    def move(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return move


def test_a_lap_is_the_time_since_the_one_before(passes: Any) -> None:
    watch = Clock()
    for phase, seconds in (("data", 1.0), ("update", 2.0), ("data", 4.0), ("save", 0.0)):
        passes(seconds)
        watch.lap(phase)
    assert watch.take() == {"data": 5.0, "update": 2.0, "save": 0.0}
    assert watch.take() == {}
    passes(8.0)
    watch.lap("data")
    assert watch.take() == {"data": 8.0}, "what passes between two takes is lost to nobody"


def test_compiling_is_no_part_of_the_phase_it_falls_into(passes: Any) -> None:
    watch = Clock()
    passes(5.0)
    monitoring.record_event_duration_secs(COMPILING, 3.0)
    monitoring.record_event_duration_secs("/jax/core/compile/jaxpr_trace_duration", 9.0)
    watch.lap("update")
    passes(1.0)
    watch.lap("update")
    assert watch.take() == {"update": 3.0, "compile": 3.0}


def test_threads_that_compile_side_by_side_take_no_more_than_the_time_that_passed(passes: Any) -> None:
    watch = Clock()
    passes(2.0)
    monitoring.record_event_duration_secs(COMPILING, 3.0)
    watch.lap("update")
    assert watch.take() == {"update": 0.0, "compile": 2.0}


def test_what_jax_compiles_is_heard_once() -> None:
    before = compile_seconds()
    program = jax.jit(lambda x: x * 3.25 - 7.5)
    watch = Clock()
    watch.lap("update", program(jnp.ones(3)))
    compiled, after = watch.take(), compile_seconds()
    assert compiled["compile"] == pytest.approx(after - before) and after > before
    watch.lap("update", program(jnp.ones(3)))
    assert "compile" not in watch.take() and compile_seconds() == after


def test_a_lap_waits_for_what_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for nothing else."""
    waited: list[Any] = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    watch = Clock()
    watch.lap("update")
    watch.lap("rollout", "tokens")
    assert waited == [(), ("tokens",)]
