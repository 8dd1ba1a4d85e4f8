"""training/trace.py: which rounds are traced, where the trace lies, and what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from pit_jax.errors import UserError
from pit_jax.paths import files_below, to_path
from pit_jax.training import trace
from pit_jax.training.trace import Trace, asked_rounds


def test_rounds_by_name() -> None:
    assert list(asked_rounds("10:13")) == [10, 11, 12]
    assert not asked_rounds("")


@pytest.mark.parametrize("text", ["5", "3:3", "4:2", "-1:3", "1:", ":2", "a:b", "1:2:3", " 1:2", "1.0:2"])
def test_what_names_no_rounds_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError) as error:
        asked_rounds(text)
    assert str(error.value) == (
        f"--profile={text}: asked for START:STOP with START below STOP, counted from 0 in rounds of RL and updates of "
        "other trainings: 10:13 is the eleventh to the thirteenth"
    )


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[list[Any], list[str]]]:
    """traced(asked, start, last) -> what the profiler was told and when, what a person was told."""

    def run(asked: str, start: int, last: int) -> tuple[list[Any], list[str]]:
        events: list[Any] = []
        said: list[str] = []
        monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(("start", folder)))
        monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
        monkeypatch.setattr(jax, "block_until_ready", lambda state: events.append(state))
        tracing = Trace(asked_rounds(asked), tmp_path, said.append)
        for round in range(start, last + 1):
            tracing.at(round, f"state {round}")
        tracing.stop(last, f"state {last}")
        tracing.missed(start, last)
        return events, said

    return run


def test_a_trace_holds_whole_rounds(traced: Any, tmp_path: Path) -> None:
    """It waits for nothing but the states at its two ends."""
    events, said = traced("1:3", 0, 9)
    assert events == ["state 1", ("start", tmp_path / "host-0"), "state 3", "stop"]
    assert said == [f"--profile: rounds 1:3 traced; look at it with xprof {tmp_path}"]


def test_a_resumed_or_shorter_training_is_traced_in_part(traced: Any, tmp_path: Path) -> None:
    assert traced("1:5", 3, 9)[1] == [f"--profile: rounds 3:5 traced; look at it with xprof {tmp_path}"]
    events, said = traced("7:99", 0, 9)
    assert events[-2:] == ["state 9", "stop"] and "rounds 7:9 traced" in said[0]


@pytest.mark.parametrize(("asked", "start"), [("10:20", 0), ("1:3", 5)])
def test_a_training_without_such_rounds_says_so(traced: Any, asked: str, start: int) -> None:
    events, said = traced(asked, start, 9)
    assert events == []
    assert said == [f"--profile={asked}: nothing is traced, since the training went from round {start} to 9"]


def test_without_the_flag_nothing_happens(traced: Any) -> None:
    assert traced("", 0, 5) == ([], [])


def test_a_host_writes_into_its_own_folder(monkeypatch: pytest.MonkeyPatch, traced: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(trace, "index", lambda: 3)
    assert traced("0:1", 0, 2)[0][1] == ("start", tmp_path / "host-3")


def test_a_trace_comes_into_a_bucket(bucket: str) -> None:
    tracing = Trace(asked_rounds("0:1"), to_path(bucket) / "profile", lambda text: None)
    for round in (0, 1):
        tracing.at(round, jax.device_put(round))
    names = [path.name for path in files_below(to_path(bucket) / "profile" / "host-0")]
    assert any(name.endswith(".xplane.pb") for name in names), names
