"""A world: prompts, ideal answers, faults and a hidden score, from which pairs of any number are drawn.

Both answers of a pair are corruptions of *one* ideal answer, so that they share choices the prompt does not determine
and keeping what is good in a reference pays. The label is a noisy Bradley-Terry draw on the hidden score. Models see
the texts alone.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pit_jax.batch import Triple
from pit_jax.errors import UserError

Score = Callable[[str, str], float]  # (prompt, answer) -> what the answer is really worth
Flaws = Callable[[str, str], Sequence[str]]  # (prompt, answer) -> the names of its flaws, one as often as it is there
DRAWS = 100  # tries for each pair, and for each new prompt: more of them mean that there is none


@dataclass(frozen=True)
class World:
    """An embedded set of pairs, `--data.sources world:NAME`. Its functions draw from the `rng` they get alone."""

    name: str
    prompt: Callable[[random.Random], str]
    """prompt(rng) -> a prompt."""
    ideal: Callable[[str, random.Random], str]
    """ideal(prompt, rng) -> an answer of the largest score; what the prompt leaves open is drawn."""
    corrupt: Callable[[str, str, int, random.Random], str]
    """corrupt(prompt, answer, faults, rng) -> the answer with so many faults more."""
    score: Score
    """score(prompt, answer) in [0, max_score] of any text. Raises UserError for a prompt of another world."""
    max_score: float
    flaws: Flaws | None = None
    """flaws(prompt, answer) -> names of what is missing and wrong, where the score can tell. Raises as `score` does."""
    light_faults: tuple[int, ...] = (0, 1, 1, 2, 2)
    """Faults of one answer of a pair, drawn evenly."""
    heavy_faults: tuple[int, ...] = (2, 3, 4, 4)
    """Faults of the other, which half of the time come on top of the first one's."""
    sharpness: float = 2.0
    """P(a preferred to b) = sigmoid(sharpness * (score(a) - score(b)))."""


def score_of(flaws: Sequence[str], max_score: float) -> float:
    """One point off for every flaw, never below 0."""
    return max(0.0, max_score - len(flaws))


def draw_pair(world: World, rng: random.Random) -> Triple:
    """Two corruptions of one ideal answer with different scores, labelled by a noisy Bradley-Terry draw.

    Raises UserError where the faults of the world never change the score.
    """
    prompt = world.prompt(rng)
    ideal = world.ideal(prompt, rng)
    for _ in range(DRAWS):
        light = world.corrupt(prompt, ideal, rng.choice(world.light_faults), rng)
        base = light if rng.random() < 0.5 else ideal
        heavy = world.corrupt(prompt, base, rng.choice(world.heavy_faults), rng)
        scores = [world.score(prompt, answer) for answer in (light, heavy)]
        if scores[0] != scores[1]:
            break
    else:
        raise UserError(f"world {world.name}: {DRAWS} corruptions of {ideal!r} all have the score of their pair")
    keep = rng.random() < 1.0 / (1.0 + math.exp(world.sharpness * (scores[1] - scores[0])))
    chosen, rejected = (light, heavy) if keep else (heavy, light)
    return Triple(prompt, chosen, rejected)


def pairs(world: World, count: int, seed: int) -> list[Triple]:
    """`count` pairs with distinct prompts; row i depends on (seed, i) alone. Raises as `stream` does."""
    return list(stream(world, count, seed))


def stream(world: World, count: int, seed: int) -> Iterator[Triple]:
    """`pairs`, one after the other; only their prompts are kept in memory.

    Raises UserError for more pairs than the world has prompts, and as `draw_pair` does.
    """
    seen: set[str] = set()
    draw = last = 0
    while len(seen) < count:
        triple = draw_pair(world, random.Random(f"{world.name}:{seed}:{draw}"))
        draw += 1
        if triple.prompt not in seen:
            seen.add(triple.prompt)
            last = draw
            yield triple
        elif draw - last == DRAWS:
            raise UserError(f"world {world.name}: asked for {count:,} pairs, found {len(seen):,} prompts; ask for less")
