"""Where the improver's references in RL come from, and the prompts of every round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import PromptBatch, RolloutPrompts
from pit_jax.data.stream import Stream
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers, answer, improve_once, improver_prompt
from pit_jax.stages.context import Context
from pit_jax.stages.curriculum import PROVIDERS, providers_of
from pit_jax.stages.systems import slots_of


def prompt_arrays(context: Context, fold: str) -> dict[str, np.ndarray]:
    """Prompt rows of a fold with the reference slots widened to the response slot."""
    arrays, slot = dict(context.data.arrays(fold, "prompts")), context.data.response_slot
    for name in ("chosen_BR", "rejected_BR", "chosen_mask_BR", "rejected_mask_BR"):
        arrays[name] = np.pad(arrays[name], ((0, 0), (0, slot - arrays[name].shape[1])))
    return arrays


def policy_prompts(rows: PromptBatch) -> RolloutPrompts:
    nothing = jnp.zeros_like(rows.chosen_BR)
    prompt = rows.prompt_BP, rows.prompt_mask_BP
    return RolloutPrompts(*prompt, *prompt, nothing, nothing.astype(bool))


def with_end(reference_BR: jax.Array, mask_BR: jax.Array, eos_id: int) -> Answers:
    """References with their EOS appended: same slot, mask one longer."""
    length_B1 = jnp.sum(mask_BR, axis=1, dtype=jnp.int32)[:, None]
    slots_1R = jnp.arange(mask_BR.shape[1], dtype=jnp.int32)[None]
    return Answers(jnp.where(slots_1R == length_B1, eos_id, reference_BR), slots_1R <= length_B1)


@dataclass(frozen=True)
class Supply:
    """The prompts of every round: a function of the round, its curriculum stage and the parameters of the samplers."""

    context: Context
    samplers: Mapping[str, Any]
    """Frozen parameters of "policy-sft" and "policy-rl", where they are asked for; empty for the policy's own RL."""

    def own(self, round: int) -> RolloutPrompts:
        """Prompts of the policy's RL, without references."""
        return self.programs["own"](self._rows(round, 1))

    def prompts(self, round: int, stage: int, improver: Any) -> RolloutPrompts:
        """Prompts of the improver's RL: providers in order, each with the same batch_size / providers rows."""
        names = providers_of(self.context.config.rl.curriculum.references[stage])
        rows, key = self._rows(round, len(names)), jax.random.fold_in(self.context.key("references"), round)
        return self.programs["assemble"](rows, [self.references(name, rows, improver, key) for name in names])

    def heldout(self, rows: PromptBatch, key: jax.Array) -> RolloutPrompts:
        """Held-out prompts with answers of the trained policy as references."""
        return self.programs["assemble"](rows, [self.references("policy-rl", rows, None, key)])

    def _rows(self, round: int, parts: int) -> PromptBatch:
        return self.context.put_rows(PromptBatch, self._stream(parts).batch(round))

    def references(self, name: str, rows: PromptBatch, improver: Any, key: jax.Array) -> Answers:
        """One provider's reference for every row; `improver` rewrites the policy's answers where it is the provider."""
        match name:
            case "rejected":
                return self.programs["end"](rows.rejected_BR, rows.rejected_mask_BR)
            case "chosen":
                return self.programs["end"](rows.chosen_BR, rows.chosen_mask_BR)
            case "improver":
                before = self.programs["answer"](self.samplers["policy-rl"], rows, key)
                return self.programs["rewrite"](improver, rows, before, key)
        assert name in PROVIDERS, name
        return self.programs["answer"](self.samplers[name], rows, key)

    @cached_property
    def _stream(self) -> Callable[[int], Stream]:
        """Rows in shuffled order, in batches for `parts` references each; every number of parts has its own order."""
        context, arrays = self.context, prompt_arrays(self.context, "rl")
        size, seed = context.config.rl.batch_size, context.config.seed
        return lru_cache(lambda parts: Stream(arrays, batch_size=size // parts, seed=seed + parts - 1))

    @cached_property
    def programs(self) -> dict[str, Any]:
        """The jitted programs: own, end, answer, rewrite, assemble."""
        context, slots = self.context, slots_of(self.context)
        model, sampling = context.language_model, Sampling(context.config.rl.temperature)

        def end(reference_BR: jax.Array, mask_BR: jax.Array) -> Answers:
            return with_end(reference_BR, mask_BR, slots.eos_id)

        def sample(params: Any, rows: PromptBatch, key: jax.Array) -> Answers:
            return answer(model, params, rows, key, sampling, slots=slots)

        def rewrite(params: Any, rows: PromptBatch, before: Answers, key: jax.Array) -> Answers:
            return improve_once(model, params, rows, before, jax.random.fold_in(key, 1), sampling, slots=slots)

        def assemble(rows: PromptBatch, references: Sequence[Answers]) -> RolloutPrompts:
            """prompt(x, y_ref): every row once with each of the references."""
            repeated = jax.tree.map(lambda x: jnp.concatenate([x] * len(references)), rows)
            reference = jax.tree.map(lambda *xs: jnp.concatenate(xs), *references)
            prompt_BP, mask_BP = improver_prompt(repeated, reference, slots=slots)
            plain = repeated.prompt_BP, repeated.prompt_mask_BP
            return RolloutPrompts(prompt_BP, mask_BP, *plain, reference.tokens_BT, reference.mask_BT)

        return {
            "own": jax.jit(policy_prompts),
            "end": jax.jit(end),
            "answer": jax.jit(sample),
            "rewrite": jax.jit(rewrite),
            "assemble": jax.jit(assemble),
        }
