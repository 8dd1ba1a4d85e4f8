"""What this machine can do at most, measured: operations of matrix products and bytes of memory, a second."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

CPU_SIDE, OTHER_SIDE = 2048, 8192  # of the matrices of the product: 17 GFLOP and 1.1 TFLOP, milliseconds of either
TURNED = 2**28  # float32s that are read and written where they lie: 1 GiB, more than any cache holds
REPEATED = 8  # calls behind each other, so that a GPU is not waiting for the next one


def seconds(work: Callable[[], object]) -> float:
    """Of one call, its arrays ready."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


@dataclass(frozen=True)
class Limits:
    flops: float  # a second, of the product of two large matrices
    bytes: float  # a second, read or written

    @staticmethod
    def measured(dtype: str, times: int = 5) -> "Limits":
        """Medians, of products in `dtype`."""
        side = CPU_SIDE if jax.default_backend() == "cpu" else OTHER_SIDE
        one, many = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype), jnp.zeros(TURNED, jnp.float32)
        product, turned = jax.jit(jnp.matmul), jax.jit(jnp.negative, donate_argnums=0)

        def multiplied() -> list[jax.Array]:
            return [product(one, one) for _ in range(REPEATED)]

        def moved() -> jax.Array:
            nonlocal many
            for _ in range(REPEATED):
                many = turned(many)
            return many

        def rate(work: Callable[[], object], amount: float) -> float:
            return REPEATED * amount / statistics.median([seconds(work) for _ in range(1 + times)][1:])

        return Limits(rate(multiplied, 2.0 * side**3), rate(moved, 2.0 * many.nbytes))

    def floor(self, flops: float, moved: float = 0.0) -> float:
        """Seconds that so many operations or bytes take at least, whichever takes longer."""
        return max(flops / self.flops, moved / self.bytes)

    def kept(self) -> dict[str, float | None]:
        """What is written down of the machine beside figures of speed."""
        return {
            "threads": os.cpu_count(),
            "peak GFLOP/s": round(self.flops / 1e9),
            "peak GB/s": round(self.bytes / 1e9, 1),
        }
