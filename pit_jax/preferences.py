"""Knobs of an optimizer, and of learning from pairs without a reward model; part of config.py."""

from dataclasses import dataclass, field
from typing import Literal

from pit_jax import ranges


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: ranges.NotNegative = 1e-3
    """Peak learning rate; 0 = by width and batch (recipes/choices.py)."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Shape after warm-up."""
    warmup: ranges.Share = 0.05
    """Share of the updates spent warming up from 0."""
    final: ranges.Share = 0.1
    """Learning rate at the end, as a share of the peak."""
    weight_decay: ranges.NotNegative = 0.01
    """Decoupled decay of matrices; never of norms, biases or heads."""
    beta1: ranges.ShareBelowOne = 0.9
    """Adam beta1."""
    beta2: ranges.ShareBelowOne = 0.98
    """Adam beta2."""
    eps: ranges.Positive = 1e-8
    """Adam epsilon, inside the bias-corrected form."""
    clip_norm: ranges.Limit = 1.0
    """Largest global gradient norm."""


@dataclass(frozen=True)
class DpoConfig:
    steps: ranges.CountOrNone = 500
    """Updates of the DPO policy, a baseline; it starts from the policy's SFT. 0 = epochs."""
    epochs: ranges.Positive = 1.0
    """Passes over its fold, where its updates are not given."""
    batch_size: ranges.Count = 32
    """Pairs per update."""
    accumulate: ranges.Count = 1
    """Micro-batches per update."""
    beta: ranges.Positive = 0.1
    """How hard the policy is held to its SFT."""
    label_smoothing: ranges.ShareBelowHalf = 0.0
    """Chance that a label is wrong (conservative DPO), below 0.5."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-4, schedule="linear", warmup=0.1, weight_decay=0.0)
    )


@dataclass(frozen=True)
class SpaConfig:
    """Of SPA (arXiv 2406.04412); a default is the paper's unless its help says otherwise."""

    gold_share: ranges.ShareBetween = 0.033
    """Share of the prompts of the fold `rm`, by their hash, whose labels are used; of the others the prompts alone."""
    slices: ranges.Rates = (8.0, 20.0, 30.0)
    """Sizes, one against the other, of the slices that the other prompts are cut into, an iteration each."""
    seed_epochs: ranges.CountOrNone = 0
    """Passes of DPO over the gold pairs; 0 = 3 where there are fewer than 2,000 of them, else 1."""
    epochs: ranges.Count = 1
    """Passes over the pairs of an iteration."""
    samples: ranges.CountOfPair = 2
    """Answers drawn for each prompt; the best and the worst of them make its pair."""
    temperature: ranges.Positive = 0.7
    """Temperature that they are drawn at."""
    labels: ranges.Name = "sft"
    """What calls an answer better, of the model in training: its log-ratio to `sft` or to the model of the iteration
    before, `previous`; its `likelihood` alone; or the score of the `reward` model, which has seen all labels."""
    beta: ranges.Positive = 0.1
    """How hard a model is held to that of the iteration before."""
    beta_decay: ranges.ShareAboveNone = 1.0
    """What beta is multiplied by from one iteration to the next; ours, the paper has one beta."""
    rate_decay: ranges.ShareAboveNone = 1.0
    """What the learning rate is multiplied by from one training to the next; ours, the paper has one rate."""
    alpha: ranges.ShareBelowHalf = 0.1
    """Smoothing of the labels that are taken for noise."""
    noise_share: ranges.ShareBelowOne = 0.1
    """Share of the latest margins, the lowest, that such a pair lies among; 0 = no label is smoothed."""
    window: ranges.Count = 50
    """How many margins are the latest."""
    noise_after: ranges.Share = 0.2
    """Share of the updates of an iteration before the first label is smoothed."""
    strengths: ranges.NotNegatives = (0.5, 0.25, 0.125)
    """lambda of each iteration: how far noise is looked for beyond the model in training, away from the one before."""
    batch_size: ranges.Count = 32
    """Pairs per update."""
    accumulate: ranges.Count = 1
    """Micro-batches per update."""
    ablations: tuple[str, ...] = (
        "without-refinement",
        "without-decoupling",
        "judged-by-previous",
        "judged-by-likelihood",
        "judged-by-reward",
    )
    """Runs that branch off this one for --stage=spa-tables (recipes/spa/ablations.py)."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=5e-7, schedule="cosine", warmup=0.1, final=0.0, weight_decay=0.0, beta2=0.999
        )
    )
