"""Runs that branch off a finished one and change one thing, so that its effect can be told."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.evaluation.systems import SystemId
from pit_jax.paths import to_path
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId

IMPROVER_RL, POLICY_RL, GAP = StageId("rl", "improver"), StageId("rl", "policy"), StageId("rm", "improver")


@dataclass(frozen=True)
class Ablation:
    """What changes, and the stages that have to be trained again for it; the last one gives the system."""

    name: str
    change: Callable[[Config], Config]
    stages: tuple[StageId, ...]
    place: str = "paper"
    """Where its run lies in that which it branches off."""

    @property
    def system(self) -> SystemId:
        """An improver after one round, or a policy."""
        if self.stages[-1] == IMPROVER_RL:
            return SystemId("branch-improver", 1, self.name)
        return SystemId("branch-policy", source=self.name)


def one_phase(config: Config, phase: int, rounds: int) -> Config:
    """So many rounds of RL on the references of one phase of the curriculum alone (PIT Sec. 4.6)."""
    curriculum = config.rl.curriculum
    alone = replace(curriculum, references=(curriculum.references[phase],), rounds=(rounds,))
    return replace(config, rl=replace(config.rl, curriculum=alone))


def instead(config: Config, phase: int) -> Config:
    """One phase of the curriculum with the rounds of all."""
    return one_phase(config, phase, sum(config.rl.curriculum.rounds))


def left_alone(config: Config, phase: int) -> Config:
    """One phase of the curriculum with the rounds that it has there, the others left out: less RL in all."""
    return one_phase(config, phase, config.rl.curriculum.rounds[phase])


def longer_policy(config: Config) -> Config:
    """Direct RLHF with as many rounds as the policy and the improver took together."""
    rounds = config.rl.policy_rounds + sum(config.rl.curriculum.rounds)
    return replace(config, rl=replace(config.rl, policy_rounds=rounds))


def pair_gap(config: Config) -> Config:
    """A gap model of wl > lw alone, which may ignore the reference: its gates must not stop the comparison."""
    return replace(config, rm=replace(config.rm, gap_loss="pair"), rl=replace(config.rl, ignore_gates=True))


def score_difference(config: Config) -> Config:
    """No gap model: the improver is rewarded with the difference of two scores of the policy's reward model."""
    return replace(config, rl=replace(config.rl, reward="difference"), rm=replace(config.rm, second_gap_steps=0))


ABLATIONS = {
    ablation.name: ablation
    for ablation in (
        Ablation("first-only", lambda config: instead(config, 0), (IMPROVER_RL,)),
        Ablation("second-only", lambda config: instead(config, -1), (IMPROVER_RL,)),
        Ablation("without-second", lambda config: left_alone(config, 0), (IMPROVER_RL,)),
        Ablation("without-first", lambda config: left_alone(config, -1), (IMPROVER_RL,)),
        Ablation("direct-rlhf", longer_policy, (POLICY_RL,)),
        Ablation("pair-gap", pair_gap, (GAP, IMPROVER_RL)),
        Ablation("score-difference", score_difference, (IMPROVER_RL,)),
    )
}


def named(flag: str, names: Sequence[str], known: Mapping[str, Ablation]) -> list[Ablation]:
    """The ablations of these names. UserError for a name that is not known, or is there twice."""
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) != len(names):
        raise UserError(f"{flag}: found {' '.join(names)}; name each of {', '.join(known)} at most once")
    return [known[name] for name in names]


def ablations_of(config: Config) -> list[Ablation]:
    """Those of the paper's tables. UserError as `named`."""
    return named("--paper.ablations", config.paper.ablations, ABLATIONS)


def branch_config(config: Config, ablation: Ablation) -> Config:
    """The ablation as a run of its own, in <place>/<name> of the run that it branches off."""
    workdir = to_path(config.workdir) / ablation.place / ablation.name
    return replace(ablation.change(config), workdir=str(workdir), parent_run=config.workdir)


def branches(config: Config, ablations: Iterable[Ablation]) -> Iterable[tuple[Config, StageId]]:
    """The stages of ablations of a run, in order."""
    for ablation in ablations:
        for stage in ablation.stages:
            yield branch_config(config, ablation), stage


def branched(context: Context, ablation: Ablation) -> Context:
    """The context of an ablation's run."""
    config = branch_config(context.config, ablation)
    return replace(context, config=config, run=Run(config, context.run.catalogue))
