"""Supervised fine-tuning: next-token cross-entropy over the tokens that count."""

import jax
import jax.numpy as jnp

from pit_jax.masked import Mean, fill, masked_mean
from pit_jax.objectives.shapes import check


def token_loss(
    logprobs_BT: jax.Array, mask_correct_BT: jax.Array, mask_BT: jax.Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over counting tokens of minus the log-prob of the target, in nats.

        L = - sum_bt m_bt log p_bt(y_bt) / sum_bt m_bt                           (PIT section 2.2; arXiv 2310.00898)

    Args:
      logprobs_BT: of the next token, any floating dtype; the maths is float32.
      mask_correct_BT: True where the next token is the likeliest one.
      mask_BT: True where a target counts.
    Returns:
      The loss (0 when nothing counts) and metrics `loss`, `mean_token_accuracy` (the share that is correct).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    check(logprobs_BT=logprobs_BT, mask_correct_BT=mask_correct_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    nll_BT = -fill(logprobs_BT.astype(jnp.float32), mask_BT)
    metrics = {"loss": Mean.of(nll_BT, mask_BT), "mean_token_accuracy": Mean.of(mask_correct_BT.astype(bool), mask_BT)}
    return masked_mean(nll_BT, mask_BT), metrics
