"""The improvements that made things worse: which are shown, in which order, and with which numbers."""

import numpy as np

from pit_jax.evaluation.failures import SHOWN, Failure, worst

PROMPTS = ["p", "q", "r", "s", "t"]
BEFORE = ["aaa", "bb", "cccc", "d", "eee"]
AFTER = ["a", "bbb", "c", "d", "e"]  # by 2 worse, better, by 3 worse, equal, by 2 worse
GRADES = np.array([len(text) for text in BEFORE], float), np.array([len(text) for text in AFTER], float)
GAINS_N = GRADES[1] - GRADES[0]


def test_the_largest_fall_comes_first_and_equals_keep_their_order() -> None:
    rows = worst(PROMPTS, BEFORE, AFTER, GAINS_N, judge="length", grades=GRADES)
    assert [row.prompt for row in rows] == ["r", "p", "t"]
    assert rows[0] == Failure("r", "cccc", "c", score_before=4.0, score_after=1.0, judge="length")
    two = worst(PROMPTS, BEFORE, AFTER, GAINS_N, judge="length", grades=GRADES, count=2)
    assert [row.prompt for row in two] == ["r", "p"]


def test_a_judge_that_grades_none_tells_its_judgement_alone() -> None:
    """Of a gap, half the difference in length: -1.5 for r."""
    rows = worst(PROMPTS, BEFORE, AFTER, GAINS_N / 2, judge="pair")
    assert [(row.prompt, row.score_before, row.score_after) for row in rows] == [
        ("r", None, -1.5),
        ("p", None, -1.0),
        ("t", None, -1.0),
    ]
    assert {row.judge for row in rows} == {"pair"}


def test_there_are_ten_at_most_and_none_that_did_not_fall() -> None:
    many = [f"p{i}" for i in range(30)]
    rows = worst(many, ["aa"] * 30, ["a"] * 30, np.full(30, -1.0), judge="length")
    assert SHOWN == 10 and [row.prompt for row in rows] == many[:10]
    for gain in (0.0, 1.0):
        assert worst(many, ["a"] * 30, ["aa"] * 30, np.full(30, gain), judge="length") == []
