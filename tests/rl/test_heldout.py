"""What RL is measured by: held-out prompts, the policy's answers as references, means over the real rows alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Completions, PromptBatch
from pit_jax.inference.sampling import Sampling
from pit_jax.masked import Mean
from pit_jax.recipes.catalogue import RL_POLICY
from pit_jax.rl.heldout import HeldoutChunk, heldout_chunks, measure
from pit_jax.rl.supply import Supply
from tests.recipes.toy_rl import ToyEngine
from tests.world import StandInData, World, worth

BATCH, COUNT = 8, 12
KEY = jax.random.key(5)
SAMPLER = {"w": jnp.asarray([0.1, 0.2, 0.3])}


@pytest.fixture(scope="module")
def data(world: World) -> StandInData:
    return StandInData(world, {"heldout": world.examples(COUNT, seed=3)})


@pytest.fixture(scope="module")
def chunks_of(world: World, data: StandInData, make_mesh: Any) -> Any:
    """chunks_of(role, samples) -> the chunks of twelve prompts, eight at a time."""
    rows, mesh = data.rows("heldout", "prompts"), make_mesh(1, 1, 1)

    def make(role: str, samples: int = 1) -> list[HeldoutChunk]:
        supply = Supply(
            engine=ToyEngine(world.language, world.spec),
            sampling=Sampling(jnp.float32(1.0)),
            rows=rows,
            mesh=mesh,
            seed=0,
            batch_size=BATCH,
            samples=samples,
            samplers={RL_POLICY: SAMPLER},
            key=jax.random.key(9),
        )
        return list(heldout_chunks(supply, rows, data.triples("heldout"), mesh, role=role, key=KEY))

    return make


def real(tokens_BL: Any, mask_BL: Any) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(np.asarray(tokens_BL), np.asarray(mask_BL), strict=True)]


@pytest.mark.parametrize("role", ["policy", "improver"])
def test_every_prompt_is_met_once(chunks_of: Any, data: StandInData, world: World, role: str) -> None:
    """Rows that fill up the last batch hold no prompt."""
    chunks = chunks_of(role)
    assert [len(chunk.triples) for chunk in chunks] == [BATCH, COUNT - BATCH]
    assert [triple for chunk in chunks for triple in chunk.triples] == data.triples("heldout")
    found = [row for chunk in chunks for row in real(chunk.prompts.plain_BP, chunk.prompts.plain_mask_BP)]
    examples = data.folds["heldout"]
    assert found == [*[list(e.prompt) for e in examples], *[[]] * (2 * BATCH - COUNT)]
    asked = [row for chunk in chunks for row in real(chunk.prompts.prompt_BP, chunk.prompts.prompt_mask_BP)]
    assert asked[COUNT:] == [[]] * (2 * BATCH - COUNT)
    if role == "policy":
        assert asked == found and not any(chunk.prompts.reference_mask_BT.any() for chunk in chunks)


def test_the_improver_meets_answers_of_the_policy(chunks_of: Any, data: StandInData, world: World) -> None:
    """Whatever its curriculum does; the same ones at every evaluation."""
    engine = ToyEngine(world.language, world.spec)
    examples = data.folds["heldout"]
    for chunk, again in zip(chunks_of("improver"), chunks_of("improver", samples=4), strict=True):
        first = chunk.index * BATCH
        rows = PromptBatch(**world.arrays("prompts", [*examples, *examples][first : first + BATCH]))
        drawn = engine.answer(SAMPLER, rows, jax.random.fold_in(KEY, chunk.index), Sampling(jnp.float32(1.0)))
        count = len(chunk.triples)
        references = real(chunk.prompts.reference_BT, chunk.prompts.reference_mask_BT)[:count]
        assert references == real(drawn.tokens_BT, drawn.mask_BT)[:count]
        asked = real(chunk.prompts.prompt_BP, chunk.prompts.prompt_mask_BP)[:count]
        assert asked == [
            [*e.prefix, *(t for t in reference if t != world.eos_id), *world.suffix]
            for e, reference in zip(examples[first:], references, strict=False)
        ]
        for found, expected in zip(jax.tree.leaves(again.prompts), jax.tree.leaves(chunk.prompts), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("truth", [None, worth])
def test_a_measurement_is_the_mean_over_all_chunks(chunks_of: Any, truth: Any) -> None:
    """Sums and counts add up, however uneven; a truth is asked of the real rows alone."""
    chunks, keys = chunks_of("policy"), []
    read: list[int] = []

    def rollout(prompts: Any, triples: Any, key: jax.Array) -> Any:
        keys.append(key)
        tokens_BT: Any = np.full((BATCH, 4), 7) if len(triples) == BATCH else np.full((BATCH, 4), 8)
        ended_B: Any = np.ones(BATCH, bool)
        drawn = Completions(tokens_BT, tokens_BT > 0, tokens_BT * 0.0, ended_B)
        count = jnp.float32(len(triples))
        return drawn, None, {"objective/scores": Mean(jnp.float32(sum(ord(t.prompt[0]) for t in triples)), count)}

    def texts(tokens_NT: Any) -> list[str]:
        read.append(len(tokens_NT))
        return ["7"] * BATCH if tokens_NT[0, 0] == 7 else ["8 8 8 8"] * len(tokens_NT)

    found = measure(chunks, rollout, KEY, read=texts, truth=truth)
    triples = [triple for chunk in chunks for triple in chunk.triples]
    expected: dict[str, Any] = {"objective/scores": pytest.approx(np.mean([ord(t.prompt[0]) for t in triples]))}
    if truth is not None:
        expected["truth/score"] = pytest.approx((BATCH * 1 + (COUNT - BATCH) * 4) / COUNT)
        assert read == [BATCH, COUNT - BATCH]
    assert found == expected
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(chunks), "each chunk by its own key"
