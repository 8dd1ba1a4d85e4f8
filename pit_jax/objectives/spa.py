"""SPA (arXiv 2406.04412): DPO on labels of the model's own, the least confident of which are taken for noise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.objectives.dpo import smoothed_loss
from pit_jax.objectives.shapes import check


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """The margins of the last W pairs, oldest first, and how many pairs there were in all."""

    margins_W: jax.Array  # float32
    seen: jax.Array  # int32 scalar


def refined_dpo_loss(
    policy_chosen_B: jax.Array,
    policy_rejected_B: jax.Array,
    anchor_chosen_B: jax.Array,
    anchor_rejected_B: jax.Array,
    noisy_B: jax.Array,
    *,
    beta: float,
    alpha: float,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over pairs of the DPO loss with smoothed labels where a label may be wrong (SPA Eq. 10).

        L = - mean_b [ (1 - alpha z_b) log s(h_b) + alpha z_b log s(-h_b) ]

    with the margin h of `dpo_loss` and the sigmoid s: `dpo_loss` with label_smoothing=alpha on the pairs with z = 1,
    and with none on the others.

    By hand, h = 1 and -3, z = 0 and 1, alpha 0.1: softplus(-1) = 0.3133 and 0.9 softplus(3) + 0.1 softplus(-3) =
    0.9 * 3.0486 + 0.1 * 0.0486 = 2.7486; their mean is 1.5309.

    Args:
      policy_*, anchor_*: as in `dpo_loss`; SPA's anchor is the model of the iteration before.
      noisy_B: z, 1 (any floating dtype) for a pair whose label may be wrong, 0 for the others. No gradient flows here.
      beta: how hard the policy is held to the anchor, > 0.
      alpha: chance in [0, 0.5) that such a label is wrong.
    Returns:
      The loss and the metrics of `dpo_loss`, and `noisy`, the share of such pairs.
    Raises:
      ValueError: as `dpo_loss`, with alpha in the place of label_smoothing.
    """
    check(policy_chosen_B=policy_chosen_B, noisy_B=noisy_B)
    if not 0 <= alpha < 0.5:
        raise UserError(f"alpha={alpha}: pass a chance in [0, 0.5); at 0.5 labels say nothing")
    noisy_B = jax.lax.stop_gradient(noisy_B).astype(jnp.float32)
    pairs = (policy_chosen_B, policy_rejected_B, anchor_chosen_B, anchor_rejected_B)
    loss, metrics = smoothed_loss(*pairs, beta=beta, smoothing=alpha * noisy_B)
    return loss, {**metrics, "noisy": Mean.of(noisy_B)}


def empty_window(size: int) -> Window:
    """The window before the first pair."""
    return Window(jnp.zeros((size,), jnp.float32), jnp.zeros((), jnp.int32))


def confidence_window(window: Window, margins_B: jax.Array, *, share: float) -> tuple[Window, jax.Array]:
    """(the window behind these pairs, the margin below which the least confident of those before them lie).

    SPA Eq. 9: of the W pairs before these the `share` with the lowest margins lie below the threshold, which is
    halfway between the last of them and the next. It is -inf, below which nothing lies, until W pairs were seen, and
    where the share is less than one pair of W. (The authors' program takes the mean of the next two.)

    By hand, W = 4, margins 3, 1, 4, 2 and a share of 1/4: one of four lies below 1.5; behind two more pairs, 0 and 9,
    the window is 4, 2, 0, 9, and the threshold 1.

    Args:
      window: from `empty_window` or an earlier call.
      margins_B: of all pairs of an update, over the whole mesh, any floating dtype.
      share: K of the paper as a share, in [0, 1).
    """
    check(margins_B=margins_B, margins_W=window.margins_W)
    size, lowest = len(window.margins_W), int(share * len(window.margins_W))
    sorted_W = jnp.sort(window.margins_W)
    between = (sorted_W[lowest - 1] + sorted_W[lowest]) / 2
    threshold = jnp.where(window.seen >= size, between, -jnp.inf) if lowest else jnp.full((), -jnp.inf, jnp.float32)
    margins = jnp.concatenate([window.margins_W, jax.lax.stop_gradient(margins_B).astype(jnp.float32)])
    return Window(margins[-size:], window.seen + len(margins_B)), threshold


def extrapolated_logprobs(
    policy_logits_BTV: jax.Array, anchor_logits_BTV: jax.Array, targets_BT: jax.Array, *, strength: float
) -> jax.Array:
    """logprobs_BT, float32, of the targets under a model that was moved further from the anchor (SPA Eq. 12).

        softmax((1 + lambda) h_policy - lambda h_anchor)

    It stands for one trained with a KL term 1 + lambda times smaller, and judges labels in the policy's place, so that
    what the policy has learned of a wrong label does not confirm it. lambda = 0 is the policy itself.

    By hand, logits (ln 2, 0) and (0, 0), lambda = 1: (2 ln 2, 0), so that the first token has 4/5.

    Args:
      policy_logits_BTV, anchor_logits_BTV: any floating dtype; the maths is float32.
      targets_BT: token ids.
      strength: lambda, >= 0.
    """
    check(policy_logits_BTV=policy_logits_BTV, anchor_logits_BTV=anchor_logits_BTV, targets_BT=targets_BT)

    def mixed(policy: jax.Array, anchor: jax.Array) -> jax.Array:
        return (1 + strength) * policy.astype(jnp.float32) - strength * anchor.astype(jnp.float32)

    def picked_BT(logits_BTV: jax.Array) -> jax.Array:
        return jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]

    total_BT = jax.nn.logsumexp(mixed(policy_logits_BTV, anchor_logits_BTV), axis=-1)
    return mixed(picked_BT(policy_logits_BTV), picked_BT(anchor_logits_BTV)) - total_BT
