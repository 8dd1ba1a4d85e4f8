"""Tokens drawn a second against transformers' generate, in turns, on the same processors.

    python -m benchmarks.sampling_rate [--shapes 1.8M 10M] [--times 5]
    python -m benchmarks.sampling_rate --shapes 1B --dtype bfloat16 --prompt 256 --tokens 256   # on a GPU

64 prompts of 64 tokens, 96 more each at temperature 1, no end. Beside the ratio stands the floor: the matrix products,
or the bytes of weights, keys and values that the steps have to read, at the rates of this machine.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.limits import Limits, seconds
from benchmarks.peers import Turns, table_of
from benchmarks.results import keep
from benchmarks.shapes import VOCABULARY, shape_of, shapes_parser, torch_peer
from pit_jax.architecture import TransformerConfig
from pit_jax.batch import DecodeSpec
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel
from pit_jax.parallel.host_memory import keep_freed_memory


def bytes_read(model: LanguageModel, weights: Any, rows: int, prompt: int, tokens: int) -> float:
    """By `tokens` steps: all weights, and the keys and values of what each row has read so far."""
    config = model.config
    matrices = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    token = 2 * config.layers * config.kv_heads * config.head_size * jnp.dtype(config.dtype).itemsize
    return tokens * (matrices + rows * token * (prompt + (tokens + 1) / 2))


def draws(
    shape: TransformerConfig, vocabulary: int, rows: int, prompt: int, tokens: int
) -> tuple[Callable[[], float], float, float]:
    """(seconds of a draw behind so many prompts, its operations, the bytes that it reads)."""
    model = LanguageModel(shape, vocabulary)
    engine = Engine(model, DecodeSpec(tokens, eos_id=-1, pad_id=0, suffix=()))
    weights: Any = engine.to_decode(jax.jit(model.init)(jax.random.key(0)))
    prompt_BP = jax.random.randint(jax.random.key(1), (rows, prompt), 5, vocabulary)

    def draw() -> float:
        return seconds(lambda: engine.complete(weights, prompt_BP, prompt_BP > 0, jax.random.key(2), Sampling(), 0))

    flops = rows * Passes(shape, vocabulary).draw(prompt, tokens, tokens).flops
    return draw, flops, bytes_read(model, weights, rows, prompt, tokens)


def main() -> None:
    parser = shapes_parser(__doc__, ["1.8M", "10M"], 5, "draws")
    parser.add_argument("--rows", type=int, default=64, help="prompts, side by side")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each")
    parser.add_argument("--tokens", type=int, default=96, help="drawn behind each")
    given = parser.parse_args()
    rows, prompt, tokens = given.rows, given.prompt, given.tokens
    keep_freed_memory()
    versions, limits, turned = {}, Limits.measured(given.dtype), {}
    for name in given.shapes:
        shape = shape_of(name, given.dtype)
        draw, flops, read = draws(shape, VOCABULARY, rows, prompt, tokens)
        with torch_peer("sampling", shape, rows=rows, length=prompt, tokens=tokens) as peer:
            versions = peer.ready
            turns = Turns.of(draw, peer.seconds, given.times)
        turned[name] = turns.figures(tokens=rows * tokens, floor=limits.floor(flops, read))
    Console().print(table_of(f"{tokens} tokens behind {rows} prompts of {prompt}, in turns, n = {given.times}", turned))
    of = {"dtype": given.dtype, "rows": rows, "prompt": prompt, "tokens": tokens}
    keep(given.results, "sampling_rate", {**limits.kept(), **versions, **of, **turned})


if __name__ == "__main__":
    main()
