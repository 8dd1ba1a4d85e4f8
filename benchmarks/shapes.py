"""Llama-like models that speed is measured with, a vocabulary of 8,192; and what this machine can do at most."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from benchmarks.results import parser_of
from pit_jax.architecture import TransformerConfig

VOCABULARY = 8192
SHAPES = {  # by millions of weights: width, layers, heads, feed-forward
    "1.8M": (128, 4, 4, 344),
    "10M": (320, 6, 5, 864),
    "40M": (640, 7, 10, 1728),
}
SIDE = 2048  # of the matrices whose product is the peak: 16 MiB each, 17 GFLOP


def shapes_parser(description: str | None, shapes: Sequence[str], times: int, turn: str) -> argparse.ArgumentParser:
    """The flags of a benchmark in turns over shapes: --shapes and --times, so many pairs of a `turn`, by default."""
    parser = parser_of(description)
    parser.add_argument("--shapes", nargs="+", default=list(shapes), choices=list(SHAPES))
    parser.add_argument("--times", type=int, default=times, help=f"pairs of {turn}")
    return parser


def shape_of(name: str) -> TransformerConfig:
    """One of SHAPES, its layers unrolled."""
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
    )


def seconds(work: Callable[[], object]) -> float:
    """Of one call, its arrays ready."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def peak_flops(times: int = 5) -> float:
    """Operations a second of the product of two large float32 matrices: the best that a step could do."""
    one = jnp.ones((SIDE, SIDE), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(one, one))
    return 2.0 * SIDE**3 / statistics.median(seconds(lambda: product(one, one)) for _ in range(times))


def limits(peak: float) -> dict[str, int | None]:
    """What is kept of the machine beside figures of speed: its threads, and its peak (operations a second)."""
    return {"threads": os.cpu_count(), "peak GFLOP/s": round(peak / 1e9)}
