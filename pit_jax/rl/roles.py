"""The models of an RL stage: the ones that learn, the frozen ones beside them, and whoever gives references."""

from dataclasses import dataclass
from typing import Any

from pit_jax.config import Config, RlConfig
from pit_jax.model.networks import Params
from pit_jax.rl.algorithms import algorithm_of
from pit_jax.rl.curriculum import every_provider
from pit_jax.rl.references import POLICY_RL, models_needed
from pit_jax.rl.rewards import scorer_of
from pit_jax.run.params import VALUE, Models
from pit_jax.run.provenance import StageId
from pit_jax.training.state import Partition

SECOND_GAP = StageId("rm", "second-gap")


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

    def whole(self, trainable: Any) -> dict[str, Params]:
        """The networks' parameters."""
        return {name: partition.combine(trainable[name]) for name, partition in self.learning.items()}


def parents_of(config: Config, role: str) -> tuple[StageId, ...]:
    """The stages that the RL of a model needs finished."""
    first = StageId("sft", role), StageId("rm", role)
    if role == "policy":
        return first
    second = (SECOND_GAP,) if config.rm.second_gap_steps > 0 else ()
    drawn = models_needed(every_provider(config.rl.curriculum))
    named = (StageId("sft", "policy"), StageId("sft", role), scorer_of(config, role), POLICY_RL, *second, *drawn)
    return tuple(dict.fromkeys(named))


def load_roles(models: Models, config: Config, role: str) -> Roles:
    frozen = {"anchor": models.load(StageId("sft", role)), "scorer": models.load(scorer_of(config, role))}
    policy = models.partition(str(StageId("rl", role)), frozen["anchor"])
    value = models.partition(VALUE, frozen["scorer"]) if algorithm_of(config.rl, role).critic else None
    if role == "policy":
        return Roles(policy, value, frozen, {})
    if config.rm.second_gap_steps > 0:
        frozen["second-gap"] = models.load(SECOND_GAP)
    drawn = models_needed(every_provider(config.rl.curriculum))
    samplers = {stage: models.load(stage) for stage in dict.fromkeys((POLICY_RL, *drawn))}
    return Roles(policy, value, frozen, samplers)


def rounds_of(config: RlConfig, role: str) -> int:
    return config.policy_rounds if role == "policy" else sum(config.curriculum.rounds)
