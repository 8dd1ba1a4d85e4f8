"""World `orders`: hand-worked scores of replies, and what each of its faults costs an ideal one."""

import random

import pytest

from pit_jax.data.text.transcripts import messages_of
from pit_jax.data.worlds import orders
from pit_jax.data.worlds.orders import ORDERS, flaws, parse, score
from pit_jax.data.worlds.sentences import Fault, dropped, noisy, repeated
from pit_jax.errors import UserError
from tests.data.worlds.costs import costs_of


def prompt_with(change: str) -> str:
    return (
        "\n\nHuman: hello, two tea, one soup and three cake\n\nAssistant: very well, what else\n\n"
        f"Human: {change}, we sit inside at table nine and pay by card\n\nAssistant:"
    )


PROMPT = prompt_with("no soup, but four rice")
IDEAL = "hello. that is two tea. i note four rice. that is three cake. you sit inside at table nine. you pay by card."


def edited(old: str, new: str) -> str:
    assert IDEAL.count(old) == 1
    return IDEAL.replace(old, new)


HAND_WORKED = {
    "ideal": (IDEAL, []),
    "other wording, other order": (
        "hello. table nine inside is yours. the bill is paid by card. i note three cake. i note two tea. that is four "
        "rice.",
        [],
    ),
    "the order before the change": (edited("four rice", "one soup"), ["four rice", "i note one soup"]),
    "a thing is missing": (edited("that is two tea. ", ""), ["two tea"]),
    "a thing twice": (edited("i note four", "i note two tea. i note four"), ["i note two tea"]),
    "another seat": (edited("inside", "outside"), ["seat"]),
    "another table": (edited("nine", "ten"), ["table"]),
    "no seat": (edited("you sit inside at table nine. ", ""), ["seat", "table"]),
    "another greeting": (edited("hello", "good day"), ["hello", "good day"]),
    "another payment": (edited("card", "cash"), ["card", "you pay by cash"]),
}


@pytest.mark.parametrize("name", HAND_WORKED)
def test_hand_worked_scores(name: str) -> None:
    text, expected = HAND_WORKED[name]
    assert flaws(PROMPT, text) == expected and score(PROMPT, text) == 7 - len(expected)


@pytest.mark.parametrize(
    ("change", "things"),
    [
        ("no soup, but four rice", ("two tea", "four rice", "three cake")),
        ("make it five tea", ("five tea", "one soup", "three cake")),
        ("one more cake", ("two tea", "one soup", "four cake")),
    ],
)
def test_what_is_ordered_in_the_end(change: str, things: tuple[str, ...]) -> None:
    assert parse(prompt_with(change)).things == things


@pytest.mark.parametrize("change", ["no fish, but two rice", "no soup, but two tea", "one more fish", "nothing else"])
def test_a_change_that_cannot_be_is_no_prompt(change: str) -> None:
    with pytest.raises(UserError, match="the world orders judges its own prompts only"):
        parse(prompt_with(change))


def test_a_prompt_is_a_dialogue() -> None:
    roles = [role for role, _ in messages_of(ORDERS.prompt(random.Random(0)))]
    assert roles == ["user", "assistant", "user"]


COSTS: dict[Fault, set[int]] = {
    orders.stale: {2},  # a thing of the order, and a sentence that says something else
    orders.wrong_thing: {2},
    orders.wrong_seat: {1},
    orders.wrong_manner: {2},
    orders.unasked: {1},
    dropped: {1, 2},
    repeated: {1},
    noisy: {0, 2, 3},
}


@pytest.mark.parametrize("fault", [fault for fault, _ in orders.FAULTS], ids=lambda fault: fault.__name__)
def test_a_fault_costs_what_it_should(fault: Fault) -> None:
    costs = costs_of(ORDERS, fault)
    assert set(costs) <= COSTS[fault] and costs[0] < 0.1 * costs.total()
