"""World `orders`: a dialogue in which a guest changes an order, and the reply that repeats what is ordered in the end.

A prompt has three turns: greeting and three things, a question, then one change, the seats and how the guest pays.
"""

import random
import re
from dataclasses import dataclass
from functools import partial

from pit_jax.data.text.transcripts import messages_of, stored
from pit_jax.data.worlds.sentences import (
    Sentences,
    corrupted,
    dropped,
    inserted,
    noisy,
    repeated,
    replaced,
    sentences_of,
    text_of,
)
from pit_jax.data.worlds.words import listed
from pit_jax.data.worlds.world import World, score_of
from pit_jax.errors import UserError

GREETINGS = listed("good morning, good day, good evening, hello")
ITEMS = listed("tea, soup, cake, juice, salad, pizza, coffee, toast, rice, fish, pasta, milk")
COUNTS = listed("one, two, three, four, five")
TABLES = listed("six, seven, eight, nine, ten, eleven, twelve, twenty")
SEATS = listed("inside, outside, upstairs")
PAYMENTS = listed("card, cash, cheque")
ASKED = 3  # things of an order
QUESTIONS = ("very well, what else", "of course, is that all")
LINES = {
    "thing": ("that is {}", "i note {}"),
    "seat": ("you sit {seat} at table {table}", "table {table} {seat} is yours"),
    "payment": ("you pay by {}", "the bill is paid by {}"),
}
MAX_SCORE = 4.0 + ASKED


@dataclass(frozen=True)
class Order:
    greeting: str
    first: tuple[str, ...]  # "two tea", as they were ordered
    things: tuple[str, ...]  # as they are in the end
    seat: str
    table: str
    payment: str


_CHANGES = {
    "instead": re.compile(r"no (\w+), but (\w+ \w+)"),
    "count": re.compile(r"make it (\w+) (\w+)"),
    "more": re.compile(r"one more (\w+)"),
}
_ORDER = re.compile(r"(.+?), (\w+ \w+), (\w+ \w+) and (\w+ \w+)")
_END = re.compile(r"(.+), we sit (\w+) at table (\w+) and pay by (\w+)")


def parse(prompt: str) -> Order:
    """The order behind a prompt of this world. Raises UserError for any other text."""
    try:
        (_, order), _, (_, end) = messages_of(prompt)
        found, rest = _ORDER.fullmatch(order), _END.fullmatch(end)
        if found is None or rest is None:
            raise ValueError
        greeting, *first = found.groups()
        change, seat, table, payment = rest.groups()
        things = _changed(first, change)
        known = {f"{count} {item}" for count in COUNTS for item in ITEMS}
        if not (greeting in GREETINGS and seat in SEATS and table in TABLES and payment in PAYMENTS):
            raise ValueError
        if not known.issuperset((*first, *things)) or len(set(things)) != ASKED:
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(f"the world orders judges its own prompts only, found prompt {prompt!r}") from None
    return Order(greeting, tuple(first), tuple(things), seat, table, payment)


def _changed(first: list[str], change: str) -> list[str]:
    """What is ordered in the end. Raises ValueError for a change of what was not ordered, or none that is known."""
    counts = {thing.split()[1]: thing.split()[0] for thing in first}
    items = list(counts)
    kind, found = next(
        ((kind, match) for kind, form in _CHANGES.items() if (match := form.fullmatch(change))), ("", None)
    )
    if found is None:
        raise ValueError
    things = list(first)
    item = found[2] if kind == "count" else found[1]
    i = items.index(item)
    things[i] = {
        "instead": lambda: found[2],
        "count": lambda: f"{found[1]} {item}",
        "more": lambda: f"{COUNTS[COUNTS.index(counts[item]) + 1]} {item}",
    }[kind]()
    return things


