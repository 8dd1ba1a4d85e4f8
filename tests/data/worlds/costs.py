"""What faults cost in worlds whose answers are sentences."""

import random
from collections import Counter

from pit_jax.data.worlds.sentences import Fault, sentences_of, text_of
from pit_jax.data.worlds.world import World


def costs_of(world: World, fault: Fault) -> Counter[float]:
    """How often a fault costs 300 ideal answers so many points."""
    costs = Counter[float]()
    for seed in range(300):
        rng = random.Random(seed)
        prompt = world.prompt(rng)
        answer = sentences_of(world.ideal(prompt, rng))
        costs[world.max_score - world.score(prompt, text_of(fault(prompt, answer, rng)))] += 1
    return costs
