"""The page's section on performance: sums and means by hand, and what is shown where a figure is missing."""

from pathlib import Path
from typing import Any

import pytest

from pit_jax.files import write_jsonl
from pit_jax.report.performance import Performance, of_run, performance_rows
from tests.report.pages import built, run_of

FIRST = {
    "step": 1,
    "phase": "performance",
    "time": 4.0,
    "perf/seconds": 4.0,
    "perf/seconds_update": 1.0,
    "perf/seconds_compile": 3.0,
    "perf/total_num_tokens": 100.0,
    "perf/tokens_per_second": 100.0,
    "perf/tokens_per_second_per_chip": 50.0,
    "perf/flops": 8e12,
    "perf/mfu": 0.4,
    "perf/host_peak_bytes": 2.0**30,
}
SECOND = {
    **FIRST,
    "step": 9,
    "perf/seconds": 5.0,
    "perf/seconds_update": 4.0,
    "perf/seconds_evaluate": 1.0,
    "perf/total_num_tokens": 100.0,
    "perf/tokens_per_second": 25.0,
    "perf/tokens_per_second_per_chip": 12.5,
    "perf/mfu": 0.1,
    "perf/host_peak_bytes": 3.0 * 2**30,
}
del SECOND["perf/seconds_compile"]
LAST = {"step": 9, "phase": "performance", "time": 10.0, "perf/seconds": 1.0, "perf/seconds_save": 1.0}


def test_a_training_by_hand() -> None:
    """200 tokens in 1 + 4 seconds, though the mean of the two rates is 62.5; so for MFU."""
    found = Performance("sft-policy", [FIRST, SECOND, LAST])
    assert found.seconds == 10.0
    assert found.parts == [("update", 5.0, 50.0), ("evaluate", 1.0, 10.0), ("save", 1.0, 10.0), ("compile", 3.0, 30.0)]
    assert found.tokens_per_second == pytest.approx(40.0)
    assert found.tokens_per_second_per_chip == pytest.approx(20.0)
    assert found.mfu == pytest.approx(2 * 8e12 / (8e12 / 0.4 + 8e12 / 0.1))
    assert found.flops_per_second == pytest.approx(16e12 / 5)
    assert found.memory == ("host", 3.0)
    on_device = Performance("sft-policy", [{**FIRST, "perf/device_peak_bytes": 2.0**31}])
    assert on_device.memory == ("device", 2.0)


def test_what_no_row_says_is_none() -> None:
    found = Performance("sft-policy", [LAST])
    assert [found.tokens_per_second, found.mfu, found.flops_per_second, found.memory] == [None] * 4


def test_the_page_has_a_line_for_every_training_that_left_rows(tmp_path: Path) -> None:
    assert "Performance" not in built(tmp_path).pieces
    rows: list[Any] = [{"step": 1, "phase": "train", "time": 0.0, "loss": 1.0}, FIRST, SECOND, LAST]
    write_jsonl(tmp_path / "rl-policy" / "metrics.jsonl", rows)
    write_jsonl(tmp_path / "sft-policy" / "metrics.jsonl", rows[:1])
    assert performance_rows(tmp_path / "rl-policy" / "metrics.jsonl") == rows[1:]
    assert [training.stage for training in of_run(run_of(tmp_path))] == ["rl-policy"]
    page = built(tmp_path)
    line = "rl-policy update 5.0, evaluate 1.0, save 1.0, compile 3.0 10.0 40 20 3.2 T 16.0 3.00 host"
    assert line in page.words and "sft-policy update" not in page.words
    assert ("style", "width: 50.0%") in page.attributes
