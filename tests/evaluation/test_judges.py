import numpy as np
import pytest

from pit_jax.evaluation.judges import Judge, OrderedJudge, PairJudge, PointwiseJudge, Texts
from pit_jax.evaluation.stats.comparison import compare


def length(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer) for answer in answers], np.float32)


def biased_gap(prompts: Texts, candidates: Texts, references: Texts) -> np.ndarray:
    """Prefers the longer answer, and the candidate by 5 whatever it says."""
    return 5.0 + 2.0 * (length(prompts, candidates) - length(prompts, references))


def favours_first(prompts: Texts, firsts: Texts, seconds: Texts) -> np.ndarray:
    """Prefers the longer answer, and the first where the lengths differ by less than 2."""
    difference = length(prompts, firsts) - length(prompts, seconds)
    return np.where(np.abs(difference) < 2, 1.0, np.sign(difference))


PROMPTS, LEFT, RIGHT = ["p", "q", "r"], ["aaa", "b", "cc"], ["a", "bbb", "cc"]
JUDGES = [PointwiseJudge("length", length), PairJudge("gap", biased_gap), OrderedJudge("words", favours_first)]


def scores(judge: Judge, left: Texts, right: Texts) -> list[float]:
    return judge.ask(PROMPTS, left, right).scores_N.tolist()


def test_a_pointwise_judge_takes_the_difference() -> None:
    assert scores(PointwiseJudge("length", length), LEFT, RIGHT) == [2.0, -2.0, 0.0]


def test_a_pair_judge_removes_the_order() -> None:
    judge = PairJudge("gap", biased_gap)
    assert scores(judge, LEFT, RIGHT) == [4.0, -4.0, 0.0]
    assert scores(judge, RIGHT, LEFT) == [-4.0, 4.0, 0.0]
    assert scores(judge, LEFT, LEFT) == [0.0, 0.0, 0.0]


def test_an_ordered_judge_needs_both_orders_to_agree() -> None:
    """Lengths 3 against 1, 1 against 3, 2 against 2: the third goes to whoever stands first, so it is a tie."""
    judgement = OrderedJudge("words", favours_first).ask(PROMPTS, LEFT, RIGHT)
    assert judgement.scores_N.tolist() == [1.0, -1.0, 0.0]
    assert judgement.flipped == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("forward", "backward", "score", "flipped"),
    [
        (1, -1, 1, 0.0),  # the response wins in both places
        (-1, 1, -1, 0.0),
        (0, 0, 0, 0.0),
        (1, 1, 0, 1.0),  # whoever stands first wins
        (-1, -1, 0, 1.0),
        (1, 0, 0, 1.0),  # half a win is a tie
        (0, 1, 0, 1.0),
    ],
)
def test_every_pair_of_verdicts(forward: int, backward: int, score: int, flipped: float) -> None:
    verdicts = {"response": forward, "reference": backward}
    judge = OrderedJudge("table", lambda prompts, firsts, seconds: np.array([verdicts[first] for first in firsts]))
    judgement = judge.ask(["p"], ["response"], ["reference"])
    assert (judgement.scores_N.tolist(), judgement.flipped) == ([score], flipped)


def test_a_judge_that_always_picks_the_first_never_decides() -> None:
    judge = OrderedJudge("first", lambda prompts, firsts, seconds: np.ones(len(prompts)))
    judgement = judge.ask(PROMPTS, LEFT, RIGHT)
    assert judgement.scores_N.tolist() == [0.0, 0.0, 0.0] and judgement.flipped == 1.0


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_swapping_the_sides_flips_every_score(judge: Judge) -> None:
    assert scores(judge, RIGHT, LEFT) == [-score for score in scores(judge, LEFT, RIGHT)]


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_every_judge_feeds_a_comparison(judge: Judge) -> None:
    scores_N = judge.ask(PROMPTS, LEFT, RIGHT).scores_N
    result = compare(scores_N, np.zeros(3), tie_margin=0.0, resamples=10, seed=0)
    assert (result.win, result.lose, result.tie) == pytest.approx((100 / 3, 100 / 3, 100 / 3))


def test_equal_grades_stay_a_tie_in_float32() -> None:
    judge = PointwiseJudge("third", lambda prompts, answers: np.full(len(answers), 1 / 3, np.float32))
    assert scores(judge, LEFT, RIGHT) == [0.0, 0.0, 0.0]
    assert judge.ask(PROMPTS, LEFT, RIGHT).flipped is None


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_uneven_texts_are_named(judge: Judge) -> None:
    with pytest.raises(ValueError, match="3 prompts, 2 responses and 3 references"):
        judge.ask(PROMPTS, LEFT[:2], RIGHT)


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [([1, 0.5, 0], r"0\.5 at index 1"), ([1, 0, float("nan")], "nan at index 2"), ([1, 0], r"shape \(2,\)")],
)
def test_a_verdict_nobody_can_read_is_an_error(verdicts: list[float], found: str) -> None:
    judge = OrderedJudge("model", lambda prompts, firsts, seconds: np.array(verdicts))
    with pytest.raises(ValueError, match=f"judge model: asked for 1, -1 or 0 for each of 3 prompts, found {found}"):
        judge.ask(PROMPTS, LEFT, RIGHT)
