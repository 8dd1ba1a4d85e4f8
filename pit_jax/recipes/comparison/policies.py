"""Policies that were trained otherwise than by RL, and can be compared beside the systems of PIT."""

from collections.abc import Sequence

from pit_jax.config import Config
from pit_jax.errors import UserError, did_you_mean
from pit_jax.evaluation.systems import DPO, DPO_SEED, SystemId, spa
from pit_jax.recipes.comparison.draw import Answering, Source
from pit_jax.run.provenance import StageId

OTHERS = {"dpo": StageId("dpo", "policy"), "spa": StageId("spa", "policy")}
"""By what --evaluate.policies calls them."""


def stages_of(config: Config) -> tuple[StageId, ...]:
    """The stages that leave the policies of --evaluate.policies. UserError for a name that is not in OTHERS."""
    for name in config.evaluate.policies:
        if name not in OTHERS:
            raise UserError(
                f"--evaluate.policies: no policy {name!r}{did_you_mean(name, OTHERS)}; known: {', '.join(OTHERS)}"
            )
    return tuple(OTHERS[name] for name in config.evaluate.policies)


def other_policies(answering: Answering, stages: Sequence[StageId]) -> dict[SystemId, Source]:
    """The models that these stages left; of SPA the one after every phase."""
    context, found = answering.context, dict[SystemId, Source]()
    for id in stages:
        if id == OTHERS["dpo"]:
            found[DPO] = answering.source(id)
            continue
        phases = context.run.stage(id).phases(context.config)
        systems = [DPO_SEED, *(spa(number) for number in range(1, len(phases)))]
        found |= {system: answering.source(id, phase=phase) for system, phase in zip(systems, phases, strict=True)}
    return found
