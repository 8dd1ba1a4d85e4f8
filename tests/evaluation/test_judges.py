import numpy as np
import pytest

from pit_jax.evaluation.comparison import compare
from pit_jax.evaluation.judges import Judge, PairJudge, PointwiseJudge, Texts


def length(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer) for answer in answers], np.float32)


def biased_gap(prompts: Texts, candidates: Texts, references: Texts) -> np.ndarray:
    """Prefers the longer answer, and the candidate by 5 whatever it says."""
    return 5.0 + 2.0 * (length(prompts, candidates) - length(prompts, references))


PROMPTS, LEFT, RIGHT = ["p", "q", "r"], ["aaa", "b", "cc"], ["a", "bbb", "cc"]


def test_a_pointwise_judge_takes_the_difference() -> None:
    assert PointwiseJudge("length", length).scores(PROMPTS, LEFT, RIGHT).tolist() == [2.0, -2.0, 0.0]


def test_a_pair_judge_removes_the_order() -> None:
    judge = PairJudge("gap", biased_gap)
    assert judge.scores(PROMPTS, LEFT, RIGHT).tolist() == [4.0, -4.0, 0.0]
    assert judge.scores(PROMPTS, RIGHT, LEFT).tolist() == [-4.0, 4.0, 0.0]
    assert judge.scores(PROMPTS, LEFT, LEFT).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("judge", [PointwiseJudge("length", length), PairJudge("gap", biased_gap)])
def test_every_judge_feeds_a_comparison(judge: Judge) -> None:
    scores_N = judge.scores(PROMPTS, LEFT, RIGHT)
    result = compare(scores_N, np.zeros(3), tie_margin=0.0, resamples=10, seed=0)
    assert (result.win, result.lose, result.tie) == pytest.approx((100 / 3, 100 / 3, 100 / 3))


def test_equal_grades_stay_a_tie_in_float32() -> None:
    judge = PointwiseJudge("third", lambda prompts, answers: np.full(len(answers), 1 / 3, np.float32))
    assert judge.scores(PROMPTS, LEFT, RIGHT).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("judge", [PointwiseJudge("length", length), PairJudge("gap", biased_gap)])
def test_uneven_texts_are_named(judge: Judge) -> None:
    with pytest.raises(ValueError, match="3 prompts, 2 responses and 3 references"):
        judge.scores(PROMPTS, LEFT[:2], RIGHT)
