"""Knobs of the one decoder-only transformer. Part of config.py; model/pretrained fills them from a checkpoint."""

from dataclasses import dataclass
from typing import Literal

from pit_jax.ranges import Count, CountOrNone, Divisors, Finite, NotNegative, Positive, ShareAboveNone


@dataclass(frozen=True)
class AdapterConfig:
    rank: CountOrNone = 0
    """Rank of low-rank adapters (LoRA) that are trained in place of the weights; 0 = train the weights."""
    alpha: Positive = 16.0
    """An adapter's update counts alpha / rank times."""
    targets: tuple[str, ...] = ("query", "key", "value", "out", "gate", "up", "down")
    """Matrices of a layer that have adapters; a family without a gate has none there, and experts have none."""
    full: tuple[str, ...] = ()
    """What is trained in full all the same: sft-policy, rm-improver, rl-policy and so on, or value."""


@dataclass(frozen=True)
class TransformerConfig:
    width: Count = 64
    """Residual width D."""
    layers: Count = 2
    """Number of stacked blocks U."""
    query_heads: Count = 4
    """Query heads N."""
    kv_heads: Count = 4
    """Key/value heads K; must divide query_heads."""
    head_size: Count = 16
    """Head size H."""
    ffn: Count = 192
    """Feed-forward width F."""
    experts: CountOrNone = 0
    """Feed-forwards of a layer, each of width ffn, of which a token takes some; 0 = one, which all take."""
    experts_per_token: CountOrNone = 0
    """How many experts a token takes: those to which its router gives most weight."""
    experts_renormed: bool = False
    """The weights of a token's experts add up to 1; else they are shares of the softmax over all experts."""
    activation: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    """Feed-forward with a silu or gelu (tanh) gate, or with gelu (erf) and no gate."""
    tied: bool = True
    """Share the embedding with the output projection."""
    vocab_rows: CountOrNone = 0
    """Least rows of the embedding; 0 = as many as the tokenizer has ids."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary position frequencies."""
    rope_share: ShareAboveNone = 1.0
    """Share of every head that is rotated, from its first component on."""
    rope_layers: tuple[bool, ...] = ()
    """Which layers rotate queries and keys; empty = all of them."""
    rope_scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"
    """Frequencies as they are, all divided by rope_factor, the slow ones alone, in two ways (Llama 3.1, YaRN), or each
    divided by its own of rope_divisors."""
    rope_divisors: Divisors = ()
    """longrope: what each frequency is divided by, in rows of at most rope_length slots; there are no others."""
    rope_factor: Positive = 1.0
    """How much longer rows are than those of pre-training."""
    rope_low: NotNegative = 1.0
    """llama3, yarn: frequencies with fewer turns than this in rope_length are divided by rope_factor."""
    rope_high: NotNegative = 4.0
    """llama3, yarn: frequencies with more turns than this in rope_length stay; between the two they are blended."""
    rope_length: Count = 8192
    """llama3, yarn, longrope: longest row of pre-training."""
    rope_whole: bool = True
    """yarn: the blend reaches from one component to another; else from the very numbers of turns."""
    rope_gain: Positive = 1.0
    """Rotated components of queries and keys are this many times as large (attention factor of yarn and longrope)."""
    query_growth: NotNegative = 0.0
    """Queries times 1 + query_growth log(1 + floor(position / rope_length))."""
    window: CountOrNone = 0
    """Tokens that a layer of `windowed` sees, its own included; 0 = no such layer."""
    windowed: tuple[bool, ...] = ()
    """Which layers see `window` tokens; empty = all of them, where there is a window."""
    window_rope_theta: NotNegative = 0.0
    """Base of the frequencies of those layers, which are not scaled; 0 = as in the others."""
    qkv_bias: bool = False
    """A bias on query, key and value."""
    out_bias: bool = False
    """A bias on the output of attention."""
    ffn_bias: bool = False
    """A bias on the matrices of the feed-forward."""
    qk_norm: bool = False
    """RMSNorm of queries and keys."""
    qk_norm_over: Literal["head", "layer"] = "head"
    """What qk_norm makes alike: every head, or all heads of a layer together."""
    attention_scale: NotNegative = 0.0
    """Factor of query times key; 0 = head_size ** -0.5."""
    attention: Literal["auto", "dense", "chunks", "splash", "cudnn"] = "auto"
    """How whole rows attend: with one mask; a chunk of queries after the other, in less memory; with the flash
    attention of TPUs or of cuDNN. auto = the last two where the devices, the model and the rows are such that they can,
    else chunks for long rows. A gap tree, which neither kernel can express, is mixed node by node, or in chunks. With
    auto or cudnn a step of decoding on one GPU reads its cache by a kernel of its own."""
    attention_softcap: NotNegative = 0.0
    """Scores c tanh(scores / c) before the softmax; 0 = as they are."""
    logit_softcap: NotNegative = 0.0
    """Logits c tanh(logits / c); 0 = as they are."""
    logit_divisor: Positive = 1.0
    """Logits divided by this, behind the cap."""
    embedding_scale: bool = True
    """Embeddings times sqrt(width)."""
    embedding_factor: Positive = 1.0
    """Embeddings times this."""
    residual_factor: Positive = 1.0
    """What attention and feed-forward add to the residual stream, times this."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with a bias."""
    norm_offset: Finite = 0.0
    """Added to the weights of every RMSNorm; 1 in Gemma."""
    norm_eps: NotNegative = 1e-6
    """Epsilon of the norms."""
    pre_norms: bool = True
    """Norms before attention and feed-forward."""
    post_norms: bool = False
    """Norms behind attention and feed-forward."""
    parallel: bool = False
    """Attention and feed-forward of a layer read the same input."""
    pooled_head: bool = False
    """Scalar heads add a causal sum over all tokens to the last token's scalar; helps shallow models."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; trained parameters, softmax, norms and logits stay float32."""
    params_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the matrices that an update takes its gradients at; float32 ones behind them take the optimizer's step,
    and are what a checkpoint holds."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the matrices of frozen models: the weights under adapters; in RL anchor, reward models and samplers."""
    # 256 MiB are 256 slots of a vocabulary of 256k: enough rows for a matrix product to be bound by compute on a v5e
    # (240 operations a byte), and a few such arrays at a time still fit beside the model in its 16 GB.
    logits_bytes: Count = 2**28
    """Most bytes of float32 logits that a device holds at a time in training and scoring, about: with more, log-probs
    are made of a few slots of every row at a time. At least one slot of every row is."""
    unroll: Count = 1
    """Blocks unrolled per scan step; a CPU or a GPU is faster with all of them unrolled, and compiles them longer."""
    remat: Literal["none", "full", "dots", "offload"] = "none"
    """What of a block is computed again in the backward pass: nothing; all of it; all but the products of activations
    and weights; or the same, with those products waiting in the host's memory."""
