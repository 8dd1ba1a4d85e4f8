"""The update of SPA: the refined loss, and the window of margins that it takes its noise from."""

from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.batch import SpaBatch
from pit_jax.masked import Mean
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.scoring import pair_logprobs
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.objectives.spa import Window, confidence_window, empty_window, refined_dpo_loss
from pit_jax.recipes.spa.reading import read_pairs
from pit_jax.recipes.spa.schedule import Phase
from pit_jax.training.step import Remembering

ANCHOR = "anchor"  # the frozen model beside the parameters that are trained


def make_loss(model: LanguageModel, phase: Phase) -> Remembering:
    """The refined loss (SPA Eqs. 9 to 12). A label is taken for noise where the margin of the model beyond the policy
    lies below the threshold of the margins before its update, over the whole mesh, which are that model's too.

    Of held-out pairs it is that of DPO: their labels are gold.
    """

    def loss(
        params: Params, batch: SpaBatch, key: jax.Array, extras: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, Mean], jax.Array]:
        policy, anchor, beyond = read_pairs(model, *parted(params), batch, strength=phase.strength)
        margins_B = phase.beta * ((beyond[0] - anchor[0]) - (beyond[1] - anchor[1]))
        window = Window(**extras["window"])
        _, threshold = confidence_window(window, margins_B, share=phase.noise_share)
        noisy_B = (margins_B < threshold) & (window.seen >= phase.pairs_before_noise)
        loss, metrics = refined_dpo_loss(
            *policy, *anchor, noisy_B.astype(jnp.float32), beta=phase.beta, alpha=phase.alpha
        )
        wrong = {"wrong": Mean.of(batch.wrong_B), "noisy/wrong": Mean.of(noisy_B & batch.wrong_B)}
        return loss, metrics | wrong, margins_B

    def remember(extras: dict[str, Any], margins_B: jax.Array) -> dict[str, Any]:
        window, _ = confidence_window(Window(**extras["window"]), margins_B, share=phase.noise_share)
        return {**extras, "window": vars(window)}

    def alone(params: Params, batch: SpaBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        policy, anchor = (pair_logprobs(model, part, batch) for part in parted(params))
        return dpo_loss(*policy, *anchor, beta=phase.beta)

    return Remembering(loss, remember, {"window": vars(empty_window(phase.window))}, alone)


def parted(params: Params) -> tuple[Params, Params]:
    """The policy's parameters and the anchor's."""
    return {name: part for name, part in params.items() if name != ANCHOR}, params[ANCHOR]
