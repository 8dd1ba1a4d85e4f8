"""Metrics read back for the report."""

from pathlib import Path

from pit_jax.report.records import curve, latest, read_metrics


def test_a_repeated_step_keeps_its_last_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [(1, "train", 5), (2, "train", 4), (2, "eval", 9), (2, "train", 3), (1, "eval", 8)]
    path.write_text("".join(f'{{"step": {s}, "phase": "{p}", "loss": {v}}}\n' for s, p, v in rows))
    found = read_metrics(path)
    assert curve(found, "train", "loss") == ([1, 2], [5.0, 3.0])
    assert curve(found, "eval", "loss") == ([1, 2], [8.0, 9.0])
    assert latest(found, "loss") == 9.0


def test_curves_skip_what_is_absent_or_not_finite() -> None:
    rows = [{"step": i, "phase": "train", "loss": v} for i, v in enumerate([1.0, float("nan"), float("inf"), None, 2])]
    rows.append({"step": 9, "phase": "train"})
    assert curve(rows, "train", "loss") == ([0, 4], [1.0, 2.0])
    assert latest(rows, "loss") == 2.0
    assert latest(rows, "accuracy") is None
