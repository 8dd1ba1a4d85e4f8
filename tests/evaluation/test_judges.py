"""Judges of all three kinds: what they are asked, how the order of two answers drops out, and what they may not say."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import Config, DataConfig, EvaluateConfig
from pit_jax.data.worlds import notes
from pit_jax.data.worlds.world import pairs
from pit_jax.evaluation.judges.builtin import GAP, GAP_MODEL, JUDGES, RUBRIC, judges_of, truth_scores
from pit_jax.evaluation.judges.judge import Bench, Judge, Judgement, ask, grades
from pit_jax.evaluation.stats.comparison import compare
from pit_jax.run.provenance import StageId
from pit_jax.table import Source, forget

Texts = Sequence[str]


def answers(*texts: str) -> list[Answer]:
    """Answers whose tokens nobody reads."""
    return [Answer(text, (1,)) for text in texts]


def length(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer) for answer in answers], np.float32)


def biased_gap(prompts: Texts, candidates: Texts, references: Texts) -> np.ndarray:
    """Prefers the longer answer, and the candidate by 5 whatever it says."""
    return 5.0 + 2.0 * (length(prompts, candidates) - length(prompts, references))


def favours_first(prompts: Texts, firsts: Texts, seconds: Texts) -> np.ndarray:
    """Prefers the longer answer, and the first where the lengths differ by less than 2."""
    difference = length(prompts, firsts) - length(prompts, seconds)
    return np.where(np.abs(difference) < 2, 1.0, np.sign(difference))


def always_first(prompts: Texts, firsts: Texts, seconds: Texts) -> list[int]:
    return [1] * len(prompts)


PROMPTS, LEFT, RIGHT = ["p", "q", "r"], answers("aaa", "b", "cc"), answers("a", "bbb", "cc")
LENGTH, BIASED = Judge("length", length), Judge("gap", biased_gap, kind="gap")
ORDERED, FIRST = Judge("words", favours_first, kind="verdict"), Judge("first", always_first, kind="verdict")
KINDS = [LENGTH, BIASED, ORDERED]


def scores(judge: Judge, left: list[Answer], right: list[Answer]) -> list[float]:
    found: list[float] = ask(judge, PROMPTS, left, right).scores_N.tolist()
    return found


def test_a_judge_that_grades_takes_the_difference() -> None:
    assert scores(LENGTH, LEFT, RIGHT) == [2.0, -2.0, 0.0]
    assert grades(LENGTH, PROMPTS, LEFT).tolist() == [3.0, 1.0, 2.0]


def test_a_gap_loses_its_order_and_its_zero() -> None:
    assert scores(BIASED, LEFT, RIGHT) == [4.0, -4.0, 0.0]
    assert scores(BIASED, RIGHT, LEFT) == [-4.0, 4.0, 0.0]
    assert scores(BIASED, LEFT, LEFT) == [0.0, 0.0, 0.0]


def test_a_verdict_needs_both_orders_to_agree() -> None:
    """Lengths 3 against 1, 1 against 3, 2 against 2: the third goes to whoever stands first, so it is a tie."""
    judgement = ask(ORDERED, PROMPTS, LEFT, RIGHT)
    assert judgement.scores_N.tolist() == [1.0, -1.0, 0.0]
    assert judgement.flipped_N is not None and judgement.flipped_N.tolist() == [False, False, True]
    assert judgement.flipped == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("forward", "backward", "score", "flipped"),
    [
        (1, -1, 1, 0.0),  # the left answer wins in both places
        (-1, 1, -1, 0.0),
        (0, 0, 0, 0.0),
        (1, 1, 0, 1.0),  # whoever stands first wins
        (-1, -1, 0, 1.0),
        (1, 0, 0, 1.0),  # half a win is a tie
        (0, 1, 0, 1.0),
    ],
)
def test_every_pair_of_verdicts(forward: int, backward: int, score: int, flipped: float) -> None:
    verdicts = {"left": forward, "right": backward}
    judge = Judge("table", lambda prompts, firsts, seconds: [verdicts[first] for first in firsts], kind="verdict")
    judgement = ask(judge, ["p"], answers("left"), answers("right"))
    assert (judgement.scores_N.tolist(), judgement.flipped) == ([score], flipped)


def test_a_judge_that_always_picks_the_first_never_decides() -> None:
    judgement = ask(FIRST, PROMPTS, LEFT, RIGHT)
    assert judgement.scores_N.tolist() == [0.0, 0.0, 0.0] and judgement.flipped == 1.0


@pytest.mark.parametrize("judge", KINDS, ids=lambda judge: judge.kind)
def test_swapping_the_sides_flips_every_score(judge: Judge) -> None:
    assert scores(judge, RIGHT, LEFT) == [-score for score in scores(judge, LEFT, RIGHT)]


@pytest.mark.parametrize("judge", KINDS, ids=lambda judge: judge.kind)
def test_every_judge_feeds_a_comparison(judge: Judge) -> None:
    scores_N = ask(judge, PROMPTS, LEFT, RIGHT).scores_N
    assert scores_N.dtype == np.float64
    result = compare(scores_N, np.zeros(3), tie_margin=0.0, resamples=10, seed=0)
    assert (result.win, result.lose, result.tie) == pytest.approx((100 / 3, 100 / 3, 100 / 3))


def test_equal_grades_stay_a_tie_in_float32() -> None:
    judge = Judge("third", lambda prompts, answers: np.full(len(answers), 1 / 3, np.float32))
    assert scores(judge, LEFT, RIGHT) == [0.0, 0.0, 0.0]
    assert ask(judge, PROMPTS, LEFT, RIGHT).flipped is None


@pytest.mark.parametrize("judge", KINDS, ids=lambda judge: judge.kind)
def test_uneven_answers_are_named(judge: Judge) -> None:
    with pytest.raises(ValueError, match=f"judge {judge.name}: found 3 prompts, 2 left and 3 right answers; pass one"):
        ask(judge, PROMPTS, LEFT[:2], RIGHT)


@pytest.mark.parametrize(
    ("kind", "said", "found"),
    [
        ("verdict", [1, 0.5, 0], r"asked for 1, -1 or 0, found 0\.5 for the prompt 'q'"),
        ("verdict", [1, 0, float("nan")], "asked for 1, -1 or 0, found nan for the prompt 'r'"),
        ("verdict", [1, 0], r"asked for a number for each of 3 prompts, found shape \(2,\)"),
        ("grade", [1.0, float("nan"), 0.0], "asked for a finite number, found nan for the prompt 'q'"),
        ("grade", [[1.0, 2.0, 3.0]], r"asked for a number for each of 3 prompts, found shape \(1, 3\)"),
        ("gap", [float("inf"), 0.0, 0.0], "asked for a finite number, found inf for the prompt 'p'"),
    ],
)
def test_what_nobody_can_read_is_an_error(kind: Any, said: list[float], found: str) -> None:
    judge = Judge("model", lambda *texts: said, kind=kind)
    with pytest.raises(ValueError, match=f"judge model: {found}"):
        ask(judge, PROMPTS, LEFT, RIGHT)


@pytest.mark.parametrize("kind", ["gap", "verdict"])
def test_only_a_grader_grades(kind: Any) -> None:
    with pytest.raises(AssertionError, match="judge words grades no answer by itself"):
        grades(replace(ORDERED, kind=kind), PROMPTS, LEFT)


def test_texts_for_most_and_answers_with_a_bench_for_those_that_ask_models() -> None:
    """A judge with `needs` meets the answers as drawn, tokens and all, and what its stages left."""
    seen: list[Any] = []

    def plain(prompts: Texts, answers: Texts) -> list[float]:
        seen.append(answers)
        return [0.0] * len(prompts)

    def asking(bench: Bench, prompts: Texts, candidates: list[Answer], references: list[Answer]) -> list[float]:
        weight = bench.models[StageId("rm", "improver")]
        return [weight * (len(a.ids) - len(b.ids)) for a, b in zip(candidates, references, strict=True)]

    ask(Judge("plain", plain), ["p"], answers("a"), answers("b"))
    assert seen == [["a"], ["b"]]
    texts: Any = SimpleNamespace()
    bench = Bench(texts, {StageId("rm", "improver"): 3.0})
    judge = Judge("asking", asking, kind="gap", needs=(StageId("rm", "improver"),))
    assert ask(judge, ["p"], [Answer("a", (7, 8, 1))], [Answer("b", (7, 1))], bench).scores_N.tolist() == [3.0]
    with pytest.raises(AssertionError, match="judge asking asks models"):
        ask(judge, ["p"], answers("a"), answers("b"))


def test_the_share_of_flips_is_that_of_the_prompts() -> None:
    assert Judgement(np.zeros(4), np.array([True, False, False, False])).flipped == 0.25
    assert Judgement(np.zeros(4)).flipped is None


def test_the_rubric_reads_the_notes_and_the_gap_asks_its_model() -> None:
    pair = pairs(notes.NOTES, 1, seed=0)[0]
    found = ask(RUBRIC, [pair.prompt] * 2, answers(pair.chosen, ""), answers("", "")).scores_N
    assert found.tolist() == [notes.score(pair.prompt, pair.chosen) - notes.score(pair.prompt, ""), 0.0]
    assert RUBRIC.kind == "grade" and GAP.kind == "gap" and GAP.needs == (GAP_MODEL,)


def config_of(*judges: str, sources: tuple[str, ...] = ("notes",)) -> Config:
    return Config(evaluate=EvaluateConfig(judges=judges), data=DataConfig(sources=sources))


def test_who_judges_if_nobody_is_named() -> None:
    """The rubric where there is a truth to read, and the gap model everywhere."""
    assert judges_of(config_of()) == [RUBRIC, GAP]
    assert judges_of(config_of(sources=("pairs:mine.jsonl",))) == [GAP]
    assert judges_of(config_of("gap", "rubric")) == [GAP, RUBRIC], "the first one named is the first one"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_of("rubrik"), "no judge 'rubrik'; did you mean rubric?; known: rubric, gap"),
        (config_of("gap", "gap"), "--evaluate.judges gap gap: name each judge once"),
        (config_of("rubric", sources=("pairs:mine.jsonl",)), "rubric cannot judge the answers to ('pairs:mine.jsonl',"),
    ],
)
def test_judges_that_cannot_be_asked(config: Config, message: str) -> None:
    with pytest.raises(ValueError) as told:
        judges_of(config)
    assert message in str(told.value)


def test_a_forks_judge_is_known_by_name_and_by_its_code(tmp_path: Any) -> None:
    source = Source(tmp_path / "mine.py", "0123456789ab")
    mine = Judge("short", lambda prompts, answers: -length(prompts, answers))
    JUDGES.add(mine, source)
    assert judges_of(config_of("short")) == [mine]
    assert JUDGES.code("short", "gap") == {"code of judge short": "0123456789ab"}
    forget(source)
    with pytest.raises(ValueError, match="no judge 'short'"):
        judges_of(config_of("short"))


def test_the_truth_is_known_of_notes_alone() -> None:
    pair = pairs(notes.NOTES, 1, seed=0)[0]
    found = truth_scores(config_of(), [pair.prompt], [pair.chosen])
    assert found is not None and found.tolist() == [notes.score(pair.prompt, pair.chosen)]
    assert truth_scores(config_of(sources=("pairs:mine.jsonl",)), ["p"], ["a"]) is None
