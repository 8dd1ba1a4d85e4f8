"""training/metrics.py: what is written, when, and what a resumed run finds."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from pit_jax.errors import UserError
from pit_jax.files import read_jsonl
from pit_jax.masked import Mean
from pit_jax.training.metrics import MetricsLog


def mean(total: float, count: float) -> Mean:
    return Mean(jnp.float32(total), jnp.float32(count))


def test_rows_divide_sums_by_counts(tmp_path: Path) -> None:
    """Rounds 1 and 2 hold 1 over 1 and 5 over 2 tokens: the row says 6 / 3, not the mean of 1 and 2.5."""
    log = MetricsLog(tmp_path, every=2, resume_round=0)
    log.train(1, {"loss": mean(1, 1), "accuracy": mean(1, 1)})
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    log.train(2, {"loss": mean(5, 2), "accuracy": mean(0, 1), "unseen": mean(0, 0)})
    log.eval(2, {"loss": 0.25})
    train, held_out = read_jsonl(tmp_path / "metrics.jsonl")
    assert train.pop("time") >= 0 and held_out.pop("time") >= 0
    assert train == {"step": 2, "phase": "train", "loss": 2.0, "accuracy": 0.5}
    assert held_out == {"step": 2, "phase": "eval", "loss": 0.25}
    log.close()


def test_flush_and_eval_write_what_is_due(tmp_path: Path) -> None:
    rows: list[dict] = []
    log = MetricsLog(tmp_path, every=10, resume_round=0, on_row=rows.append)
    log.flush()
    log.train(1, {"loss": mean(2, 1)})
    log.flush()
    log.train(2, {"loss": mean(3, 1)})
    log.eval(2, {"loss": 1.0})
    log.train(3, {"loss": mean(4, 1)})
    log.close()
    want = [(1, "train", 2.0), (2, "train", 3.0), (2, "eval", 1.0), (3, "train", 4.0)]
    assert [(row["step"], row["phase"], row["loss"]) for row in rows] == want
    assert rows == read_jsonl(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_loss_stops_with_its_name_and_round(tmp_path: Path, bad: float) -> None:
    log = MetricsLog(tmp_path, every=4, resume_round=0)
    for finished in range(1, 4):
        log.train(
            finished, {"grad_norm": mean(bad if finished > 1 else 1, 1), "loss": mean(bad if finished > 1 else 1, 1)}
        )
    with pytest.raises(UserError, match=f"loss is {bad} in round 2"):
        log.train(4, {"grad_norm": mean(1, 1), "loss": mean(1, 1)})
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_a_non_finite_held_out_metric_stops_too(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, every=1, resume_round=0)
    with pytest.raises(UserError, match="held-out truth/score is nan after round 3"):
        log.eval(3, {"truth/score": float("nan")})


def test_resuming_drops_what_will_be_written_again(tmp_path: Path) -> None:
    """Resumed at round 2: its train row stays (it covers rounds up to 2), its eval row is measured again."""
    log = MetricsLog(tmp_path, every=1, resume_round=0)
    for finished in range(1, 5):
        log.train(finished, {"loss": mean(finished, 1)})
        log.eval(finished, {"loss": float(finished)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "phase": "tr')  # cut off by a kill
    last = read_jsonl(tmp_path / "metrics.jsonl")[2]["time"]
    log = MetricsLog(tmp_path, every=1, resume_round=2)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["phase"]) for row in rows] == [(1, "train"), (1, "eval"), (2, "train")]
    log.eval(2, {"loss": 2.0})
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["time"] >= last
    log.close()
    assert not (tmp_path / "metrics.tmp").exists()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_rows_that_were_lost_are_no_fresh_start(tmp_path: Path, left: int) -> None:
    """Empty, or cut off before what is saved: the rows of the rounds between are nowhere."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {i}, "phase": "train", "time": 1.0}}\n' for i in range(1, left + 1)))
    with pytest.raises(UserError, match=f"{path} ends before round 3, .* put back a copy, or delete {tmp_path} to"):
        MetricsLog(tmp_path, every=1, resume_round=3)


def test_a_fresh_start_empties_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "phase": "train", "time": 1.0, "loss": 2.0}\n')
    MetricsLog(tmp_path, every=1, resume_round=0).close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_a_garbled_row_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: asked for a JSON object, found '\{\"step\": '"):
        read_jsonl(tmp_path / "metrics.jsonl")


def test_tensorboard_files_lie_beside(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    log = MetricsLog(tmp_path, every=1, resume_round=0)
    log.train(1, {"loss": mean(1, 1)})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_without_tensorboard_the_rows_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = MetricsLog(tmp_path, every=1, resume_round=0)
    log.train(1, {"loss": mean(1, 1)})
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1.0


def test_every_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every N >= 1 rounds, found 0"):
        MetricsLog(tmp_path, every=0, resume_round=0)
