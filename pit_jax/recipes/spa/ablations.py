"""SPA with one thing changed, as in Tables 2, 6 and 7 of its paper: branches of a run, in spa/<name> of its workdir.

Smoothing and de-coupling are one: what noise is found beyond the model is used for smoothing alone, so that without
smoothing there is nothing to de-couple, and "without both" is "without-refinement". The paper changes what labels are
judged by without refinement, and so do these.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pit_jax.config import Config
from pit_jax.recipes.comparison.ablations import Ablation, named
from pit_jax.run.provenance import StageId

SPA, REWARD = StageId("spa", "policy"), StageId("rm", "policy")


def _with(**knobs: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, spa=replace(config.spa, **knobs))


def _coupled(config: Config) -> Config:
    """Noise is looked for by the model in training itself."""
    return _with(strengths=(0.0,) * len(config.spa.slices))(config)


ABLATIONS = {
    ablation.name: ablation
    for ablation in (
        Ablation("without-refinement", _with(noise_share=0.0), (SPA,), "spa"),
        Ablation("without-decoupling", _coupled, (SPA,), "spa"),
        Ablation("judged-by-previous", _with(noise_share=0.0, labels="previous"), (SPA,), "spa"),
        Ablation("judged-by-likelihood", _with(noise_share=0.0, labels="likelihood"), (SPA,), "spa"),
        Ablation("judged-by-reward", _with(noise_share=0.0, labels="reward"), (REWARD, SPA), "spa"),
    )
}


def ablations_of(config: Config) -> list[Ablation]:
    """Those that a run asks for. UserError for a name that is not known, or is there twice."""
    return named("--spa.ablations", config.spa.ablations, ABLATIONS)
