"""training/performance.py: every figure by hand, and none where nobody can know it."""

from types import SimpleNamespace
from typing import Any

import jax
import pytest

from pit_jax.training import performance
from pit_jax.training.performance import Performance, memory

SECONDS = {"data": 1.0, "update": 3.0, "evaluate": 5.0, "save": 2.0, "compile": 7.0}
RL = {"rollout": 2.0, "score": 1.0, "update": 1.0, "evaluate": 9.0}


@pytest.fixture
def chips() -> Any:
    """chips(kind) -> two of them."""

    def make(kind: str) -> set[Any]:
        return {type("Device", (), {"device_kind": kind})() for _ in range(2)}

    return make


def timed(meter: Performance, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter.clock, "take", lambda: dict(seconds))


def test_a_supervised_training_by_hand(chips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 tokens in 1 + 3 of 18 seconds on two v5e of 197e12 operations a second, of which half were of use."""
    monkeypatch.setattr(performance, "memory", dict)
    meter = Performance(chips("TPU v5 lite"))
    timed(meter, SECONDS, monkeypatch)
    half = 0.5 * 2 * 197e12 * 4
    meter.ran(150, 0, {"update": half / 4})
    meter.ran(250, 0, {"update": 3 * half / 4})
    assert meter.take() == {
        "perf/seconds": 18.0,
        **{f"perf/seconds_{phase}": seconds for phase, seconds in SECONDS.items()},
        "perf/total_num_tokens": 400.0,
        "perf/tokens_per_second": 100.0,
        "perf/tokens_per_second_per_chip": 50.0,
        "perf/flops": half,
        "perf/mfu": 0.5,
        "perf/mfu_update": pytest.approx(0.5 * 4 / 3),
    }
    assert "perf/flops" not in meter.take() and "perf/tokens_per_second" not in meter.take(), "counted once"


def test_a_round_of_rl_by_hand(chips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "memory", dict)
    meter, peak = Performance(chips("NVIDIA A100-SXM4-80GB")), 2 * 312e12
    timed(meter, RL, monkeypatch)
    meter.ran(1000, 600, {"rollout": 0.02 * peak, "score": 0.3 * peak, "update": 0.4 * peak})
    figures = meter.take()
    assert figures["perf/tokens_per_second"] == 250.0 and figures["perf/rollout_tokens_per_second"] == 300.0
    assert figures["perf/mfu"] == pytest.approx(0.72 / 4)
    parts = {phase: figures[f"perf/mfu_{phase}"] for phase in ("rollout", "score", "update")}
    assert parts == {"rollout": pytest.approx(0.01), "score": pytest.approx(0.3), "update": pytest.approx(0.4)}


def test_a_kind_without_a_known_peak_has_operations_and_no_mfu(chips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Performance(chips("cpu"))
    timed(meter, RL, monkeypatch)
    meter.ran(8, 4, {"update": 6.0})
    figures = meter.take()
    assert figures["perf/flops"] == 6.0 and not [name for name in figures if "mfu" in name]


def test_what_was_not_done_has_no_figure(chips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Performance(chips("cpu"))
    assert meter.take() == {}
    timed(meter, {"evaluate": 1.0, "save": 2.0}, monkeypatch)
    figures = meter.take()
    assert {name for name in figures if "peak" not in name} == {
        "perf/seconds",
        "perf/seconds_evaluate",
        "perf/seconds_save",
    }


def test_the_high_water_mark_of_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here devices do not count, and the process does."""
    resident = memory()
    assert resident.keys() == {"perf/host_peak_bytes"} and 2**26 < resident["perf/host_peak_bytes"] < 2**40

    def device(peak: int) -> Any:
        return SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": peak, "bytes_in_use": 1})

    monkeypatch.setattr(jax, "local_devices", lambda: [device(3), device(7), device(5)])
    assert memory()["perf/device_peak_bytes"] == 7.0 and "perf/host_peak_bytes" in memory()
