"""Knobs that limit what is trusted (gates of the gap model, monitors of RL); part of config.py."""

from dataclasses import dataclass
from typing import Literal

from pit_jax.ranges import Limit, LimitOfMultiple, Share, ShareBelowOne, ShareDifference


@dataclass(frozen=True)
class GatesConfig:
    max_length_bias: Limit = 0.5
    """Gate `length`: most that accuracy may differ between pairs whose chosen answer is longer and shorter."""
    max_length_correlation: Limit = 0.8
    """Gate `length-correlation`: most |correlation| of the symmetrised gap with the difference in tokens."""
    min_accuracy: Share = 0.6
    """Gate `accuracy`: least share of pairs with wl > lw; gate `direction`: that of the opposite gap stays below it."""
    min_share: Share = 0.2
    """Gates `reference` and `candidate`: least share of the spread wl - lw that each of the two texts moves."""
    max_asymmetry: Limit = 0.8
    """Gate `antisymmetry`: most |r(a|b) + r(b|a)|, centred, as a share of the spread |wl - lw|."""
    min_weakest: Share = 0.55
    """Gate `weakest`: least of the five pairwise accuracies."""
    max_calibration_error: Limit = 0.2
    """Gate `calibration`: most expected calibration error of sigmoid((wl - lw) / 2)."""
    min_longest: ShareDifference = -0.2
    """Gate `longest`: least lose - win, as shares of held-out prompts, of the chosen answer with its longest sentence
    said twice against itself. At -0.2 it wins 60 to 40, what `accuracy` asks of a taste that was learned, and further
    from even than noise on a hundred prompts; -1 asks for nothing, here and below."""
    min_empty: ShareDifference = 0.5
    """Gate `empty`: least lose - win of an empty answer against the chosen one; 0.5 is 75 to 25."""
    min_another: ShareDifference = 0.2
    """Gate `another`: least lose - win of the chosen answer of another prompt. Who ignores prompts has 0."""
    min_cut: ShareDifference = 0.2
    """Gate `cut`: least lose - win of the chosen answer without the last quarter of its words."""


@dataclass(frozen=True)
class MonitorsConfig:
    action: Literal["stop", "warn"] = "stop"
    """A monitor over its limit at a held-out evaluation ends the stage and keeps a checkpoint from before it, or only
    says so."""
    max_step_kl: Limit = 0.05
    """Monitor `step`: most approximate KL to the sampler that the updates of a round may average."""
    max_kl: Limit = 10.0
    """Monitor `kl`: most KL per response, in nats."""
    min_entropy: ShareBelowOne = 0.3
    """Monitor `entropy`: least entropy per token, as a share of that of the first evaluation."""
    max_repetition: Limit = 0.05
    """Monitor `repetition`: most that the share of repeated 3-grams may rise over that of the first evaluation."""
    max_second_gap_fall: Limit = 0.15
    """Monitor `second-gap`: most that the second gap may fall below its best while the gap rises; needs
    rm.second_gap_steps."""
    max_disagreement: LimitOfMultiple = 1.3
    """Monitor `disagreement`: most mean |gap - second gap|, as a multiple of that of the first evaluation."""
    worst_case: bool = False
    """RL maximises the lower of the gap and the second gap; the second gap model is then no longer an outsider."""
