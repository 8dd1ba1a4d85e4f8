"""The gap reward model of PIT: how much better a candidate is than a reference."""

import jax
import jax.numpy as jnp

from pit_jax.masked import Mean
from pit_jax.objectives.logistic import smoothed_losses
from pit_jax.objectives.shapes import check

# (better, worse) of the five comparisons; each name is candidate then reference. ww against ll is left free.
COMPARISONS = (("wl", "ww"), ("wl", "ll"), ("wl", "lw"), ("ww", "lw"), ("ll", "lw"))


def gap_loss(
    wl_B: jax.Array, ww_B: jax.Array, ll_B: jax.Array, lw_B: jax.Array, *, label_smoothing: float = 0.0
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over pairs of the sum of five logistic terms (PIT Eq. 2, arXiv 2310.00898).

        L = - mean_b [ log s(wl - ww) + log s(wl - ll) + log s(wl - lw) + log s(ww - lw) + log s(ll - lw) ]

    with s the sigmoid and ab = r(x, y_a, y_b), the gap of candidate a over reference b (w chosen, l rejected).
    It asks for the order wl >= ww ~ ll >= lw (Eq. 1). With label_smoothing = e every log s(d) becomes
    (1 - e) log s(d) + e log s(-d): a label that is wrong with chance e has all five the other way round.

    Args:
      wl_B, ww_B, ll_B, lw_B: the four gaps of a pair, any floating dtype; the maths is float32.
      label_smoothing: e, in [0, 0.5); 0 is the paper's.
    Returns:
      The loss and metrics `loss`, `gap/acc_AB_CD` (share of pairs with AB > CD, five of them), `gap/mean_AB` (four).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    gaps, differences = _compared(wl_B, ww_B, ll_B, lw_B)
    terms = (smoothed_losses(d_B, label_smoothing) for d_B in differences.values())
    losses_B = sum(terms, jnp.zeros(wl_B.shape, jnp.float32))
    return jnp.mean(losses_B), _metrics(losses_B, gaps, differences)


def pair_gap_loss(
    wl_B: jax.Array, ww_B: jax.Array, ll_B: jax.Array, lw_B: jax.Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """The third of the five terms alone: L = - mean_b log s(wl - lw).

    The ablation of `gap_loss` that its paper argues against: a model may ignore the reference and still reach the
    minimum, so ww and ll stay free. Arguments, metrics and errors are those of `gap_loss`.
    """
    gaps, differences = _compared(wl_B, ww_B, ll_B, lw_B)
    losses_B = jax.nn.softplus(-differences["wl_lw"])
    return jnp.mean(losses_B), _metrics(losses_B, gaps, differences)


def _compared(
    wl_B: jax.Array, ww_B: jax.Array, ll_B: jax.Array, lw_B: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The gaps in float32, and the difference of each of COMPARISONS."""
    check(wl_B=wl_B, ww_B=ww_B, ll_B=ll_B, lw_B=lw_B)
    gaps = {name: x_B.astype(jnp.float32) for name, x_B in (("wl", wl_B), ("ww", ww_B), ("ll", ll_B), ("lw", lw_B))}
    return gaps, {f"{a}_{b}": gaps[a] - gaps[b] for a, b in COMPARISONS}


def _metrics(losses_B: jax.Array, gaps: dict[str, jax.Array], differences: dict[str, jax.Array]) -> dict[str, Mean]:
    metrics = {"loss": Mean.of(losses_B)}
    metrics |= {f"gap/acc_{name}": Mean.of(d_B > 0) for name, d_B in differences.items()}
    return metrics | {f"gap/mean_{name}": Mean.of(x_B) for name, x_B in gaps.items()}
