"""World `plans`: a day's entries as a list that must be complete and in order.

A prompt names a day, a person and four entries in any order; the wording of the list is free.
"""

import itertools
import random
import re
from dataclasses import dataclass
from functools import partial

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

DAYS = listed("monday, tuesday, wednesday, thursday, friday, saturday, sunday")
NAMES = listed(
    "alma, bruno, celia, dario, edith, fritz, gina, hanno, irma, jakob, klara, lukas, milan, nadia, olaf, pia, quinn, "
    "ralf, silke, toni"
)
ENTRIES = listed(
    "chess, market, quiz, walk, choir, lunch, swim, dance, lesson, nap, match, supper, train, tennis, museum, coffee"
)
HOURS = listed("six, seven, eight, nine, ten, eleven, noon")  # from early to late
ASKED = 4  # entries of a plan
HEADINGS = ("the {day} of {name}", "{name}, this is your {day}")
PLACES = {
    "first": ("first {}", "it begins with {}"),
    "between": ("then {}", "after that {}"),
    "last": ("last {}", "it ends with {}"),
}
_HEADINGS = {form.format(day=day, name=name): (day, name) for form in HEADINGS for day in DAYS for name in NAMES}
MAX_SCORE = 4.0 + ASKED  # one point each for day, person, beginning and end, too


@dataclass(frozen=True)
class Plan:
    day: str
    name: str
    entries: tuple[str, ...]  # "chess at nine", as the prompt has them

    @property
    def ordered(self) -> tuple[str, ...]:
        return tuple(sorted(self.entries, key=_hour))


def _hour(entry: str) -> int:
    return HOURS.index(entry.rpartition(" ")[2])


def parse(prompt: str) -> Plan:
    """The plan behind a prompt of this world. Raises UserError for any other text."""
    found = re.fullmatch(r"plan the (\w+) of (\w+): (.+)", prompt.strip())
    entries = tuple(found[3].split(", ")) if found else ()
    known = {f"{entry} at {hour}" for entry in ENTRIES for hour in HOURS}
    if (
        found is None
        or found[1] not in DAYS
        or found[2] not in NAMES
        or len(set(entries)) != ASKED
        or not known.issuperset(entries)
    ):
        raise UserError(f"the world plans judges its own prompts only, found prompt {prompt!r}")
    return Plan(found[1], found[2], entries)


def _prompt(rng: random.Random) -> str:
    hours, entries = rng.sample(HOURS, ASKED), rng.sample(ENTRIES, ASKED)
    asked = ", ".join(f"{entry} at {hour}" for entry, hour in zip(entries, hours, strict=True))
    return f"plan the {rng.choice(DAYS)} of {rng.choice(NAMES)}: {asked}"


def _place(index: int, count: int) -> str:
    return "first" if index == 0 else "last" if index == count - 1 else "between"


def _ideal(prompt: str, rng: random.Random) -> str:
    plan = parse(prompt)
    heading = rng.choice(HEADINGS).format(day=plan.day, name=plan.name)
    lines = [rng.choice(PLACES[_place(i, ASKED)]).format(entry) for i, entry in enumerate(plan.ordered)]
    return text_of((heading, *lines))


def flaws(prompt: str, answer: str) -> list[str]:
    """What an answer lacks of day, person, each entry, a first one that is called so and a last one; entries between
    that are called so, or come too late; and every other sentence."""
    plan = parse(prompt)
    lines = {
        form.format(entry): (place, entry)
        for place, forms in PLACES.items()
        for form in forms
        for entry in plan.entries
    }
    heading: tuple[str, ...] = ()
    met: dict[str, str] = {}  # the place of each entry, in the order of the answer
    wrong = []
    for sentence in sentences_of(answer):
        place, entry = lines.get(sentence, ("", ""))
        if sentence in _HEADINGS and not heading:
            heading = _HEADINGS[sentence]
        elif entry and entry not in met:
            met[entry] = place
        else:
            wrong.append(sentence)
    entries, places = list(met), list(met.values())
    ends = {"first": places[:1] == ["first"], "last": places[-1:] == ["last"]}
    missing = [part for part in (plan.day, plan.name, *plan.entries) if part not in (*heading, *entries)]
    missing += [name for name, there in ends.items() if not there]
    misplaced = [f"{entry} called {met[entry]}" for entry in entries[1:-1] if met[entry] != "between"]
    late = [f"{after} late" for before, after in itertools.pairwise(entries) if _hour(after) < _hour(before)]
    return missing + misplaced + late + wrong


def score(prompt: str, answer: str) -> float:
    """Hidden score of an answer in [0, MAX_SCORE]. Raises UserError for a prompt of another world."""
    return score_of(flaws(prompt, answer), MAX_SCORE)


def wrong_hour(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """An entry at an hour that the prompt does not give it."""
    entry, _, hour = rng.choice(parse(prompt).entries).partition(" at ")
    return replaced(sentences, f"{entry} at {hour}", f"{entry} at {rng.choice([h for h in HOURS if h != hour])}")


def wrong_entry(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another entry than the one of that hour."""
    entry, _, hour = rng.choice(parse(prompt).entries).partition(" at ")
    return replaced(sentences, f"{entry} at {hour}", f"{rng.choice([e for e in ENTRIES if e != entry])} at {hour}")


def unasked(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """An entry that nobody asked for."""
    form = rng.choice([form for forms in PLACES.values() for form in forms])
    return inserted(sentences, form.format(f"{rng.choice(ENTRIES)} at {rng.choice(HOURS)}"), rng)


def exchanged(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Two neighbouring entries that have changed places."""
    ordered = parse(prompt).ordered
    i = rng.randrange(ASKED - 1)
    swap = {ordered[i]: ordered[i + 1], ordered[i + 1]: ordered[i]}
    pattern = re.compile("|".join(swap))
    return tuple(pattern.sub(lambda found: swap[found[0]], sentence) for sentence in sentences)


def wrong_heading(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another day, or another person."""
    plan = parse(prompt)
    if rng.random() < 0.5:
        day, name = rng.choice([day for day in DAYS if day != plan.day]), plan.name
    else:
        day, name = plan.day, rng.choice([name for name in NAMES if name != plan.name])
    heading = rng.choice(HEADINGS).format(day=day, name=name)
    return tuple(heading if sentence in _HEADINGS else sentence for sentence in sentences)


FAULTS = (
    (wrong_hour, 4),
    (exchanged, 4),
    (wrong_entry, 3),
    (wrong_heading, 3),
    (dropped, 3),
    (unasked, 2),
    (repeated, 2),
    (noisy, 3),
)

PLANS = World("plans", _prompt, _ideal, partial(corrupted, kinds=FAULTS), score, MAX_SCORE, flaws)
