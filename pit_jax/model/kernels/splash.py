"""Splash attention, the flash attention of TPUs (jax.experimental.pallas.ops.tpu.splash_attention), of whole rows.

The kernel holds a block of scores at a time, skips the blocks that causality or a window hides, and has a backward
pass of its own: no array is [B, L, L] in either. It scales nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 128  # lanes of a vector register: what the kernel's blocks are multiples of
LARGEST_BLOCK = 512  # its scores are one of the 16 MiB and more of fast memory that a core has
HEAD_SIZES = (16, 64, 80, 96, 128, 256)  # that were seen to compile, forwards and backwards, for v5e


def splash_refusal(platform: str, head_size: int) -> str:
    """Why the kernel cannot be had, or nothing."""
    if platform != "tpu":
        return f"this kernel runs on TPUs, found {platform}"
    if head_size not in HEAD_SIZES:
        return f"this kernel takes heads of {', '.join(map(str, HEAD_SIZES))}, found {head_size}"
    return ""


def block_of(length: int) -> int:
    """The largest block that pads a row by less than an eighth more than the smallest one does."""
    least = _padded(length, BLOCK)
    block = LARGEST_BLOCK
    while 8 * _padded(length, block) > 9 * least:
        block //= 2
    return block


def mixed_by_splash(
    query_BLNH: jax.Array,
    key_BLKH: jax.Array,
    value_BLKH: jax.Array,
    segments_BL: jax.Array,
    *,
    cap: float,
    window: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """mixed_BLNH: `mixed_dense` of rows of sequences, of this device's rows and heads alone.

    Padding is segment 0, which sees itself: what it mixes is nobody's, but a number. A window (0 = none) is counted in
    slots, so the tokens of a sequence must stand side by side. `interpret` runs the kernel on any device, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = query_BLNH.shape[1:3]
    block = block_of(length)
    padded = _padded(length, block)

    def blocks(x_BLNH: jax.Array) -> jax.Array:
        return jnp.pad(x_BLNH, ((0, 0), (0, padded - length), (0, 0), (0, 0))).swapaxes(1, 2)

    shape = padded, padded
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    attend: Any = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=cap or None,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments_BL = jnp.pad(segments_BL, ((0, 0), (0, padded - length)))

    def one_row(query_NLH: jax.Array, key_KLH: jax.Array, value_KLH: jax.Array, segments_L: jax.Array) -> jax.Array:
        mixed_NLH: jax.Array = attend(query_NLH, key_KLH, value_KLH, kernel.SegmentIds(segments_L, segments_L))
        return mixed_NLH

    mixed_BNLH = jax.vmap(one_row)(blocks(query_BLNH), blocks(key_BLKH), blocks(value_BLKH), segments_BL)
    return mixed_BNLH.swapaxes(1, 2)[:, :length]


def _padded(length: int, block: int) -> int:
    return -(-length // block) * block
