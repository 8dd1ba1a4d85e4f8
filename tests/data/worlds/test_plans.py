"""World `plans`: hand-worked scores, and what each of its faults costs an ideal list."""

import pytest

from pit_jax.data.worlds import plans
from pit_jax.data.worlds.plans import PLANS, flaws, parse, score
from pit_jax.data.worlds.sentences import Fault, dropped, noisy, repeated
from tests.data.worlds.costs import costs_of

PROMPT = "plan the monday of alma: chess at nine, quiz at six, walk at noon, nap at seven"
IDEAL = "the monday of alma. first quiz at six. then nap at seven. after that chess at nine. last walk at noon."


def edited(old: str, new: str) -> str:
    assert IDEAL.count(old) == 1
    return IDEAL.replace(old, new)


HAND_WORKED = {
    "ideal": (IDEAL, []),
    "other wording": (
        "alma, this is your monday. it begins with quiz at six. then nap at seven. then chess at nine. it ends with "
        "walk at noon.",
        [],
    ),
    "a wrong day": (edited("monday", "friday"), ["monday"]),
    "a wrong person": (edited("alma", "toni"), ["alma"]),
    "no heading": (edited("the monday of alma. ", ""), ["monday", "alma"]),
    "an entry between is missing": (edited("then nap at seven. ", ""), ["nap at seven"]),
    "the last entry is missing": (edited(" last walk at noon.", ""), ["walk at noon", "last"]),
    "a wrong hour": (edited("at seven", "at eight"), ["nap at seven", "then nap at eight"]),
    "two entries have changed places": (
        "the monday of alma. first quiz at six. then chess at nine. after that nap at seven. last walk at noon.",
        ["nap at seven late"],
    ),
    "called the last one": (edited("then nap", "last nap"), ["nap at seven called last"]),
    "an entry twice": (edited("after", "then nap at seven. after"), ["then nap at seven"]),
    "no full stop at the end": (IDEAL[:-1], ["walk at noon", "last", "last walk at noon .."]),
    "no place is named": (edited("then nap", "nap"), ["nap at seven", "nap at seven"]),
}


@pytest.mark.parametrize("name", HAND_WORKED)
def test_hand_worked_scores(name: str) -> None:
    text, expected = HAND_WORKED[name]
    assert flaws(PROMPT, text) == expected and score(PROMPT, text) == 8 - len(expected)


def test_the_order_is_that_of_the_hours() -> None:
    assert parse(PROMPT).ordered == ("quiz at six", "nap at seven", "chess at nine", "walk at noon")


COSTS: dict[Fault, set[int]] = {
    plans.wrong_hour: {2, 3},  # its point and the sentence; the first and the last are no more called so
    plans.wrong_entry: {2, 3},
    plans.exchanged: {1},
    plans.wrong_heading: {1},
    dropped: {1, 2},
    plans.unasked: {1, 2, 3, 4, 5},  # one that was asked for, said too soon, takes the others' places
    repeated: {1, 2, 3, 4, 5},
    noisy: {0, 1, 2, 3},
}


@pytest.mark.parametrize("fault", [fault for fault, _ in plans.FAULTS], ids=lambda fault: fault.__name__)
def test_a_fault_costs_what_it_should(fault: Fault) -> None:
    costs = costs_of(PLANS, fault)
    assert set(costs) <= COSTS[fault] and costs[0] < 0.1 * costs.total()
