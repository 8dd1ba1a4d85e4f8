"""The systems over text, at a tiny size: what the models score in place, and budgets that match."""

from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import PromptBatch
from pit_jax.config import Config
from pit_jax.data.features import Example
from pit_jax.evaluation.judges import PairJudge
from pit_jax.inference.best_of_n import n_for_budget
from pit_jax.inference.improve import Answers
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.stopping import NEVER
from pit_jax.parallel.sharding import param_sharding
from pit_jax.stages.context import Context
from pit_jax.stages.rm import sequence_scores
from pit_jax.stages.systems import GapScorer, Systems, make_score, right_padded, tokenise_prompts

TEMPERATURE, BATCH = 0.8, 8
EXAMPLES = [Example([6 + i] * (1 + i % 4), [], [7 + i, 9], [8] * (i % 5)) for i in range(12)]
PROMPTS = [" ".join(map(str, example.prompt)) for example in EXAMPLES]


@pytest.fixture
def tiny_context(context: Any, make_mesh: Any) -> Context:
    return context(Config(), make_mesh(1, 1, 1))


def test_scores_in_place_are_those_of_reward_rows(world: Any, tiny_context: Context) -> None:
    """Left-padded prompt and answer slot, or the right-padded rows [prompt | y EOS] of the reward model's training."""
    params, eos = world.draw(world.scalar, 0), world.eos_id
    batch = world.batch("reward", EXAMPLES)
    expected_N = jax.jit(lambda tokens, segments: sequence_scores(world.scalar, params, tokens, segments))(
        batch.rejected_BL, batch.rejected_segments_BL
    )
    ids = [[*example.rejected, eos] for example in EXAMPLES]
    mask_NT = np.arange(world.slot)[None] < np.array([[len(row)] for row in ids])
    answers = Answers(right_padded(ids, world.slot, world.pad_id), mask_NT)
    rows = PromptBatch(**tokenise_prompts(tiny_context, PROMPTS))
    np.testing.assert_allclose(jax.jit(make_score(tiny_context))(params, rows, answers), expected_N, rtol=1e-5)


def test_best_of_n_spends_about_what_improving_spends(world: Any, tiny_context: Context) -> None:
    """n comes from the tokens of a trail: what the n answers then take misses the budget by rounding n, and by luck."""
    policy, improver = world.draw(world.language, 0), world.draw(world.language, 1)
    systems = Systems(tiny_context, PROMPTS, batch_size=BATCH, sampling=Sampling())
    key = tiny_context.key("test")
    with jax.set_mesh(tiny_context.mesh):
        trail = systems.scored_trail(
            policy,
            improver,
            world.draw(world.scalar, 2),
            TEMPERATURE,
            key,
            lambda done: None,
            rounds=3,
            threshold=NEVER,
        )
        first = int(trail.answers.mask_BT[0].sum())
        budget = first + int(trail.tokens_B.sum())
        n = n_for_budget(budget, first)
        best = systems.best(policy, world.draw(world.scalar, 3), TEMPERATURE, key, n=n)
    assert 2 <= n <= 6
    assert best.answers.tokens_BT.shape == (1, len(PROMPTS), world.slot) and best.tokens_B.shape == (1, len(PROMPTS))
    assert (best.score_B >= best.mean_score_B).all() and (best.score_B > best.mean_score_B).any()
    assert abs(int(best.tokens_B.sum()) - budget) <= 0.25 * budget


def test_a_mesh_moves_neither_stops_nor_choices(world: Any, context: Any, make_mesh: Any) -> None:
    """One device, or eight with parameters and batch split: the same answers, decisions and tokens."""
    networks = (world.language, world.language, world.scalar, world.scalar)
    found = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        tiny = context(Config(), make_mesh(*shape))
        policy, improver, gap, reward = (
            jax.device_put(params, param_sharding(params, tiny.mesh))
            for params in (world.draw(network, seed) for seed, network in enumerate(networks))
        )
        systems = Systems(tiny, PROMPTS, batch_size=BATCH, sampling=Sampling())
        settings = (TEMPERATURE, tiny.key("test"))
        with jax.set_mesh(tiny.mesh):
            trail = systems.scored_trail(policy, improver, gap, *settings, lambda done: None, rounds=3, threshold=0.0)
            found.append((trail, systems.best(policy, reward, *settings, n=3)))
    for one, eight in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(eight, one, atol=1e-5)
    kept_KN = found[0][0].kept_B
    assert kept_KN.any() and not kept_KN[0].all(), "some rows stop and some go on"


def test_equal_texts_tie_beside_one_that_overflows_the_slot(context: Any, make_mesh: Any, world: Any) -> None:
    """A sampled answer may fill the slot without an EOS: with one it is longer, on one side of the pair only. Two
    programs for two lengths would give equal texts gaps that differ in their last bits."""
    mesh, rng = make_mesh(1, 1, 1), np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(6, world.vocab, rng.integers(0, world.slot)))) for _ in range(15)]
    full, prompts = " ".join(["7"] * world.slot), ["7 8"] * 16
    with jax.set_mesh(mesh):
        judge = PairJudge("gap", GapScorer(context(Config(), mesh), world.draw(world.scalar, seed=0), batch_size=8))
        beside_full_N = judge.ask(prompts, [full, *texts], ["13", *texts]).scores_N
        short_N = judge.ask(prompts, ["10", *texts], ["13", *texts[::-1]]).scores_N
        long_N = judge.ask(prompts, [full, *texts], ["13", *texts[::-1]]).scores_N
    assert beside_full_N[0] != 0.0 and beside_full_N[1:].tolist() == [0.0] * 15
    assert long_N[1:] == pytest.approx(short_N[1:], abs=1e-5)


@pytest.mark.parametrize(("shape", "batches"), [((1, 1, 1), {8: 8, 16: 4, 64: 1}), ((2, 2, 1), {8: 8, 16: 4, 64: 4})])
def test_long_pairs_take_wide_slots_and_small_batches(
    context: Any, make_mesh: Any, world: Any, shape: tuple[int, int, int], batches: dict[int, int]
) -> None:
    """Texts of 7, 8 and 40 tokens end in slots of 8, 16 and 64; the order of the pairs stays, and so do their gaps."""
    mesh, seen = make_mesh(*shape), {}
    texts = [" ".join(["9"] * length) for length in (7, 40, 3, 8, 40, 5)]
    with jax.set_mesh(mesh):
        params = world.draw(world.scalar, 0)
        placed = jax.device_put(params, param_sharding(params, mesh))
        scorer = GapScorer(context(Config(), mesh), placed, batch_size=8)
        alone_N = [scorer(["7 8"], [text], ["13"])[0] for text in texts]
        run = scorer._gap

        def noted(params: Any, rows: Any, reference: Answers, candidate: Answers) -> jax.Array:
            seen[candidate.tokens_BT.shape[1]] = len(candidate.tokens_BT)
            return run(params, rows, reference, candidate)

        scorer._gap = noted
        together_N = scorer(["7 8"] * 6, texts, ["13"] * 6)
    assert seen == batches
    assert together_N == pytest.approx(alone_N, abs=1e-6) and len(set(alone_N)) > 3
