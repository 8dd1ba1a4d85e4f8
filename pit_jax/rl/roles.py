"""The models of an RL stage: the ones that learn, the frozen ones beside them, and whoever gives references."""

from dataclasses import dataclass, replace
from typing import Any

from pit_jax.config import Config, CurriculumConfig, RlConfig
from pit_jax.model.networks import Params
from pit_jax.parallel.sharding import abstract
from pit_jax.rl.algorithms import algorithm_of
from pit_jax.rl.curriculum import every_provider
from pit_jax.rl.references import POLICY_RL, models_needed
from pit_jax.rl.rewards import scorer_of
from pit_jax.run.frozen import frozen_weights
from pit_jax.run.params import VALUE, Models
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.training.state import Partition

SECOND_GAP, WORD_MODEL = StageId("rm", "second-gap"), StageId("rm", "word-model")


@dataclass(frozen=True)
class Roles:
    """Learning are the policy, from the anchor on, and with a critic the value model, from the scorer on."""

    policy: Partition
    value: Partition | None
    frozen: dict[str, Params]
    """"anchor": SFT model of the KL, "scorer": reward or gap model, and "second-gap" where there is one."""
    samplers: dict[StageId, Params]
    """Whose answers the improver meets as references; empty for the policy's own RL."""

    @property
    def learning(self) -> dict[str, Partition]:
        return {"policy": self.policy, **({} if self.value is None else {"value": self.value})}

    @property
    def trainable(self) -> dict[str, Params]:
        return {name: partition.trainable for name, partition in self.learning.items()}

    @property
    def under(self) -> dict[str, Params] | None:
        """The frozen weights under what is trained; None where all weights are."""
        frozen = {name: partition.frozen for name, partition in self.learning.items()}
        return {name: params for name, params in frozen.items() if params is not None} or None

    def begun(self) -> "Roles":
        """The same once a state of its own has begun: of what was trained from, shapes alone, not the arrays."""

        def shapes(partition: Partition) -> Partition:
            return Partition(abstract(partition.trainable), partition.frozen)

        return replace(self, policy=shapes(self.policy), value=None if self.value is None else shapes(self.value))

    def whole(self, trainable: Any) -> dict[str, Params]:
        """The networks' parameters."""
        return {name: partition.combine(trainable[name]) for name, partition in self.learning.items()}


def parents_of(config: Config, role: str) -> tuple[StageId, ...]:
    """The stages that the RL of a model needs finished."""
    words = (WORD_MODEL,) if config.rm.word_model > 0 else ()
    if role == "policy":
        return StageId("sft", role), StageId("rm", role), *words
    second = (SECOND_GAP,) if config.rm.second_gap_steps > 0 else ()
    drawn = models_needed(every_provider(config.rl.curriculum))
    named = (
        StageId("sft", "policy"),
        StageId("sft", role),
        scorer_of(config, role),
        POLICY_RL,
        *second,
        *words,
        *drawn,
    )
    return tuple(dict.fromkeys(named))


def load_roles(models: Models, config: Config, role: str) -> Roles:
    scorer = models.load(scorer_of(config, role))
    policy = models.partition(str(StageId("rl", role)), models.load(StageId("sft", role)))
    value = models.partition(VALUE, scorer) if algorithm_of(config.rl, role).critic else None
    frozen = {"anchor": policy.combine(policy.trainable), "scorer": scorer}
    samplers: dict[StageId, Params] = {}
    if role == "improver":
        if config.rm.second_gap_steps > 0:
            frozen["second-gap"] = models.load(SECOND_GAP)
        drawn = models_needed(every_provider(config.rl.curriculum))
        samplers = {stage: frozen_weights(models.load(stage), config) for stage in dict.fromkeys((POLICY_RL, *drawn))}
    frozen = {name: frozen_weights(params, config) for name, params in frozen.items()}
    return Roles(policy, value, frozen, samplers)


def abstract_roles(shapes: Shapes, role: str) -> Roles:
    """The models of a round, which share a backbone where adapters are trained; those that references need apart."""
    policy, scalar, config = shapes.language_model, shapes.scalar_model, shapes.config
    frozen = {
        "anchor": shapes.frozen(policy, str(StageId("sft", role))),
        "scorer": shapes.frozen(scalar, str(scorer_of(config, role))),
    }
    if role == "improver" and config.rm.second_gap_steps > 0:
        frozen["second-gap"] = shapes.frozen(scalar, str(SECOND_GAP))
    value = shapes.partition(scalar, VALUE) if algorithm_of(config.rl, role).critic else None
    return Roles(shapes.partition(policy, str(StageId("rl", role))), value, frozen, {})


def curriculum_of(config: RlConfig, role: str) -> CurriculumConfig:
    """The phases of an RL; the policy's is one, and draws no reference."""
    if role == "improver":
        return config.curriculum
    return replace(config.curriculum, references=("none",), rounds=(config.policy_rounds,))


def rounds_of(config: RlConfig, role: str) -> int:
    """Of all phases."""
    return sum(curriculum_of(config, role).rounds)
