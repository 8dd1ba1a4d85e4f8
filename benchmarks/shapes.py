"""Llama-like models that speed is measured with, a vocabulary of 8,192."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax

from benchmarks.peers import Peer
from benchmarks.results import parser_of
from pit_jax.architecture import TransformerConfig

VOCABULARY = 8192
SHAPES = {  # by their weights: width, layers, heads, feed-forward
    "1.8M": (128, 4, 4, 344),
    "10M": (320, 6, 5, 864),
    "40M": (640, 7, 10, 1728),
    "0.5B": (1536, 17, 12, 4096),
    "1B": (2048, 20, 16, 5632),
}


def shapes_parser(description: str | None, shapes: Sequence[str], times: int, turn: str) -> argparse.ArgumentParser:
    """The flags of a benchmark in turns over shapes: --shapes, --dtype, and --times, so many pairs of a `turn`."""
    parser = parser_of(description)
    parser.add_argument("--shapes", nargs="+", default=list(shapes), choices=list(SHAPES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of activations")
    parser.add_argument("--times", type=int, default=times, help=f"pairs of {turn}")
    return parser


def shape_of(name: str, dtype: Literal["float32", "bfloat16"]) -> TransformerConfig:
    """One of SHAPES that computes in `dtype`, its layers unrolled."""
    width, layers, heads, ffn = SHAPES[name]
    return TransformerConfig(
        width=width,
        layers=layers,
        query_heads=heads,
        kv_heads=heads,
        head_size=width // heads,
        ffn=ffn,
        embedding_scale=False,
        unroll=layers,
        dtype=dtype,
    )


def peer_job(work: str, shape: TransformerConfig, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """What a peer is told: a shape in the words of transformers' LlamaConfig, as many threads as here, and the GPU
    where this process has one."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    config = {
        "vocab_size": vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
    }
    return {"work": work, "dtype": shape.dtype, "device": device, "threads": os.cpu_count(), "config": config}


def torch_peer(work: str, shape: TransformerConfig, vocabulary: int = VOCABULARY, **sizes: Any) -> Peer:
    """torch and transformers."""
    return Peer("torch_peer", {**peer_job(work, shape, vocabulary), **sizes})
