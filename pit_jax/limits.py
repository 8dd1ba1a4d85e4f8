"""Knobs that limit what is trusted (gates of the gap model, monitors of RL); part of config.py."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GatesConfig:
    max_length_bias: float = 0.5
    """Gate `length`: most that accuracy may differ between pairs whose chosen answer is longer and shorter."""
    max_length_correlation: float = 0.8
    """Gate `length-correlation`: most |correlation| of the symmetrised gap with the difference in tokens."""
    min_accuracy: float = 0.6
    """Gate `accuracy`: least share of pairs with wl > lw; gate `direction`: that of the opposite gap stays below it."""
    min_share: float = 0.2
    """Gates `reference` and `candidate`: least share of the spread wl - lw that each of the two texts moves."""
    max_asymmetry: float = 0.8
    """Gate `antisymmetry`: most |r(a|b) + r(b|a)|, centred, as a share of the spread |wl - lw|."""
    min_weakest: float = 0.55
    """Gate `weakest`: least of the five pairwise accuracies."""
    max_calibration_error: float = 0.2
    """Gate `calibration`: most expected calibration error of sigmoid((wl - lw) / 2)."""


@dataclass(frozen=True)
class MonitorsConfig:
    action: Literal["stop", "warn"] = "stop"
    """A monitor over its limit at a held-out evaluation ends the stage and keeps a checkpoint from before it, or only
    says so."""
    max_step_kl: float = 0.05
    """Monitor `step`: most approximate KL to the sampler that the updates of a round may average."""
    max_kl: float = 10.0
    """Monitor `kl`: most KL per response, in nats."""
    min_entropy: float = 0.3
    """Monitor `entropy`: least entropy per token, as a share of that of the first evaluation."""
    max_repetition: float = 0.05
    """Monitor `repetition`: most that the share of repeated 3-grams may rise over that of the first evaluation."""
    max_second_gap_fall: float = 0.15
    """Monitor `second-gap`: most that the second gap may fall below its best while the gap rises; needs
    rm.second_gap_steps."""
    max_disagreement: float = 1.3
    """Monitor `disagreement`: most mean |gap - second gap|, as a multiple of that of the first evaluation."""
    worst_case: bool = False
    """RL maximises the lower of the gap and the second gap; the second gap model is then no longer an outsider."""
