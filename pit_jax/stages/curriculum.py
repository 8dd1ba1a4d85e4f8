"""Which references the improver sees in RL: the dataset's answers first, then answers of the trained policy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import PromptBatch, RolloutPrompts
from pit_jax.data.stream import Stream
from pit_jax.generation.decode import assemble_improver_prompt, generate
from pit_jax.generation.sampling import Sampling
from pit_jax.stages.context import Context

EASY, HARD = 0, 1


def stage_of(round: int, easy_rounds: int) -> int:
    """Curriculum stage of a round: EASY (references y_l and y_w) or HARD (references from M_P)."""
    return EASY if round < easy_rounds else HARD


def prompt_arrays(context: Context, fold: str) -> dict[str, np.ndarray]:
    """Prompt rows of a fold with the reference slots widened to the response slot."""
    arrays, slot = dict(context.data.arrays(fold, "prompts")), context.data.response_slot
    for name in ("chosen_BR", "rejected_BR", "chosen_mask_BR", "rejected_mask_BR"):
        arrays[name] = np.pad(arrays[name], ((0, 0), (0, slot - arrays[name].shape[1])))
    return arrays


def policy_prompts(rows: PromptBatch) -> RolloutPrompts:
    nothing = jnp.zeros_like(rows.chosen_BR)
    return RolloutPrompts(rows.prompt_BP, rows.prompt_mask_BP, nothing, nothing.astype(bool))


def with_end(reference_BR: jax.Array, mask_BR: jax.Array, eos_id: int) -> tuple[jax.Array, jax.Array]:
    """References with their EOS appended: same slot, mask one longer."""
    length_B1 = jnp.sum(mask_BR, axis=1, dtype=jnp.int32)[:, None]
    slots_1R = jnp.arange(mask_BR.shape[1], dtype=jnp.int32)[None]
    return jnp.where(slots_1R == length_B1, eos_id, reference_BR), slots_1R <= length_B1


def improver_prompts(
    rows: PromptBatch, reference_BT: jax.Array, reference_mask_BT: jax.Array, *, suffix: tuple[int, ...], eos_id: int
) -> RolloutPrompts:
    """prompt(x, y_ref) for references that hold their EOS."""
    without_end = reference_mask_BT & (reference_BT != eos_id)
    prompt, mask = assemble_improver_prompt(rows.prefix_BP, rows.prefix_mask_BP, reference_BT, without_end, suffix)
    return RolloutPrompts(prompt, mask, reference_BT, reference_mask_BT)


@dataclass(frozen=True)
class Supply:
    """The prompts of every round, a pure function of (round, frozen sampler): nothing else has to be remembered."""

    context: Context
    model: str

    def programs(
        self,
    ) -> tuple[Callable[..., RolloutPrompts], Callable[..., RolloutPrompts], Callable[..., RolloutPrompts]]:
        """Jitted (own, easy, hard): the policy's prompts; dataset references; references from the sampler."""
        data, config = self.context.data, self.context.config.rl
        eos_id, suffix = data.tokenizer.eos_id, tuple(data.template.improver_suffix)

        def easy(rows: PromptBatch) -> RolloutPrompts:
            rejected = with_end(rows.rejected_BR, rows.rejected_mask_BR, eos_id)
            chosen = with_end(rows.chosen_BR, rows.chosen_mask_BR, eos_id)
            twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), rows)
            reference, mask = (jnp.concatenate(both) for both in zip(rejected, chosen, strict=True))
            return improver_prompts(twice, reference, mask, suffix=suffix, eos_id=eos_id)

        def hard(rows: PromptBatch, sampler: Any, key: jax.Array) -> RolloutPrompts:
            drawn = generate(
                self.context.language_model,
                sampler,
                rows.prompt_BP,
                rows.prompt_mask_BP,
                key,
                sampling=Sampling(config.temperature),
                response_slot=data.response_slot,
                eos_id=eos_id,
                pad_id=data.tokenizer.pad_id,
            )
            return improver_prompts(rows, drawn.tokens_BT, drawn.mask_BT, suffix=suffix, eos_id=eos_id)

        return jax.jit(policy_prompts), jax.jit(easy), jax.jit(hard)

    def draw(self, sampler: Any) -> Callable[[int], RolloutPrompts]:
        """round -> prompts of that round."""
        context, config = self.context, self.context.config.rl
        arrays = prompt_arrays(context, "rl")
        whole = Stream(arrays, batch_size=config.batch_size, seed=context.config.seed)
        half = Stream(arrays, batch_size=config.batch_size // 2, seed=context.config.seed + 1)
        own, easy, hard = self.programs()
        key = context.key("references")

        def prompts(round: int) -> RolloutPrompts:
            if self.model == "policy":
                return own(context.put_rows(PromptBatch, whole.batch(round)))
            if stage_of(round, config.easy_rounds) == EASY:
                return easy(context.put_rows(PromptBatch, half.batch(round)))
            return hard(context.put_rows(PromptBatch, whole.batch(round)), sampler, jax.random.fold_in(key, round))

        return prompts
