import numpy as np
import pytest

from pit_jax.evaluation.failures import worst
from pit_jax.evaluation.judges import PairJudge, PointwiseJudge, Texts


def length(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer) for answer in answers], np.float32)


LENGTH = PointwiseJudge("length", length)
PAIR = PairJudge("pair", lambda prompts, candidates, references: 2.0 + length(prompts, candidates))
PROMPTS = ["p", "q", "r", "s", "t"]
BEFORE = ["aaa", "bb", "cccc", "d", "eee"]
AFTER = ["a", "bbb", "c", "d", "e"]  # by 2 worse, better, by 3 worse, equal, by 2 worse


def test_the_largest_fall_comes_first_and_equals_keep_their_order() -> None:
    rows = worst(PROMPTS, BEFORE, AFTER, LENGTH)
    assert [row["prompt"] for row in rows] == ["r", "p", "t"]
    assert rows[0] == {
        "prompt": "r",
        "before": "cccc",
        "after": "c",
        "score_before": 4.0,
        "score_after": 1.0,
        "judge": "length",
    }
    assert [row["prompt"] for row in worst(PROMPTS, BEFORE, AFTER, LENGTH, count=2)] == ["r", "p"]


def test_a_pairwise_judge_tells_its_judgement_alone() -> None:
    """(gap(after | before) - gap(before | after)) / 2 is half the difference in length: -1.5 for r."""
    rows = worst(PROMPTS, BEFORE, AFTER, PAIR)
    assert [(row["prompt"], row["score_before"], row["score_after"]) for row in rows] == [
        ("r", None, -1.5),
        ("p", None, -1.0),
        ("t", None, -1.0),
    ]
    assert {row["judge"] for row in rows} == {"pair"}


def test_there_are_ten_at_most_and_none_that_did_not_fall() -> None:
    many = [f"p{i}" for i in range(30)]
    rows = worst(many, ["aa"] * 30, ["a"] * 30, LENGTH)
    assert [row["prompt"] for row in rows] == many[:10]
    assert worst(many, ["a"] * 30, ["a"] * 30, LENGTH) == worst(many, ["a"] * 30, ["aa"] * 30, LENGTH) == []


def test_scores_that_are_no_numbers_are_named() -> None:
    broken = PointwiseJudge("broken", lambda prompts, answers: np.array([1.0, float("nan")]))
    with pytest.raises(ValueError, match="judge broken: nan for prompt 1"):
        worst(["p", "q"], ["a", "b"], ["c", "d"], broken)
    with pytest.raises(ValueError, match="found 2 prompts, 1 responses"):
        worst(["p", "q"], ["a", "b"], ["c"], LENGTH)
