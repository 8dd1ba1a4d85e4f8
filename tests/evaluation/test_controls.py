"""The controls: what they make of an answer, and which judges they catch."""

from collections.abc import Sequence

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.evaluation.controls import CONTROLS, Control, said_twice
from pit_jax.evaluation.judges.judge import Judge, ask
from pit_jax.evaluation.stats.comparison import Comparison, compare

Texts = Sequence[str]

BY_NAME = {control.name: control for control in CONTROLS}
ORIGINALS = [f"dear anna. we meet on day {i}. bring {'a cake and ' * (i % 3)}tea. bye" for i in range(40)]


def verdict(judge: Judge, control: Control) -> Comparison:
    answers, originals = ([Answer(text, (1,)) for text in side] for side in (map(control.answer, ORIGINALS), ORIGINALS))
    scores_N = ask(judge, ["p"] * len(ORIGINALS), answers, originals).scores_N
    return compare(scores_N, np.zeros(len(scores_N)), tie_margin=0.0, resamples=200, seed=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hi anna. see you on monday! bye", "hi anna. see you on monday! see you on monday! bye"),
        ("one two", "one two one two"),
        ("a. b.\n\nlonger, it is\nnot over.", "a. b.\n\nlonger, it is\nnot over. longer, it is\nnot over."),
        ("it costs 3.50 today. ok", "it costs 3.50 today. it costs 3.50 today. ok"),
        ("", ""),
        (" \n", " \n"),
    ],
)
def test_the_longest_sentence_is_said_twice(text: str, expected: str) -> None:
    assert said_twice(text) == expected


def test_copy_is_the_text_itself_and_empty_is_nothing() -> None:
    assert BY_NAME["copy"].answer(" a  b\n") == " a  b\n"
    assert BY_NAME["empty"].answer("a b") == ""


def words(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer.split()) for answer in answers], float)


def different_words(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(set(answer.split())) for answer in answers], float)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_judge_of_content_holds_every_control(name: str) -> None:
    assert BY_NAME[name].holds(verdict(Judge("different words", different_words), BY_NAME[name]))


@pytest.mark.parametrize(
    ("judge", "broken"),
    [
        (Judge("words", words), {"longest"}),
        (Judge("short", lambda prompts, answers: -words(prompts, answers)), {"empty"}),
        (Judge("first", lambda prompts, firsts, seconds: np.ones(len(prompts)), kind="verdict"), {"empty"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_judge_that_does_not_read_is_caught(judge: Judge, broken: set[str]) -> None:
    assert {name for name, control in BY_NAME.items() if not control.holds(verdict(judge, control))} == broken


def test_a_judge_that_is_not_the_same_twice_breaks_the_copy() -> None:
    rng = np.random.default_rng(0)
    judge = Judge("drifting", lambda *texts: rng.normal(size=40), kind="gap")
    assert not BY_NAME["copy"].holds(verdict(judge, BY_NAME["copy"]))
