"""A tiny network, 24 prompts and the constants of their decode, for the tests of improving."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import PromptBatch
from pit_jax.config import TransformerConfig
from pit_jax.data.features import Example, Layout, build
from pit_jax.inference.improve import Slots
from pit_jax.model.networks import LanguageModel


@dataclass(frozen=True)
class Tiny:
    vocab: int = 40
    pad: int = 0
    eos: int = 1
    suffix: tuple[int, ...] = (4, 5)
    prompt_slot: int = 6  # P
    slot: int = 7  # T
    count: int = 24

    @property
    def model(self) -> LanguageModel:
        config = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
        return LanguageModel(config, self.vocab)

    @property
    def slots(self) -> Slots:
        return Slots(response=self.slot, eos_id=self.eos, pad_id=self.pad, suffix=self.suffix)

    @property
    def prompts(self) -> list[list[int]]:
        return [[6 + i] * (1 + i % 5) for i in range(self.count)]

    def draw(self, seed: int) -> Any:
        """Weights of the size of fresh ones; NumPy, since `init` compiles for long."""
        rng = np.random.default_rng(seed)

        def normal(path: Any, leaf: Any) -> jax.Array:
            mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
            return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(normal, jax.eval_shape(self.model.init, jax.random.key(0)))

    def rows(self, real: Collection[int] = range(24)) -> PromptBatch:
        """The prompts as a batch; only the rows of `real` hold one, the others fill it up."""
        examples = [Example(prompt, [3, *prompt], [], []) for prompt in self.prompts]
        layout = Layout(self.pad, self.eos, self.suffix, {}, self.prompt_slot, self.slot)
        arrays = build("prompts", examples, layout)
        for name in ("prompt_mask_BP", "prefix_mask_BP"):
            arrays[name] &= np.isin(np.arange(self.count), list(real))[:, None]
        return PromptBatch(**arrays)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def rows(tiny: Tiny) -> PromptBatch:
    return tiny.rows()
