"""World `matches`: the record of a match, and a report of it in the tone that is asked for.

Who won and by how much follows from the goals. Nothing is ever tuned on this world: it is for measuring what is done.
"""

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

TEAMS = listed("reds, blues, greens, lions, bears, wolves, hawks, foxes, sharks, tigers")
CITIES = listed("bern, oslo, rome, lima, paris, cairo, tokyo, quito, dublin, athens")
SCORERS = listed(
    "abel, bodo, cleo, dina, egon, faye, gwen, hans, iris, joel, kurt, lisa, mona, noel, orla, pepe, rosi, sven, tina, "
    "udo"
)
CROWDS = listed("large, small, loud, quiet")
NUMBERS = ("none", "one", "two", "three")
GOALS = 3
TONES = {
    "happy": ("what a fine day", "that was great fun"),
    "calm": ("so it ended", "that is all"),
    "sad": ("what a pity", "it could not be helped"),
}
LINES = {
    "result": ("{winner} beat {loser} in {city}", "in {city} {loser} lost to {winner}"),
    "score": ("the score is {} to {}", "it ends {} to {}"),
    "goal": ("{scorer} scored for {team}", "a goal by {scorer} of {team}"),
    "crowd": ("the crowd was {}", "a {} crowd came"),
}
MAX_SCORE = 5.0 + GOALS


@dataclass(frozen=True)
class Match:
    tone: str
    home: str
    guest: str
    city: str
    goals: tuple[tuple[str, str], ...]  # (scorer, team) as they were shot
    crowd: str

    @property
    def winner(self) -> str:
        return max(self.home, self.guest, key=self.shot)

    @property
    def loser(self) -> str:
        return min(self.home, self.guest, key=self.shot)

    def shot(self, team: str) -> int:
        """Goals of a team."""
        return sum(of == team for _, of in self.goals)


_RECORD = re.compile(r"report the (\w+) match (\w+) against (\w+) in (\w+): (.+), crowd (\w+)")


def parse(prompt: str) -> Match:
    """The match behind a prompt of this world. Raises UserError for any other text."""
    found = _RECORD.fullmatch(prompt.strip())
    goals = tuple(tuple(goal.split(" for ")) for goal in found[5].split(", ")) if found else ()
    whole = [(goal[0], goal[1]) for goal in goals if len(goal) == 2]
    if (
        found is None
        or found[1] not in TONES
        or len({found[2], found[3]} & set(TEAMS)) != 2
        or len({scorer for scorer, _ in whole} & set(SCORERS)) != GOALS
        or len(goals) != GOALS
        or not {found[2], found[3]}.issuperset(team for _, team in whole)
        or found[4] not in CITIES
        or found[6] not in CROWDS
    ):
        raise UserError(f"the world matches judges its own prompts only, found prompt {prompt!r}")
    return Match(found[1], found[2], found[3], found[4], tuple(whole), found[6])


def _prompt(rng: random.Random) -> str:
    teams, scorers = rng.sample(TEAMS, 2), rng.sample(SCORERS, GOALS)
    goals = ", ".join(f"{scorer} for {rng.choice(teams)}" for scorer in scorers)
    return (
        f"report the {rng.choice(list(TONES))} match {teams[0]} against {teams[1]} in {rng.choice(CITIES)}: {goals}, "
        f"crowd {rng.choice(CROWDS)}"
    )


def _results(winner: str, loser: str, city: str) -> list[str]:
    return [form.format(winner=winner, loser=loser, city=city) for form in LINES["result"]]


def _scores(match: Match) -> list[str]:
    most, least = (NUMBERS[match.shot(team)] for team in (match.winner, match.loser))
    return [form.format(most, least) for form in LINES["score"]]


def _ideal(prompt: str, rng: random.Random) -> str:
    match = parse(prompt)
    goals = [rng.choice(LINES["goal"]).format(scorer=scorer, team=team) for scorer, team in match.goals]
    result, score_line = rng.choice(_results(match.winner, match.loser, match.city)), rng.choice(_scores(match))
    crowd = rng.choice(LINES["crowd"]).format(match.crowd)
    return text_of((result, score_line, *goals, crowd, rng.choice(TONES[match.tone])))


