"""Where the improver's references in RL come from: providers by name, and the prompts of every round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from pit_jax.batch import PromptBatch, Responses, RolloutPrompts
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes, Work
from pit_jax.model.networks import Params
from pit_jax.run.provenance import StageId
from pit_jax.table import Table

POLICY_SFT, POLICY_RL = StageId("sft", "policy"), StageId("rl", "policy")


@dataclass(frozen=True)
class Draw:
    """What a provider is given: a batch of prompts, a key, and the models to draw from."""

    rows: PromptBatch
    key: jax.Array
    engine: Engine
    sampling: Sampling
    models: Mapping[StageId, Params]
    """Of the stages that the provider needs, and of the policy's RL, as they draw (Engine.to_decode)."""
    improver: Params
    """As it is at the start of the round."""


@dataclass(frozen=True)
class Reference:
    """A provider of references, by the name that rl.curriculum.references calls it."""

    name: str
    draw: Callable[[Draw], Responses]
    """One reference a row, its EOS included."""
    needs: tuple[StageId, ...] = ()
    """Stages whose models it draws from: parents of the improver's RL, where the curriculum names the provider."""
    drawn: tuple[bool, ...] = ()
    """What it draws for one reference, for the cost tables: an answer to x (False), a rewrite of an answer (True)."""


def _rejected(draw: Draw) -> Responses:
    return with_end(draw.rows.rejected_BR, draw.rows.rejected_mask_BR, draw.engine.spec.eos_id)


def _chosen(draw: Draw) -> Responses:
    return with_end(draw.rows.chosen_BR, draw.rows.chosen_mask_BR, draw.engine.spec.eos_id)


def _answer_of(stage: StageId) -> Callable[[Draw], Responses]:
    return lambda draw: draw.engine.answer(draw.models[stage], draw.rows, draw.key, draw.sampling).responses


def _improved(draw: Draw) -> Responses:
    """The improver's own rewrite of an answer of the policy."""
    before = _answer_of(POLICY_RL)(draw)
    key = jax.random.fold_in(draw.key, 1)
    return draw.engine.rewrite(draw.improver, draw.rows, before, key, draw.sampling).responses


REFERENCES: Table[Reference] = Table(
    "reference",
    Reference("rejected", _rejected),
    Reference("chosen", _chosen),
    Reference("policy-sft", _answer_of(POLICY_SFT), needs=(POLICY_SFT,), drawn=(False,)),
    Reference("policy-rl", _answer_of(POLICY_RL), needs=(POLICY_RL,), drawn=(False,)),
    Reference("improver", _improved, needs=(POLICY_RL,), drawn=(False, True)),
)


@partial(jax.jit, static_argnames="eos_id")
def with_end(reference_BR: jax.Array, mask_BR: jax.Array, eos_id: int) -> Responses:
    """References with their EOS appended: same slot, mask one longer."""
    length_B1 = jnp.sum(mask_BR, axis=1, dtype=jnp.int32)[:, None]
    slots_1R = jnp.arange(mask_BR.shape[1], dtype=jnp.int32)[None]
    return Responses(jnp.where(slots_1R == length_B1, eos_id, reference_BR), slots_1R <= length_B1)


@jax.jit
def policy_prompts(rows: PromptBatch) -> RolloutPrompts:
    """Prompts of the policy's RL: without references."""
    nothing = jnp.zeros_like(rows.chosen_BR)
    prompt = rows.prompt_BP, rows.prompt_mask_BP
    return RolloutPrompts(*prompt, *prompt, *prompt, nothing, nothing.astype(bool))


def improver_prompts(engine: Engine, rows: PromptBatch, references: Sequence[Responses]) -> RolloutPrompts:
    """prompt(x, y_ref): every row once with each of the references, those of one provider together."""
    repeated, reference = _stacked(rows, list(references))
    prompt_BP, mask_BP = engine.improver_prompt(repeated, reference)
    plain = repeated.prompt_BP, repeated.prompt_mask_BP
    prefix = repeated.prefix_BP, repeated.prefix_mask_BP
    return RolloutPrompts(prompt_BP, mask_BP, *plain, *prefix, reference.tokens_BT, reference.mask_BT)


@jax.jit
def _stacked(rows: PromptBatch, references: list[Responses]) -> tuple[PromptBatch, Responses]:
    repeated = jax.tree.map(lambda x: jnp.concatenate([x] * len(references)), rows)
    return repeated, jax.tree.map(lambda *xs: jnp.concatenate(xs), *references)


@partial(jax.jit, static_argnames="samples")
def in_groups(prompts: RolloutPrompts, samples: int) -> RolloutPrompts:
    """Every row `samples` times, its copies side by side."""
    grouped: RolloutPrompts = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=0), prompts)
    return grouped


def reference_cost(passes: Passes, names: Sequence[str], *, prompt: int, improver: int, slot: int) -> Work:
    """What the providers of a phase draw for one prompt each, all `slot` tokens decoded."""
    total = Work()
    for name in names:
        for rewrite in REFERENCES[name].drawn:
            total += passes.draw(improver if rewrite else prompt, slot, slot)
    return total


def models_needed(names: Sequence[str]) -> tuple[StageId, ...]:
    """The stages that these providers draw from, each once."""
    return tuple(dict.fromkeys(stage for name in names for stage in REFERENCES[name].needs))
