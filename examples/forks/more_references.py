"""Two references of your own for the improver's RL: one made from the data, one drawn by a model of the run.

    pit-jax --fork=examples/forks/more_references.py --stage=rl \\
        --rl.curriculum.references rejected+half-rejected sft-improver --rl.curriculum.rounds 30 70
"""

import jax
import jax.numpy as jnp

from pit_jax.fork import Draw, Reference, Responses, StageId, fork

SFT_POLICY, SFT_IMPROVER = StageId("sft", "policy"), StageId("sft", "improver")


def half_rejected(draw: Draw) -> Responses:
    """The first half of the rejected answer's tokens, and EOS: an answer with its end missing."""
    tokens_BT, mask_BT = draw.rows.rejected_BR, draw.rows.rejected_mask_BR
    half_B1 = jnp.sum(mask_BT, axis=1, dtype=jnp.int32)[:, None] // 2
    slots_1T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
    return Responses(jnp.where(slots_1T == half_B1, draw.engine.spec.eos_id, tokens_BT), slots_1T <= half_B1)


def sft_improver(draw: Draw) -> Responses:
    """What the improver before RL makes of an answer of the policy before RL."""
    first, second = jax.random.split(draw.key)
    before = draw.engine.answer(draw.models[SFT_POLICY], draw.rows, first, draw.sampling).responses
    return draw.engine.rewrite(draw.models[SFT_IMPROVER], draw.rows, before, second, draw.sampling).responses


fork(
    Reference("half-rejected", half_rejected),
    Reference("sft-improver", sft_improver, needs=(SFT_POLICY, SFT_IMPROVER), drawn=(False, True)),
)
