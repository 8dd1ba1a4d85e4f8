"""The controls: what they make of an answer, and which judges they catch."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Answer
from pit_jax.evaluation.controls import CONTROLS, Control, Standing, said_twice, standing, without_end
from pit_jax.evaluation.judges.judge import Judge, ask
from pit_jax.evaluation.stats.comparison import Comparison, compare

Texts = Sequence[str]

BY_NAME = {control.name: control for control in CONTROLS}
PROMPTS = [f"day {i} please" for i in range(40)]
ORIGINALS = [f"dear anna. we meet on day {i} . bring {'a cake and ' * (i % 3)}tea. bye" for i in range(40)]


def verdict(judge: Judge, control: Control) -> Comparison:
    sides = control.answers(ORIGINALS), ORIGINALS
    answers, originals = ([Answer(text, (1,)) for text in side] for side in sides)
    scores_N = ask(judge, PROMPTS, answers, originals).scores_N
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
        ("好。「明天见面！」再见。", "好。「明天见面！」「明天见面！」再见。"),
        ("明天见", "明天见明天见"),
    ],
)
def test_the_longest_sentence_is_said_twice(text: str, expected: str) -> None:
    assert said_twice(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five six seven eight", "one two three four five six"),
        ("one two three four five six seven", "one two three four five six"),
        ("a. b.\n\nc  d \n", "a. b.\n\nc"),
        ("one two", "one"),
        ("one", "one"),
        (" one\n", " one\n"),
        ("", ""),
        (" \n", " \n"),
        ("我们明天见面。好", "我们明天见面"),
    ],
)
def test_the_last_quarter_of_the_words_is_cut(text: str, expected: str) -> None:
    assert without_end(text) == expected


def test_copy_is_the_text_itself_and_empty_is_nothing() -> None:
    assert BY_NAME["copy"].answers((" a  b\n", "")) == [" a  b\n", ""]
    assert BY_NAME["empty"].answers(("a b", "")) == ["", ""]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [("abcd", "cdab"), ("abc", "bca"), ("ab", "ba"), ("a", "a"), ("aaa", "aaa"), ("", ""), ("aabb", "bbaa")],
)
def test_another_answer_is_half_the_list_away(texts: str, expected: str) -> None:
    """Neighbours may share a prompt. One answer, and answers that are all alike, stay as they are."""
    assert BY_NAME["another"].answers(list(texts)) == list(expected)


@given(st.lists(st.text(), max_size=9), st.randoms(use_true_random=False))
def test_a_control_has_an_answer_for_every_prompt(texts: list[str], random: Random) -> None:
    """In their order, whatever it is; of all the answers `another` loses none."""
    order = random.sample(range(len(texts)), len(texts))
    shuffled = [texts[i] for i in order]
    for name, control in BY_NAME.items():
        answers = control.answers(texts)
        if name == "another":
            assert sorted(answers) == sorted(texts)
        else:
            assert control.answers(shuffled) == [answers[i] for i in order]


def test_a_standing_by_hand() -> None:
    """A win, a tie and two losses; with the sides swapped the win and the losses trade places."""
    scores_N = np.array([2.0, -1.0, 0.0, -3.0])
    assert standing(scores_N) == standing(scores_N[::-1]) == Standing(4, win=0.25, lose=0.5)
    assert standing(-scores_N) == Standing(4, win=0.5, lose=0.25)
    assert standing(np.zeros(0)) == Standing(0, 0.0, 0.0)


def words(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer.split()) for answer in answers], float)


def content(prompts: Texts, answers: Texts) -> np.ndarray:
    """Different words, those of the prompt ten times."""
    pairs = [(set(answer.split()), set(prompt.split())) for prompt, answer in zip(prompts, answers, strict=True)]
    return np.array([len(said) + 9 * len(said & asked) for said, asked in pairs], float)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_judge_of_content_holds_every_control(name: str) -> None:
    assert BY_NAME[name].holds(verdict(Judge("content", content), BY_NAME[name]))


@pytest.mark.parametrize(
    ("judge", "broken"),
    [
        (Judge("words", words), {"longest", "another"}),
        (Judge("short", lambda prompts, answers: -words(prompts, answers)), {"empty", "another", "cut"}),
        (
            Judge("first", lambda prompts, firsts, seconds: np.ones(len(prompts)), kind="verdict"),
            {"empty", "another", "cut"},
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_judge_that_does_not_read_is_caught(judge: Judge, broken: set[str]) -> None:
    assert {name for name, control in BY_NAME.items() if not control.holds(verdict(judge, control))} == broken


def test_a_judge_that_is_not_the_same_twice_breaks_the_copy() -> None:
    rng = np.random.default_rng(0)
    judge = Judge("drifting", lambda *texts: rng.normal(size=40), kind="gap")
    assert not BY_NAME["copy"].holds(verdict(judge, BY_NAME["copy"]))
