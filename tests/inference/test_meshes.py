"""One device, or eight with parameters and rows split: the same answers, stops and choices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.inference.best_of_n import best_of_n
from pit_jax.inference.improve import Trail, extend
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine
from pit_jax.parallel.sharding import param_sharding

ROUNDS, THRESHOLD, KEY, WARM = 3, 0.0, jax.random.key(0), Sampling(jnp.float32(0.8))


def run(bench: Any, texts: TextEngine) -> tuple[list[Trail], list[Any]]:
    """The last chunk, five prompts and three rows that fill it up: trails that stop at a threshold, and best of 3."""
    models = (bench.policy(), bench.policy(1), bench.reward(), bench.reward(4))
    policy, improver, gap, reward = (jax.device_put(p, param_sharding(p, texts.mesh)) for p in models)
    chunk = texts.chunks(bench.prompts, least=8)[2]
    prompts = bench.prompts[chunk.first :]
    with jax.set_mesh(texts.mesh):
        originals = texts.answer(policy, chunk, KEY, WARM)
        trails = [Trail(prompt, original) for prompt, original in zip(prompts, originals, strict=True)]
        gaps = partial(texts.gaps, gap)
        extend(texts, improver, chunk, trails, KEY, WARM, rounds=ROUNDS, gap=gaps, threshold=THRESHOLD)
        return trails, best_of_n(texts, policy, partial(texts.scores, reward), chunk, prompts, KEY, WARM, n=3)


def test_a_mesh_moves_neither_answers_nor_stops_nor_choices(bench: Any, texts: TextEngine) -> None:
    (one, one_best), (eight, eight_best) = run(bench, texts), run(bench, bench.engine((2, 2, 2)))
    for alone, spread in zip(one, eight, strict=True):
        assert spread.answers == alone.answers
        np.testing.assert_allclose(spread.gaps, alone.gaps, atol=1e-5)
    for alone, spread in zip(one_best, eight_best, strict=True):
        assert (spread.answer, spread.tokens) == (alone.answer, alone.tokens)
        np.testing.assert_allclose(spread.score, alone.score, atol=1e-5)
    lengths = {len(trail.drafts) for trail in one}
    assert len(lengths) > 1 and min(lengths) < ROUNDS, "some rows stop and some go on"
