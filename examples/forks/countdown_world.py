"""A world of your own: prompts, ideal answers, faults and a hidden score, from which as many pairs are drawn as wanted.

pit-jax --fork=examples/forks/countdown_world.py --stage=data --data.sources world:countdown --workdir=runs/countdown
"""

import random

from pit_jax.fork import UserError, World, fork

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THINGS = ("apples", "boats", "cups", "doors", "eggs", "flags", "goats", "hats", "jars", "keys", "lamps", "maps")
SHORTEST = 4  # numbers of an answer
WHOLE = 10.0  # the score of an answer without a fault


def prompt(rng: random.Random) -> str:
    """Ask for a countdown of two things at once: most prompts are then different ones."""
    first, second = rng.sample(THINGS, 2)
    return f"count {first} and {second} down from {rng.choice(NUMBERS[SHORTEST - 1 :])}"


def lines_of(prompt: str) -> list[str]:
    """The lines of the right answer. UserError for another world's prompt."""
    match prompt.split():
        case ["count", first, "and", second, "down", "from", number] if number in NUMBERS:
            return [f"{n} {first} {n} {second}" for n in reversed(NUMBERS[: NUMBERS.index(number) + 1])]
    raise UserError(f"the world countdown judges its own prompts only, found {prompt!r}")


def ideal(prompt: str, rng: random.Random) -> str:
    return ", ".join(lines_of(prompt))


def corrupt(prompt: str, answer: str, faults: int, rng: random.Random) -> str:
    """Lines that are lost, or have another number."""
    lines = answer.split(", ")
    for _ in range(faults):
        i = rng.randrange(len(lines))
        if rng.random() < 0.5 and len(lines) > 1:
            del lines[i]
        else:
            lines[i] = " ".join([rng.choice(NUMBERS), *lines[i].split()[1:]])
    return ", ".join(lines)


def score(prompt: str, answer: str) -> float:
    """The share of lines that are right and in their place, of 10."""
    asked, said = lines_of(prompt), answer.split(", ")
    return WHOLE * sum(a == b for a, b in zip(asked, said, strict=False)) / max(len(asked), len(said))


fork(World("countdown", prompt, ideal, corrupt, score, WHOLE))
