"""Supervised fine-tuning: next-token cross-entropy over the tokens that count."""

import jax
import jax.numpy as jnp

from pit_jax.masked import Mean, fill, masked_mean
from pit_jax.objectives.shapes import check


def token_loss(logits_BTV: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over counting tokens of -log softmax(logits)[target], in nats.

        L = - sum_bt m_bt (z_bt[y_bt] - logsumexp_v z_bt[v]) / sum_bt m_bt       (PIT section 2.2; arXiv 2310.00898)

    Args:
      logits_BTV: scores of the next token, any floating dtype; the maths is float32.
      targets_BT: the next token, integers.
      mask_BT: True where a target counts.
    Returns:
      The loss (0 when nothing counts) and metrics `loss`, `mean_token_accuracy` (target is the argmax).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    check(logits_BTV=logits_BTV, targets_BT=targets_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    logits_BTV = fill(logits_BTV, mask_BT[:, :, None]).astype(jnp.float32)
    targets_BT = fill(targets_BT, mask_BT)
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[:, :, None], axis=-1)[:, :, 0]
    nll_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT
    correct_BT = jnp.argmax(logits_BTV, axis=-1).astype(targets_BT.dtype) == targets_BT
    metrics = {"loss": Mean.of(nll_BT, mask_BT), "mean_token_accuracy": Mean.of(correct_BT, mask_BT)}
    return masked_mean(nll_BT, mask_BT), metrics
