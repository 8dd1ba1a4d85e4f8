"""The transformer once more, plainly: NumPy, float64, one token at a time, no masks, no cache, no stacking tricks."""

import math
from typing import Any

import numpy as np

from pit_jax.config import TransformerConfig


def logits(params: Any, config: TransformerConfig, tokens: list[int]) -> np.ndarray:
    """[L, V] of one sequence without padding."""
    name = "embedding" if config.tied else "unembedding"
    output = np.asarray(params[name], np.float64)
    return hidden(params, config, tokens) @ (output.T if config.tied else output)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def answer_logprobs(
    params: Any, config: TransformerConfig, prompt: list[int], answer: list[int], *, temperature: float = 1.0
) -> np.ndarray:
    """log p of each token of `answer` behind `prompt`."""
    before = log_softmax(logits(params, config, [*prompt, *answer])[len(prompt) - 1 : -1] / temperature)
    return before[np.arange(len(answer)), answer]


def scalars(params: Any, config: TransformerConfig, tokens: list[int]) -> np.ndarray:
    """[L] of a scalar model."""
    return hidden(params["trunk"], config, tokens) @ np.asarray(params["head"]["kernel"], np.float64)


def hidden(params: Any, config: TransformerConfig, tokens: list[int]) -> np.ndarray:
    """[L, D] behind the last norm."""
    embedding = np.asarray(params["embedding"], np.float64)
    stream = [embedding[token] * math.sqrt(config.width) for token in tokens]
    for layer in range(config.layers):
        block = layer_weights(params["blocks"], layer)
        normed = [rms_norm(x, block["attention_norm"]["scale"], config.norm_eps) for x in stream]
        mixed = attention(normed, block["attention"], config)
        stream = [x + y for x, y in zip(stream, mixed, strict=True)]
        normed = [rms_norm(x, block["ffn_norm"]["scale"], config.norm_eps) for x in stream]
        stream = [x + feed_forward(y, block["ffn"], config) for x, y in zip(stream, normed, strict=True)]
    final = np.asarray(params["final_norm"]["scale"], np.float64)
    return np.stack([rms_norm(x, final, config.norm_eps) for x in stream])


def layer_weights(blocks: Any, layer: int) -> Any:
    if isinstance(blocks, dict):
        return {name: layer_weights(inner, layer) for name, inner in blocks.items()}
    return np.asarray(blocks, np.float64)[layer]


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / math.sqrt(float(np.mean(x * x)) + eps) * scale


def rotate(x: np.ndarray, position: int, theta: float) -> np.ndarray:
    """Pair i is (x[i], x[i + H/2]), turned by position * theta^(-2i/H)."""
    half = len(x) // 2
    turned = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        turned[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        turned[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
    return turned


def attention(stream: list[np.ndarray], weights: Any, config: TransformerConfig) -> list[np.ndarray]:
    """Query head n reads key/value head n // (N / K); softmax over the tokens up to its own."""
    group = config.query_heads // config.kv_heads
    outputs = [np.zeros(config.width) for _ in stream]
    for head in range(config.query_heads):
        shared = head // group
        keys = [rotate(x @ weights["key"][:, shared], j, config.rope_theta) for j, x in enumerate(stream)]
        values = [x @ weights["value"][:, shared] for x in stream]
        for i, x in enumerate(stream):
            query = rotate(x @ weights["query"][:, head], i, config.rope_theta)
            scores = np.array([query @ key / math.sqrt(config.head_size) for key in keys[: i + 1]])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            mixed = sum(share * value for share, value in zip(shares, values, strict=False))
            outputs[i] = outputs[i] + mixed @ weights["out"][head]
    return outputs


def feed_forward(x: np.ndarray, weights: Any, config: TransformerConfig) -> np.ndarray:
    gate = x @ weights["gate"]
    if config.activation == "swiglu":
        gate = gate / (1 + np.exp(-gate))
    else:  # the tanh form of gelu
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gate * (x @ weights["up"])) @ weights["down"]
