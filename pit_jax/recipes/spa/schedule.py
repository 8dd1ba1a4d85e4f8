"""The trainings of SPA, one after the other: what each is called, and its knobs."""

import math
from dataclasses import dataclass, replace

from pit_jax.config import OptimizerConfig, SpaConfig

SEED = "seed"
FEW = 2000  # gold pairs, below which three passes over them are good, and beyond which one is better (SPA's program)


@dataclass(frozen=True)
class Phase:
    """One training: DPO on the gold pairs, or on the pairs of an iteration."""

    number: int  # 0 = that of the gold pairs
    steps: int
    batch_size: int
    beta: float
    optimizer: OptimizerConfig
    strength: float  # lambda
    alpha: float
    noise_share: float
    window: int
    noise_after: float

    @property
    def name(self) -> str:
        return iteration(self.number)

    @property
    def pairs_before_noise(self) -> int:
        """Pairs of the updates before the first label is smoothed."""
        return math.ceil(self.noise_after * self.steps) * self.batch_size


def iteration(number: int) -> str:
    """The name, and the folder, of a phase."""
    return f"iteration-{number}" if number else SEED


def phase_of(config: SpaConfig, number: int, pairs: int) -> Phase:
    """A phase over so many pairs. No label of the gold pairs is taken for noise."""
    epochs = config.epochs if number else config.seed_epochs or (3 if pairs < FEW else 1)
    rate = config.optimizer.learning_rate * config.rate_decay**number
    return Phase(
        number=number,
        steps=math.ceil(epochs * pairs / config.batch_size),
        batch_size=config.batch_size,
        beta=config.beta * config.beta_decay ** max(number - 1, 0),
        optimizer=replace(config.optimizer, learning_rate=rate),
        strength=config.strengths[number - 1] if number else 0.0,
        alpha=config.alpha,
        noise_share=config.noise_share if number else 0.0,
        window=config.window,
        noise_after=config.noise_after,
    )
