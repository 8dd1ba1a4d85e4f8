"""The prompts of every round: a function of the round, the curriculum's phase and the parameters of the samplers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import jax
import numpy as np
from jax.sharding import Mesh

from pit_jax.batch import PromptBatch, Responses, RolloutPrompts
from pit_jax.data.rows import Rows, as_rows
from pit_jax.data.stream import Stream
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import Params
from pit_jax.parallel.sharding import put_rows
from pit_jax.rl.references import REFERENCES, Draw, improver_prompts, in_groups, policy_prompts
from pit_jax.run.provenance import StageId


@dataclass(frozen=True)
class Decoding(Mapping[StageId, Params]):
    """Models as they draw: converted when one is asked for, and kept by whoever asked alone."""

    engine: Engine
    models: Mapping[StageId, Params]

    def __getitem__(self, stage: StageId) -> Params:
        return self.engine.to_decode(self.models[stage])

    def __iter__(self) -> Iterator[StageId]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


@dataclass(frozen=True)
class Supply:
    """Draws the prompts of a round, each with its reference if any, and each as often as responses are drawn for it."""

    engine: Engine
    sampling: Sampling
    rows: Rows | Mapping[str, np.ndarray]
    """Prompt rows of the RL fold."""
    mesh: Mesh
    seed: int
    batch_size: int
    """Rollouts a round."""
    samples: int
    """Responses of each (prompt, reference), side by side."""
    samplers: Mapping[StageId, Params]
    key: jax.Array

    def plain(self, round: int) -> tuple[RolloutPrompts, np.ndarray]:
        """(prompts of the policy's RL, the number of each one's row)."""
        numbers = self._stream(1).rows(round)
        return self._grouped(policy_prompts(self._rows(numbers))), np.repeat(numbers, self.samples)

    def improving(self, round: int, names: Sequence[str], improver: Params) -> tuple[RolloutPrompts, np.ndarray]:
        """(prompts of the improver's RL, the number of each one's row): providers in order, with equal shares."""
        numbers = self._stream(len(names)).rows(round)
        rows, key = self._rows(numbers), jax.random.fold_in(self.key, round)
        references = [self.reference(name, rows, improver, key) for name in names]
        prompts = self._grouped(improver_prompts(self.engine, rows, references))
        return prompts, np.repeat(np.tile(numbers, len(names)), self.samples)

    def reference(self, name: str, rows: PromptBatch, improver: Params, key: jax.Array) -> Responses:
        """One provider's reference for every row."""
        models = Decoding(self.engine, self.samplers)
        draw = Draw(rows, key, self.engine, self.sampling, models, improver)
        return REFERENCES[name].draw(draw)

    def _grouped(self, prompts: RolloutPrompts) -> RolloutPrompts:
        return prompts if self.samples == 1 else in_groups(prompts, self.samples)

    def _rows(self, numbers: np.ndarray) -> PromptBatch:
        return put_rows(self.mesh, PromptBatch, as_rows(self.rows).batch(numbers))

    @cached_property
    def _stream(self) -> Callable[[int], Stream]:
        """Rows in shuffled order, in batches for `parts` references each; every number of parts has its own order."""
        groups = self.batch_size // self.samples
        return lru_cache(lambda parts: Stream(self.rows, batch_size=groups // parts, seed=self.seed + parts - 1))