def flaws(prompt: str, answer: str) -> list[str]:
    """What an answer lacks of winner, city, score, each goal, crowd and tone, and every sentence that says something
    else, or the same again."""
    match = parse(prompt)
    parts = {
        **{line: ("winner",) for city in CITIES for line in _results(match.winner, match.loser, city)},
        **{line: ("city",) for line in _results(match.loser, match.winner, match.city)},
        **{line: ("winner", "city") for line in _results(match.winner, match.loser, match.city)},
        **{line: ("score",) for line in _scores(match)},
        **{
            form.format(scorer=scorer, team=team): (f"goal of {scorer}",)
            for form in LINES["goal"]
            for scorer, team in match.goals
        },
        **{form.format(match.crowd): ("crowd",) for form in LINES["crowd"]},
        **{line: ("tone",) for line in TONES[match.tone]},
    }
    there: set[str] = set()
    wrong = []
    for sentence in sentences_of(answer):
        said = parts.get(sentence, ())
        if said and not there & set(said):
            there |= set(said)
        else:
            wrong.append(sentence)
    names = ("winner", "city", "score", *(f"goal of {scorer}" for scorer, _ in match.goals), "crowd", "tone")
    return [name for name in names if name not in there] + wrong


def score(prompt: str, answer: str) -> float:
    """Hidden score of an answer in [0, MAX_SCORE]. Raises UserError for a prompt of another world."""
    return score_of(flaws(prompt, answer), MAX_SCORE)


def turned(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """The loser as the winner."""
    match = parse(prompt)
    right, other = (
        _results(*teams, match.city) for teams in ((match.winner, match.loser), (match.loser, match.winner))
    )
    return tuple(rng.choice(other) if sentence in right else sentence for sentence in sentences)


def wrong_score(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another number of goals."""
    right = _scores(parse(prompt))
    numbers = ("three", "none"), ("two", "one"), ("one", "two"), ("two", "none")
    others = [line for form in LINES["score"] for both in numbers if (line := form.format(*both)) not in right]
    other = rng.choice(others)
    return tuple(other if sentence in right else sentence for sentence in sentences)


def wrong_goal(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A goal of another scorer, or for another team."""
    match = parse(prompt)
    scorer, team = rng.choice(match.goals)
    if rng.random() < 0.5:
        return replaced(sentences, scorer, rng.choice([name for name in SCORERS if name != scorer]))
    other = match.guest if team == match.home else match.home
    right = {form.format(scorer=scorer, team=team): form.format(scorer=scorer, team=other) for form in LINES["goal"]}
    return tuple(right.get(sentence, sentence) for sentence in sentences)


def wrong_city(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another city."""
    city = parse(prompt).city
    return replaced(sentences, city, rng.choice([other for other in CITIES if other != city]))


def wrong_mood(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """Another crowd, or another tone."""
    match = parse(prompt)
    if rng.random() < 0.5:
        return replaced(sentences, match.crowd, rng.choice([crowd for crowd in CROWDS if crowd != match.crowd]))
    tone = rng.choice([tone for tone in TONES if tone != match.tone])
    return tuple(rng.choice(TONES[tone]) if line in TONES[match.tone] else line for line in sentences)


def unasked(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A goal that nobody shot."""
    match = parse(prompt)
    goal = rng.choice(LINES["goal"]).format(scorer=rng.choice(SCORERS), team=rng.choice([match.home, match.guest]))
    return inserted(sentences, goal, rng)


FAULTS = (
    (turned, 3),
    (wrong_score, 3),
    (wrong_goal, 4),
    (wrong_city, 2),
    (wrong_mood, 3),
    (dropped, 3),
    (unasked, 2),
    (repeated, 2),
    (noisy, 3),
)

MATCHES = World("matches", _prompt, _ideal, partial(corrupted, kinds=FAULTS), score, MAX_SCORE, flaws)
