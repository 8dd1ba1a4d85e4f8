"""The embedded set: requests for short notes, answers with faults, and a hidden rubric that only the judge knows.

A request fixes tone, kind, addressee, topic and three details; wording, order of the details and the choice among
fitting greetings and closings are free. Both answers of a pair are corruptions of *one* ideal note, so that they
share choices the prompt does not determine and keeping what is good in a reference pays. The label is a noisy
Bradley-Terry draw on the hidden score. Models see the texts alone.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pit_jax.batch import Triple
from pit_jax.errors import UserError


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


NAMES = _listed(
    "anna, ben, clara, david, emma, felix, greta, henry, ines, jonas, kira, leon, mara, nils, olga, paul, rita, simon, "
    "tessa, victor, wanda, xaver, yara, adam, bella, carlo, dora, elias, fiona, georg, heidi, ivan, julia, karl, lena, "
    "moritz, nora, otto, petra, rosa"
)
HELPERS = _listed("tom, lucy, oscar, nina, hugo, sara, max, ida, theo, lara, finn, zoe, erik, maya, jan, ruth")
TOPICS = _listed(
    "the book club, the garden day, the choir evening, the school play, the chess night, the bake sale, "
    "the film night, the city walk, the spring fair, the boat trip, the quiz round, the dance class, the bike tour, "
    "the yoga hour, the street party, the art show, the flea market, the camp fire, the board meeting, the wine tasting"
)
TIMES = _listed("five, six, seven, eight, nine, ten, eleven, noon")
PLACES = _listed("hall, park, library, kitchen, garden, studio, cellar, barn, church, office, tent, cafe")
ITEMS = _listed(
    "tea, bread, lamps, chairs, soup, paper, apples, music, salt, cups, forks, candles, flowers, rope, towels, pens"
)

OPENINGS = {
    "reminder": ("please remember {}", "do not forget {}"),
    "invitation": ("you are invited to {}", "please join us for {}"),
    "update": ("here is some news about {}", "there is a change to {}"),
}
GREETINGS = {
    "kind": ("dear {}", "my dear {}"),
    "formal": ("good day {}", "to {}"),
    "cheerful": ("hey {}", "hi {}"),
}
CLOSINGS = {
    "kind": ("warm wishes", "with love"),
    "formal": ("yours sincerely", "kind regards"),
    "cheerful": ("see you soon", "big hugs"),
}
DETAILS = {
    "time": ("we start at {}", "be there at {}"),
    "place": ("we meet in the {}", "find us in the {}"),
    "item": ("please bring some {}", "we still need {}"),
    "helper": ("ask {} for help", "{} knows the way"),
}
VALUES = {"time": TIMES, "place": PLACES, "item": ITEMS, "helper": HELPERS}
REQUESTED = 3  # details of a request
RUDE = ("you are always late", "this is your fault", "nobody likes your ideas", "try not to be boring")

MAX_SCORE = 7.0
LIGHT_FAULTS = (0, 1, 1, 2, 2)  # faults of one answer of a pair, drawn evenly
HEAVY_FAULTS = (2, 3, 4, 4)  # and of the other
LABEL_SHARPNESS = 2.0  # P(a preferred to b) = sigmoid(LABEL_SHARPNESS * (score_a - score_b))


@dataclass(frozen=True)
class Request:
    tone: str
    kind: str
    name: str
    topic: str
    details: tuple[tuple[str, str], ...]  # (slot, value) in the order of the request

    @property
    def prompt(self) -> str:
        values = dict(self.details)
        asks = [_ASKS[slot].format(values[slot]) for slot, _ in self.details]
        return f"write a {self.tone} {self.kind} to {self.name} about {self.topic}: {', '.join(asks)}"


_ASKS = {"time": "{}", "place": "the {}", "item": "{}", "helper": "{}"}


@dataclass(frozen=True)
class Note:
    """An answer under construction: greeting, then sentences, then closing."""

    greeting: str
    sentences: tuple[str, ...]
    closing: str

    @property
    def text(self) -> str:
        parts = [f"{self.greeting}," if self.greeting else ""]
        parts += [f"{sentence}." for sentence in self.sentences]
        parts.append(self.closing)
        return " ".join(part for part in parts if part)


def draw_request(rng: random.Random) -> Request:
    slots = list(DETAILS)
    rng.shuffle(slots)
    return Request(
        tone=rng.choice(list(CLOSINGS)),
        kind=rng.choice(list(OPENINGS)),
        name=rng.choice(NAMES),
        topic=rng.choice(TOPICS),
        details=tuple((slot, rng.choice(VALUES[slot])) for slot in slots[:REQUESTED]),
    )


def draw_ideal(request: Request, rng: random.Random) -> Note:
    """A note that meets every requirement, with the free choices drawn."""
    details = [rng.choice(DETAILS[slot]).format(value) for slot, value in request.details]
    rng.shuffle(details)
    opening = rng.choice(OPENINGS[request.kind]).format(request.topic)
    greeting = rng.choice(GREETINGS[request.tone]).format(request.name)
    return Note(greeting, (opening, *details), rng.choice(CLOSINGS[request.tone]))


# ---- faults -------------------------------------------------------------------------------------------------------


def _drop_sentence(note: Note, request: Request, rng: random.Random) -> Note:
    if not note.sentences:
        return note
    i = rng.randrange(len(note.sentences))
    return replace(note, sentences=note.sentences[:i] + note.sentences[i + 1 :])


def _wrong_value(note: Note, request: Request, rng: random.Random) -> Note:
    slot, value = rng.choice(request.details)
    other = rng.choice([v for v in VALUES[slot] if v != value])
    wrong = {p.format(value): p.format(other) for p in DETAILS[slot]}
    return replace(note, sentences=tuple(wrong.get(s, s) for s in note.sentences))


def _unasked_detail(note: Note, request: Request, rng: random.Random) -> Note:
    """A detail that the request did not name, added or in the place of another sentence."""
    asked = {slot for slot, _ in request.details}
    slot = rng.choice([slot for slot in DETAILS if slot not in asked])
    sentence = rng.choice(DETAILS[slot]).format(rng.choice(VALUES[slot]))
    i = rng.randrange(len(note.sentences) + 1)
    kept = i + 1 if rng.random() < 0.5 else i
    return replace(note, sentences=(*note.sentences[:i], sentence, *note.sentences[kept:]))


def _wrong_opening(note: Note, request: Request, rng: random.Random) -> Note:
    if not note.sentences:
        return note
    if rng.random() < 0.5:
        kind, topic = rng.choice([k for k in OPENINGS if k != request.kind]), request.topic
    else:
        kind, topic = request.kind, rng.choice([t for t in TOPICS if t != request.topic])
    return replace(note, sentences=(rng.choice(OPENINGS[kind]).format(topic), *note.sentences[1:]))


def _wrong_name(note: Note, request: Request, rng: random.Random) -> Note:
    name = rng.choice([n for n in NAMES if n != request.name])
    return replace(note, greeting=rng.choice(GREETINGS[request.tone]).format(name))


def _wrong_closing(note: Note, request: Request, rng: random.Random) -> Note:
    tone = rng.choice([t for t in CLOSINGS if t != request.tone])
    return replace(note, closing=rng.choice(CLOSINGS[tone]) if rng.random() < 0.7 else "")


def _rude(note: Note, request: Request, rng: random.Random) -> Note:
    i = rng.randrange(len(note.sentences) + 1)
    return replace(note, sentences=note.sentences[:i] + (rng.choice(RUDE),) + note.sentences[i:])


def _repeat(note: Note, request: Request, rng: random.Random) -> Note:
    if not note.sentences:
        return note
    i = rng.randrange(len(note.sentences) + 1)
    return replace(note, sentences=note.sentences[:i] + (rng.choice(note.sentences),) + note.sentences[i:])


def _break_words(note: Note, request: Request, rng: random.Random) -> Note:
    """Word-level noise inside one sentence: a word lost, doubled, swapped with its neighbour, or foreign."""
    if not note.sentences:
        return note
    i = rng.randrange(len(note.sentences))
    words = note.sentences[i].split()
    j = rng.randrange(len(words))
    match rng.randrange(4):
        case 0:
            del words[j]
        case 1:
            words.insert(j, words[j])
        case 2:
            k = (j + 1) % len(words)
            words[j], words[k] = words[k], words[j]
        case _:
            words[j] = (
                rng.choice(rng.choice([*RUDE, *OPENINGS["update"], *DETAILS["place"]]).split()).strip("{}") or "it"
            )
    return replace(note, sentences=note.sentences[:i] + (" ".join(words),) + note.sentences[i + 1 :])


FAULTS = (
    (_drop_sentence, 4),
    (_wrong_value, 6),
    (_unasked_detail, 3),
    (_wrong_opening, 3),
    (_wrong_name, 3),
    (_wrong_closing, 1),
    (_rude, 1),
    (_repeat, 1),
    (_break_words, 3),
)


def corrupt(note: Note, request: Request, faults: int, rng: random.Random) -> Note:
    kinds, weights = zip(*FAULTS, strict=True)
    for fault in rng.choices(kinds, weights, k=faults):
        note = fault(note, request, rng)
    return note


# ---- the hidden rubric --------------------------------------------------------------------------------------------


def _sentence_meanings() -> dict[str, tuple[str, str]]:
    """Every well-formed sentence -> (slot, value)."""
    meanings = {p.format(v): (slot, v) for slot, ps in DETAILS.items() for p in ps for v in VALUES[slot]}
    meanings |= {p.format(t): (kind, t) for kind, ps in OPENINGS.items() for p in ps for t in TOPICS}
    return meanings


_MEANINGS = _sentence_meanings()


def parse_request(prompt: str) -> Request:
    """The request behind a prompt of this set. Raises UserError for any other text."""
    try:
        first, second = prompt.strip().split(": ")
        head, topic = first.removeprefix("write a ").split(" about ")
        tone, kind, _, name = head.split()
        if tone not in GREETINGS or kind not in OPENINGS:
            raise UserError
        details: list[tuple[str, str]] = []
        for ask in second.split(", "):
            value = ask.removeprefix("the ")
            details.append(next((slot, value) for slot in VALUES if value in VALUES[slot]))
    except (ValueError, StopIteration):
        raise UserError(f"the notes rubric judges requests of the notes set only, found prompt {prompt!r}") from None
    return Request(tone, kind, name, topic, tuple(details))


def score(prompt: str, response: str) -> float:
    """Hidden score of a response. Raises UserError for a prompt of another set."""
    return grade(parse_request(prompt), response)


def grade(request: Request, response: str) -> float:
    """Hidden score in [0, MAX_SCORE]: all points, less one for each flaw."""
    return max(0.0, MAX_SCORE - len(_flaws(request, response)))


def flaws(prompt: str, response: str) -> list[str]:
    """What costs a response a point, by name. Raises UserError for a prompt of another set.

    A requirement that is not met is named for itself: greeting (addressee and tone), kind, topic, each detail
    ("detail time six"), closing. A sentence that is rude, repeated, broken or states something the request did not ask
    is "sentence: " and what it says, as often as it is said.
    """
    return _flaws(parse_request(prompt), response)


def _flaws(request: Request, response: str) -> list[str]:
    greeting, comma, rest = response.strip().partition(", ")
    *sentences, closing = (rest if comma else response.strip()).split(". ")
    if closing.endswith("."):  # the note stops at a sentence
        sentences, closing = [*sentences, closing.removesuffix(".")], ""
    opening: tuple[str, str] = ("", "")
    met: set[tuple[str, str]] = set()
    faulty = []
    for sentence in sentences:
        meaning = _MEANINGS.get(sentence, ("", ""))
        if meaning[0] in OPENINGS and not opening[0]:
            opening = meaning
        elif meaning in request.details and meaning not in met:
            met.add(meaning)
        else:
            faulty.append(f"sentence: {sentence}")
    required = {
        "greeting": greeting in {g.format(request.name) for g in GREETINGS[request.tone]},
        "kind": opening[0] == request.kind,
        "topic": opening[1] == request.topic,
        **{f"detail {slot} {value}": (slot, value) in met for slot, value in request.details},
        "closing": closing in CLOSINGS[request.tone],
    }
    return [name for name, is_met in required.items() if not is_met] + faulty


# ---- pairs --------------------------------------------------------------------------------------------------------


def draw_pair(rng: random.Random) -> Triple:
    """Two corruptions of one ideal note with different hidden scores, labelled by a noisy Bradley-Terry draw."""
    request = draw_request(rng)
    ideal = draw_ideal(request, rng)
    while True:
        light = corrupt(ideal, request, rng.choice(LIGHT_FAULTS), rng)
        base = light if rng.random() < 0.5 else ideal
        heavy = corrupt(base, request, rng.choice(HEAVY_FAULTS), rng)
        scores = [grade(request, note.text) for note in (light, heavy)]
        if scores[0] != scores[1]:
            break
    keep = rng.random() < 1.0 / (1.0 + math.exp(LABEL_SHARPNESS * (scores[1] - scores[0])))
    chosen, rejected = (light, heavy) if keep else (heavy, light)
    return Triple(request.prompt, chosen.text, rejected.text)


def pairs(count: int, seed: int) -> list[Triple]:
    """`count` pairs with distinct prompts; row i depends on (seed, i) alone."""
    return list(stream(count, seed))


def stream(count: int, seed: int) -> Iterator[Triple]:
    """`pairs`, one after the other; only their prompts are kept in memory."""
    seen: set[str] = set()
    draw = 0
    while len(seen) < count:
        triple = draw_pair(random.Random(f"notes:{seed}:{draw}"))
        draw += 1
        if triple.prompt not in seen:
            seen.add(triple.prompt)
            yield triple
