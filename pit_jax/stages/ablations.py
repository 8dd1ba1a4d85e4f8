"""Runs that branch off a finished one and change one thing, so that its effect can be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pit_jax.config import Config
from pit_jax.stages.context import Context
from pit_jax.stages.models import load


@dataclass(frozen=True)
class Ablation:
    """What changes, and the stages that have to be trained again for it."""

    change: Callable[[Config], Config]
    stages: tuple[tuple[str, str], ...]


def one_stage(config: Config, place: int, rounds: int) -> Config:
    """So many rounds of RL on the references of one stage of the curriculum alone (PIT Sec. 4.6)."""
    curriculum = config.rl.curriculum
    alone = replace(curriculum, references=(curriculum.references[place],), rounds=(rounds,))
    return replace(config, rl=replace(config.rl, curriculum=alone))


def instead(config: Config, place: int) -> Config:
    """One stage of the curriculum with the rounds of all."""
    return one_stage(config, place, sum(config.rl.curriculum.rounds))


def left_alone(config: Config, place: int) -> Config:
    """One stage of the curriculum with the rounds that it has there, the others left out: less RL in all."""
    return one_stage(config, place, config.rl.curriculum.rounds[place])


def longer_policy(config: Config) -> Config:
    """Direct RLHF with as many rounds as the policy and the improver took together."""
    rounds = config.rl.policy_rounds + sum(config.rl.curriculum.rounds)
    return replace(config, rl=replace(config.rl, policy_rounds=rounds))


def pair_gap(config: Config) -> Config:
    """A gap model of wl > lw alone, which may ignore the reference: its gates must not stop the comparison."""
    return replace(config, rm=replace(config.rm, gap_loss="pair"), rl=replace(config.rl, ignore_gates=True))


def score_difference(config: Config) -> Config:
    """No gap model: the improver is rewarded with the difference of two scores of the policy's reward model."""
    return replace(config, rl=replace(config.rl, reward="difference"), rm=replace(config.rm, guard_steps=0))


ABLATIONS = {
    "first-only": Ablation(lambda config: instead(config, 0), (("rl", "improver"),)),
    "second-only": Ablation(lambda config: instead(config, -1), (("rl", "improver"),)),
    "without-second": Ablation(lambda config: left_alone(config, 0), (("rl", "improver"),)),
    "without-first": Ablation(lambda config: left_alone(config, -1), (("rl", "improver"),)),
    "direct-rlhf": Ablation(longer_policy, (("rl", "policy"),)),
    "pair-gap": Ablation(pair_gap, (("rm", "improver"), ("rl", "improver"))),
    "score-difference": Ablation(score_difference, (("rl", "improver"),)),
}


def check_ablations(names: Sequence[str]) -> None:
    """ValueError for a name that is not in ABLATIONS, or is there twice."""
    unknown = [name for name in names if name not in ABLATIONS]
    if unknown or len(set(names)) != len(names):
        raise ValueError(
            f"--paper.ablations: found {' '.join(names)}; name each of {', '.join(ABLATIONS)} at most once"
        )


def branch(context: Context, name: str) -> Context:
    """The ablation as a run of its own, in paper/<name> of the run that it branches off."""
    config = ABLATIONS[name].change(context.config)
    own = Path(context.config.workdir) / "paper" / name
    return replace(context, config=replace(config, workdir=str(own), trunk=context.config.workdir))


def trained(context: Context, name: str) -> Any:
    """The parameters that the ablation ends with."""
    return load(branch(context, name), *ABLATIONS[name].stages[-1])
