from pathlib import Path

import pytest

from pit_jax.evaluation.records import curve, latest, read_json, read_lines, read_metrics


def test_absent_files_are_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json") is None
    assert read_lines(tmp_path / "a.jsonl") == []


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("bad", ['{"a"', "[1]", ""])
def test_a_garbled_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{bad}\n{{"a": 3}}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: asked for a JSON object a line"):
        read_lines(path)


def test_a_garbled_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: asked for JSON"):
        read_json(tmp_path / "a.json")


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
