"""Flash attention of cuDNN (jax.nn.dot_product_attention), of whole rows of one sequence each, on NVIDIA's GPUs."""

import re

import jax
import jax.numpy as jnp

LARGEST_HEAD = 128
OLDEST = 8.0  # compute capability (Ampere)


def cudnn_refusal(platform: str, dtype: str, head_size: int, cap: float) -> str:
    """Why cuDNN cannot be had, or nothing."""
    if platform != "gpu" or capability() < OLDEST:
        return f"cuDNN's flash attention runs on NVIDIA GPUs of compute capability {OLDEST} and above, found {platform}"
    if dtype != "bfloat16":
        return f"cuDNN's flash attention computes in bfloat16, found --transformer.dtype={dtype}"
    if head_size % 8 or head_size > LARGEST_HEAD:
        return f"cuDNN's flash attention takes heads of a multiple of 8 up to {LARGEST_HEAD}, found {head_size}"
    if cap:
        return f"cuDNN's flash attention caps no scores, found attention_softcap={cap}"
    return ""


def capability() -> float:
    """The compute capability of the local GPUs; 0 where they are another maker's."""
    found = getattr(jax.local_devices()[0], "compute_capability", "")
    return float(found) if re.fullmatch(r"\d+\.\d+", found) else 0.0


def mixed_by_cudnn(
    query_BLNH: jax.Array, key_BLKH: jax.Array, value_BLKH: jax.Array, segments_BL: jax.Array, *, window: int = 0
) -> jax.Array:
    """mixed_BLNH: `mixed_dense` without a cap, where every row is one sequence and padding (segment 0).

    Tokens are moved to the left end of their row, so that causality alone hides padding from them: cuDNN needs neither
    a mask, which would be [B, L, L], nor lengths. A window (0 = none) is counted in slots of what was moved. An odd
    length, which cuDNN's backward pass refuses, gets one slot more.
    """
    order_BL = jnp.argsort(segments_BL == 0, axis=1, stable=True)
    back_BL = jnp.argsort(order_BL, axis=1)
    odd = order_BL.shape[1] % 2

    def packed(x_BLNH: jax.Array) -> jax.Array:
        return jnp.pad(_moved(x_BLNH, order_BL, back_BL), ((0, 0), (0, odd), (0, 0), (0, 0)))

    mixed_BLNH = jax.nn.dot_product_attention(
        packed(query_BLNH),
        packed(key_BLKH),
        packed(value_BLKH),
        scale=1.0,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )
    return _moved(mixed_BLNH[:, : order_BL.shape[1]], back_BL, order_BL)


@jax.custom_vjp
def _moved(x_BLNH: jax.Array, order_BL: jax.Array, back_BL: jax.Array) -> jax.Array:
    """The slots of every row in an order, of which `back` is the inverse.

    Its own gradient takes slots by their places too. That of a plain take adds up what it is given, slot by slot, since
    it cannot know that none is met twice.
    """
    return jnp.take_along_axis(x_BLNH, order_BL[:, :, None, None], axis=1)


def _moved_forward(
    x_BLNH: jax.Array, order_BL: jax.Array, back_BL: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _moved(x_BLNH, order_BL, back_BL), (order_BL, back_BL)


def _moved_backward(places: tuple[jax.Array, jax.Array], slope_BLNH: jax.Array) -> tuple[jax.Array, None, None]:
    order_BL, back_BL = places
    return _moved(slope_BLNH, back_BL, order_BL), None, None


_moved.defvjp(_moved_forward, _moved_backward)
