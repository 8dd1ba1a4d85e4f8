"""The embedded world: hand-worked scores, faults that cost what they should, noisy labels, determinism."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.worlds import notes
from pit_jax.data.worlds.notes import MAX_SCORE, Note, Request, draw_ideal, draw_request, flaws, parse_request, score
from pit_jax.errors import UserError

REQUEST = Request(
    tone="kind",
    kind="reminder",
    name="anna",
    topic="the book club",
    details=(("time", "six"), ("place", "hall"), ("item", "tea")),
)
IDEAL = (
    "dear anna, please remember the book club. we start at six. we meet in the hall. please bring some tea. warm wishes"
)


def edited(*changes: tuple[str, str]) -> str:
    text = IDEAL
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


HAND_WORKED = {
    "ideal": (IDEAL, 7),
    "other wording, other order": (
        "my dear anna, find us in the hall. do not forget the book club. we still need tea. be there at six. with love",
        7,
    ),
    "a detail left out": (edited(("we meet in the hall. ", "")), 6),
    "a detail wrong: its point lost, and a statement that nobody asked for": (edited(("six", "nine")), 5),
    "a detail that nobody asked for": (edited(("warm", "ask tom for help. warm")), 6),
    "a broken sentence": (edited(("we start at six", "we at six start")), 5),
    "something rude": (edited(("warm", "you are always late. warm")), 6),
    "a detail said twice": (edited(("warm", "we start at six. warm")), 6),
    "the opening said twice": (edited(("warm", "please remember the book club. warm")), 6),
    "a second opening": (edited(("warm", "please remember the chess night. warm")), 6),
    "wrong addressee": (edited(("anna", "ben")), 6),
    "wrong tone of greeting": (edited(("dear anna", "hey anna")), 6),
    "no greeting": (edited(("dear anna, ", "")), 6),
    "wrong tone of closing": (edited(("warm wishes", "yours sincerely")), 6),
    "no closing": (edited((" warm wishes", "")), 6),
    "wrong topic": (edited(("book club", "chess night")), 6),
    "wrong kind": (edited(("please remember", "you are invited to")), 6),
    "wrong kind and topic": (edited(("please remember the book club", "you are invited to the chess night")), 5),
    "no opening": (edited(("please remember the book club. ", "")), 5),
    "greeting and closing alone": ("dear anna, warm wishes", 2),
    "never below zero": ("you are always late. this is your fault. you are always late. hm", 0),
    "empty": ("", 0),
}


@pytest.mark.parametrize("name", HAND_WORKED)
def test_hand_worked_scores(name: str) -> None:
    text, expected = HAND_WORKED[name]
    assert score(REQUEST.prompt, text) == expected


@pytest.mark.parametrize("name", HAND_WORKED)
def test_every_lost_point_is_a_flaw(name: str) -> None:
    text, expected = HAND_WORKED[name]
    assert max(0, MAX_SCORE - len(flaws(REQUEST.prompt, text))) == expected


def test_hand_worked_flaws() -> None:
    assert flaws(REQUEST.prompt, IDEAL) == []
    assert flaws(REQUEST.prompt, edited(("six", "nine"))) == ["time six", "we start at nine"]
    assert flaws(REQUEST.prompt, edited(("anna", "ben"), ("book club", "chess night"), (" warm wishes", ""))) == [
        "greeting",
        "topic",
        "closing",
    ]
    twice = edited(("warm", "you are always late. you are always late. warm"))
    assert flaws(REQUEST.prompt, twice) == ["you are always late"] * 2


def test_the_prompt_says_the_request_and_can_be_read_back() -> None:
    for seed in range(200):
        request = draw_request(random.Random(seed))
        assert parse_request(request.prompt) == request
        mentions = [request.tone, request.kind, request.name, request.topic, *(value for _, value in request.details)]
        assert all(word in request.prompt for word in mentions)


def test_ideal_notes_score_the_maximum() -> None:
    for seed in range(500):
        rng = random.Random(seed)
        request = draw_request(rng)
        assert score(request.prompt, draw_ideal(request, rng).text) == MAX_SCORE


def test_an_ideal_note_holds_choices_that_the_prompt_does_not_determine() -> None:
    request = draw_request(random.Random(0))
    texts = {draw_ideal(request, random.Random(seed)).text for seed in range(300)}
    assert len(texts) > 100, "wording and order are free"


COSTS = {
    notes._drop_sentence: {1, 2},  # the opening is worth two
    notes._wrong_value: {2},
    notes._unasked_detail: {1, 2, 3},  # added, for another detail, or for the opening
    notes._wrong_opening: {1},
    notes._wrong_name: {1},
    notes._wrong_closing: {1},
    notes._rude: {1},
    notes._repeat: {1},
    notes._break_words: {0, 1, 2, 3},  # a swapped word may make a good sentence, or another opening
}


def test_every_fault_has_a_cost() -> None:
    assert set(COSTS) == {fault for fault, _ in notes.FAULTS}


@pytest.mark.parametrize("fault", COSTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_fault_costs_an_ideal_note_what_it_should(fault: Callable[..., Note]) -> None:
    costs = Counter[float]()
    for seed in range(300):
        rng = random.Random(seed)
        request = draw_request(rng)
        ideal = draw_ideal(request, rng)
        costs[MAX_SCORE - score(request.prompt, fault(ideal, request, rng).text)] += 1
    assert set(costs) <= COSTS[fault]
    assert costs[0] < 0.1 * costs.total(), "a fault is nearly always seen"


def test_more_faults_score_lower_on_average() -> None:
    means = []
    for faults in range(5):
        total = 0.0
        for seed in range(300):
            rng = random.Random(seed)
            request = draw_request(rng)
            total += score(request.prompt, notes.corrupt(draw_ideal(request, rng), request, faults, rng).text)
        means.append(total / 300)
    assert means[0] == MAX_SCORE and all(a > b + 0.3 for a, b in zip(means, means[1:], strict=False))


@given(st.text())
def test_garbage_scores_low_and_never_fails(text: str) -> None:
    assert 0 <= score(REQUEST.prompt, text) <= 2


@given(st.lists(st.sampled_from(sorted(notes._MEANINGS)), max_size=8), st.sampled_from(["warm wishes", "hm", ""]))
def test_any_note_of_known_sentences_scores_in_range(sentences: list[str], closing: str) -> None:
    found = score(REQUEST.prompt, Note("dear anna", tuple(sentences), closing).text)
    assert 0 <= found <= MAX_SCORE and found == int(found)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "what is the capital of france?",
        REQUEST.prompt.replace("kind", "silly"),
        REQUEST.prompt.replace("reminder", "poem"),
        REQUEST.prompt.replace("six", "midnight"),
        REQUEST.prompt + "\n" + REQUEST.prompt,
        REQUEST.prompt.partition(":")[0],
    ],
)
def test_a_foreign_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(UserError, match="the world notes judges its own requests only, found prompt"):
        score(prompt, IDEAL)


@given(st.text())
def test_any_other_text_as_a_prompt_is_a_value_error(text: str) -> None:
    with pytest.raises(UserError, match="judges its own requests only"):
        score(text, IDEAL)