def _prompt(rng: random.Random) -> str:
    *items, other = rng.sample(ITEMS, ASKED + 1)
    first = [f"{rng.choice(COUNTS[:-1])} {item}" for item in items]
    count, item = rng.choice(first).split()
    change = rng.choice(
        [
            f"no {item}, but {rng.choice(COUNTS)} {other}",
            f"make it {rng.choice([c for c in COUNTS if c != count])} {item}",
            f"one more {item}",
        ]
    )
    order = f"{rng.choice(GREETINGS)}, {first[0]}, {first[1]} and {first[2]}"
    end = f"{change}, we sit {rng.choice(SEATS)} at table {rng.choice(TABLES)} and pay by {rng.choice(PAYMENTS)}"
    return stored([("user", order), ("assistant", rng.choice(QUESTIONS)), ("user", end)])


def _ideal(prompt: str, rng: random.Random) -> str:
    order = parse(prompt)
    things = [rng.choice(LINES["thing"]).format(thing) for thing in order.things]
    rng.shuffle(things)
    seat = rng.choice(LINES["seat"]).format(seat=order.seat, table=order.table)
    return text_of((order.greeting, *things, seat, rng.choice(LINES["payment"]).format(order.payment)))


def flaws(prompt: str, answer: str) -> list[str]:
    """What an answer lacks of greeting, things as they are in the end, seat, table and payment, and every sentence
    that says something else, or the same again."""
    order = parse(prompt)
    seats = {
        form.format(seat=seat, table=table): (seat, table)
        for form in LINES["seat"]
        for seat in SEATS
        for table in TABLES
    }
    right = {
        order.greeting: order.greeting,
        **{form.format(thing): thing for form in LINES["thing"] for thing in order.things},
        **{form.format(order.payment): order.payment for form in LINES["payment"]},
    }
    there: list[str] = []
    seated: tuple[str, ...] = ()
    wrong = []
    for sentence in sentences_of(answer):
        part = right.get(sentence)
        if sentence in seats and not seated:
            seated = seats[sentence]
        elif part is not None and part not in there:
            there.append(part)
        else:
            wrong.append(sentence)
    named = {"seat": (order.seat, seated[:1]), "table": (order.table, seated[1:])}
    unseated = [name for name, (asked, said) in named.items() if asked not in said]
    return [part for part in (order.greeting, *order.things, order.payment) if part not in there] + unseated + wrong


def score(prompt: str, answer: str) -> float:
    """Hidden score of an answer in [0, MAX_SCORE]. Raises UserError for a prompt of another world."""
    return score_of(flaws(prompt, answer), MAX_SCORE)


def stale(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """The thing as it was before the change."""
    order = parse(prompt)
    before, after = next(both for both in zip(order.first, order.things, strict=True) if both[0] != both[1])
    return replaced(sentences, after, before)


def wrong_thing(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another count or another thing."""
    thing = rng.choice(parse(prompt).things)
    count, item = thing.split()
    others = [f"{c} {item}" for c in COUNTS if c != count], [f"{count} {i}" for i in ITEMS if i != item]
    return replaced(sentences, thing, rng.choice(rng.choice(others)))


def unasked(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A thing that nobody ordered."""
    thing = f"{rng.choice(COUNTS)} {rng.choice(ITEMS)}"
    return inserted(sentences, rng.choice(LINES["thing"]).format(thing), rng)


def wrong_seat(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another seat or table."""
    order = parse(prompt)
    if rng.random() < 0.5:
        return replaced(sentences, order.seat, rng.choice([seat for seat in SEATS if seat != order.seat]))
    other = rng.choice([table for table in TABLES if table != order.table])
    return replaced(sentences, f"table {order.table}", f"table {other}")


def wrong_manner(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another greeting, or another way to pay."""
    order = parse(prompt)
    if rng.random() < 0.5:
        other = rng.choice([greeting for greeting in GREETINGS if greeting != order.greeting])
        return replaced(sentences, order.greeting, other)
    return replaced(sentences, order.payment, rng.choice([way for way in PAYMENTS if way != order.payment]))


FAULTS = (
    (stale, 4),
    (wrong_thing, 5),
    (wrong_seat, 3),
    (wrong_manner, 2),
    (dropped, 3),
    (unasked, 2),
    (repeated, 2),
    (noisy, 3),
)

ORDERS = World("orders", _prompt, _ideal, partial(corrupted, kinds=FAULTS), score, MAX_SCORE, flaws)
