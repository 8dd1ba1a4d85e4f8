"""World `matches`: hand-worked scores of reports, and what each of its faults costs an ideal one."""

import pytest

from pit_jax.data.worlds import matches
from pit_jax.data.worlds.matches import MATCHES, flaws, parse, score
from pit_jax.data.worlds.sentences import Fault, dropped, noisy, repeated
from tests.data.worlds.costs import costs_of

PROMPT = "report the sad match reds against lions in oslo: abel for lions, tina for reds, hans for lions, crowd small"
IDEAL = (
    "lions beat reds in oslo. it ends two to one. abel scored for lions. a goal by tina of reds. hans scored for "
    "lions. a small crowd came. what a pity."
)


def edited(old: str, new: str) -> str:
    assert IDEAL.count(old) == 1
    return IDEAL.replace(old, new)


HAND_WORKED = {
    "ideal": (IDEAL, []),
    "other wording, other order": (
        "it could not be helped. the crowd was small. hans scored for lions. abel scored for lions. tina scored for "
        "reds. the score is two to one. in oslo reds lost to lions.",
        [],
    ),
    "the loser as the winner": (edited("lions beat reds", "reds beat lions"), ["winner"]),
    "another city": (edited("oslo", "rome"), ["city"]),
    "the loser as the winner, elsewhere": (
        edited("lions beat reds in oslo", "reds beat lions in rome"),
        ["winner", "city", "reds beat lions in rome"],
    ),
    "the loser's goals first": (edited("two to one", "one to two"), ["score", "it ends one to two"]),
    "a goal is missing": (edited("abel scored for lions. ", ""), ["goal of abel"]),
    "a goal for the others": (edited("tina of reds", "tina of lions"), ["goal of tina", "a goal by tina of lions"]),
    "a goal twice": (edited("a goal", "abel scored for lions. a goal"), ["abel scored for lions"]),
    "another crowd": (edited("small", "large"), ["crowd", "a large crowd came"]),
    "another tone": (edited("what a pity", "that is all"), ["tone", "that is all"]),
}


@pytest.mark.parametrize("name", HAND_WORKED)
def test_hand_worked_scores(name: str) -> None:
    text, expected = HAND_WORKED[name]
    assert flaws(PROMPT, text) == expected and score(PROMPT, text) == 8 - len(expected)


def test_who_won_follows_from_the_goals() -> None:
    match = parse(PROMPT)
    assert (match.winner, match.loser, match.shot("lions"), match.shot("reds")) == ("lions", "reds", 2, 1)


COSTS: dict[Fault, set[int]] = {
    matches.turned: {1},
    matches.wrong_score: {2},  # its point, and a sentence that says something else
    matches.wrong_goal: {2},
    matches.wrong_city: {1},
    matches.wrong_mood: {2},
    matches.unasked: {1},
    dropped: {1, 2},
    repeated: {1},
    noisy: {0, 2, 3},
}


@pytest.mark.parametrize("fault", [fault for fault, _ in matches.FAULTS], ids=lambda fault: fault.__name__)
def test_a_fault_costs_what_it_should(fault: Fault) -> None:
    costs = costs_of(MATCHES, fault)
    assert set(costs) <= COSTS[fault] and costs[0] < 0.1 * costs.total()
