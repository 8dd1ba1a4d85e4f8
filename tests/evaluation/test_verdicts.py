"""Verdicts on disk: a judge that is stopped goes on where it was, and is asked again of other answers alone."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.evaluation.judges.judge import Judgement
from pit_jax.evaluation.systems import POLICY, Output, SystemId, pit
from pit_jax.evaluation.verdicts import VerdictFile, verdict_keys

KEYS = [f"key {i}" for i in range(10)]
BATCH = 3


class Slow:
    """A judge that says the number of a prompt, notes what it is asked, and may be killed at a call."""

    def __init__(self, *, ordered: bool = False, kill: int | None = None):
        self.asked: list[list[int]] = []
        self._ordered, self._kill = ordered, kill

    def __call__(self, indices: Sequence[int]) -> Judgement:
        if len(self.asked) == self._kill:
            raise KeyboardInterrupt
        self.asked.append(list(indices))
        flipped_N = np.array([i % 2 == 0 for i in indices]) if self._ordered else None
        return Judgement(np.array([i / 7 for i in indices]), flipped_N)


def file_in(folder: Path) -> VerdictFile:
    return VerdictFile(folder, "slow", pit(1), POLICY, 0.8)


def test_a_file_a_judge_a_pair_and_a_temperature(tmp_path: Path) -> None:
    assert file_in(tmp_path).path == tmp_path / "slow" / "pit-x1~policy@0.8.jsonl"
    control = SystemId("control", source="copy")
    assert VerdictFile(tmp_path, "slow", control, POLICY, None).path.name == "control-copy~policy.jsonl"


@pytest.mark.parametrize("ordered", [False, True])
def test_what_was_said_is_said_again_without_a_question(tmp_path: Path, ordered: bool) -> None:
    judge, again = Slow(ordered=ordered), Slow()
    first = file_in(tmp_path).judged(KEYS, judge, batch=BATCH)
    assert judge.asked == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    before = file_in(tmp_path).path.stat().st_mtime_ns
    second = file_in(tmp_path).judged(KEYS, again, batch=BATCH)
    assert again.asked == [] and file_in(tmp_path).path.stat().st_mtime_ns == before
    assert first.scores_N.tolist() == second.scores_N.tolist() == [i / 7 for i in range(10)]
    assert first.flipped == second.flipped == (0.5 if ordered else None)


def test_a_killed_judge_goes_on_where_it_stopped(tmp_path: Path) -> None:
    killed, later = Slow(kill=2), Slow()
    with pytest.raises(KeyboardInterrupt):
        file_in(tmp_path).judged(KEYS, killed, batch=BATCH)
    judgement = file_in(tmp_path).judged(KEYS, later, batch=BATCH)
    assert killed.asked + later.asked == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert judgement.scores_N.tolist() == [i / 7 for i in range(10)]


def test_a_file_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is asked."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    file_in(tmp_path).judged(KEYS, Slow(ordered=True), batch=BATCH)
    path = file_in(tmp_path).path
    whole = path.read_bytes()
    for place in range(len(whole) + 1):
        path.write_bytes(whole[:place])
        judge = Slow(ordered=True)
        file_in(tmp_path).judged(KEYS, judge, batch=BATCH)
        assert path.read_bytes() == whole
        assert sum(map(len, judge.asked)) == len(KEYS) - whole[:place].count(b"\n")


def test_other_answers_are_asked_again_and_alone(tmp_path: Path) -> None:
    file_in(tmp_path).judged(KEYS, Slow(), batch=BATCH)
    judge, changed = Slow(), [*KEYS[:4], "another", *KEYS[5:]]
    file_in(tmp_path).judged(changed, judge, batch=BATCH)
    assert judge.asked == [[4]]
    rows = [json.loads(line) for line in file_in(tmp_path).path.read_text().splitlines()]
    assert sorted((row["index"], row["key"]) for row in rows) == list(enumerate(changed))


def test_fewer_prompts_keep_the_verdicts_on_all(tmp_path: Path) -> None:
    file_in(tmp_path).judged(KEYS, Slow(), batch=BATCH)
    judge = Slow()
    assert file_in(tmp_path).judged(["another", *KEYS[1:4]], judge, batch=BATCH).scores_N.shape == (4,)
    assert file_in(tmp_path).judged(["another", *KEYS[1:]], judge, batch=BATCH).scores_N.shape == (10,)
    assert judge.asked == [[0]]


def test_more_prompts_ask_for_the_new_ones(tmp_path: Path) -> None:
    judge = Slow()
    file_in(tmp_path).judged(KEYS[:4], judge, batch=BATCH)
    file_in(tmp_path).judged(KEYS, judge, batch=BATCH)
    assert judge.asked == [[0, 1, 2], [3], [4, 5, 6], [7, 8, 9]]


def output(*keys: str) -> Output:
    return Output([Answer(key, (1,)) for key in keys], keys, np.ones(len(keys)))


def test_a_verdict_depends_on_the_judge_and_on_both_answers() -> None:
    left, right = output("a", "b"), output("c", "d")
    base = verdict_keys("judge", left, right)
    assert base == verdict_keys("judge", output("a", "b"), output("c", "d"))
    others = (("other", left, right), ("judge", right, left), ("judge", replace(left, keys=["a", "x"]), right))
    for number, other in enumerate(others):
        assert verdict_keys(*other)[1] != base[1]
        assert (verdict_keys(*other)[0] == base[0]) == (number == 2), "a changed answer changes its own verdict alone"


def test_a_row_that_is_no_verdict_is_named(tmp_path: Path) -> None:
    path = file_in(tmp_path).path
    path.parent.mkdir()
    path.write_text('{"index": 0, "key": "k", "score": "much"}\n')
    with pytest.raises(
        ValueError, match=r"policy@0.8.jsonl: a row that is no verdict \(.*score.*\); delete the file to"
    ):
        file_in(tmp_path)
