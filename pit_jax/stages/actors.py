"""The models of an RL stage: the two that learn, the frozen ones beside them, and what scores a rollout."""

from dataclasses import dataclass
from typing import Any

from pit_jax.config import RlConfig
from pit_jax.model.networks import Params
from pit_jax.stages.context import Context
from pit_jax.stages.curriculum import every_provider
from pit_jax.stages.models import VALUE, Start, load, start
from pit_jax.stages.rollout import Score, centered_gap, plain_score, score_difference
from pit_jax.stages.workspace import has_guard, judged_by, stage_name


@dataclass(frozen=True)
class Actors:
    """Learning are the policy, from the anchor on, and the value model, from the scorer on."""

    policy: Start
    value: Start
    frozen: dict[str, Params]
    """"anchor": SFT model of the KL, "scorer": reward or gap model, and "guard" where there is one."""
    samplers: dict[str, Params]
    """Whose answers the improver meets as references; empty for the policy's own RL."""

    @property
    def trained(self) -> dict[str, Params]:
        return {"policy": self.policy.trained, "value": self.value.trained}

    @property
    def under(self) -> dict[str, Params] | None:
        """The frozen weights under what is trained; None where all weights are."""
        found = {"policy": self.policy.frozen, "value": self.value.frozen}
        return {name: params for name, params in found.items() if params is not None} or None

    def whole(self, trained: Any) -> dict[str, Params]:
        """Both networks' parameters."""
        return {"policy": self.policy.whole(trained["policy"]), "value": self.value.whole(trained["value"])}


def load_actors(context: Context, model: str) -> Actors:
    frozen = {"anchor": load(context, "sft", model), "scorer": load(context, "rm", judged_by(context.config, model))}
    policy = start(context, stage_name("rl", model), frozen["anchor"])
    value = start(context, VALUE, frozen["scorer"])
    if model == "policy":
        return Actors(policy, value, frozen, {})
    if has_guard(context.config):
        frozen["guard"] = load(context, "rm", "guard")
    samplers = {"policy-rl": load(context, "rl", "policy")}
    if "policy-sft" in every_provider(context.config.rl.curriculum):
        samplers["policy-sft"] = load(context, "sft", "policy")
    return Actors(policy, value, frozen, samplers)


def score_of(config: RlConfig, model: str) -> Score:
    """What a rollout of `model` is scored by."""
    if model == "policy":
        return plain_score
    if config.reward == "difference":
        return score_difference
    return centered_gap if config.center_gap else plain_score
