"""Tokens drawn a second with what the engine saves, in turns with draws without it, float32.

    python -m benchmarks.rollout_engine [--shapes 1.8M 10M] [--times 5]

`queue`: 512 prompts of 8 to 96 tokens whose answers have 96 to 8, in 64 rows: those that have ended take the next
prompts, against batches of 64 of which each waits for its longest answer. `samples`: four answers of 53 tokens to each
of 16 prompts of 512, which are read once, against 64 prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.limits import Limits, seconds
from benchmarks.peers import Turns, table_of
from benchmarks.results import keep
from benchmarks.rounds import drawn
from benchmarks.shapes import VOCABULARY, shape_of, shapes_parser
from pit_jax.architecture import TransformerConfig
from pit_jax.batch import DecodeSpec
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.cache import Cache
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.rows import Continuation, Sequences
from pit_jax.parallel.host_memory import keep_freed_memory

EOS, PAD = 1, 0
ROWS, PROMPTS, SHORTEST, LONGEST = 64, 512, 8, 96
LAST = SHORTEST + LONGEST - 2  # behind the token of this position comes EOS: a prompt of 8 has an answer of 96
SAMPLES, PROMPT, ANSWER = 4, 512, 53  # as long as a prompt and an answer of TL;DR

Turn = tuple[Callable[[], float], Callable[[], float], int, float]
"""Our seconds, those without, tokens drawn and operations of a draw."""


@dataclass(frozen=True)
class Ending(LanguageModel):
    """Draws EOS behind LAST."""

    def decode(
        self, params: Params, tokens_BL: jax.Array, rows: Sequences | Continuation, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        hidden_BLD, cache = super().decode(params, tokens_BL, rows, cache)
        end_D = 1e3 * params["embedding"][EOS].astype(hidden_BLD.dtype)
        return jnp.where((rows.positions_BL >= LAST)[:, :, None], end_D[None, None], hidden_BLD), cache


def queue(shape: TransformerConfig) -> Turn:
    model, rng = Ending(shape, VOCABULARY), np.random.default_rng(0)
    lengths_N1 = rng.integers(SHORTEST, LONGEST + 1, (PROMPTS, 1))
    mask_NP = jnp.asarray(np.arange(LONGEST)[None] >= LONGEST - lengths_N1)
    prompt_NP = jnp.asarray(rng.integers(2, VOCABULARY, (PROMPTS, LONGEST)), jnp.int32)
    engines = [Engine(model, DecodeSpec(LONGEST, EOS, PAD, (), rows)) for rows in (ROWS, 0)]
    weights, rest = engines[0].to_decode(jax.jit(model.init)(jax.random.key(0))), (jax.random.key(1), Sampling())

    def all_of(engine: Engine, size: int) -> list[Any]:
        starts = range(0, PROMPTS, size)
        return [engine.complete(weights, prompt_NP[i : i + size], mask_NP[i : i + size], *rest, i) for i in starts]

    tokens = sum(int(jnp.sum(found.mask_BT)) for found in all_of(engines[0], PROMPTS))
    passes, mean = Passes(model.config, VOCABULARY), tokens / PROMPTS
    flops = PROMPTS * passes.draw(LONGEST, LONGEST, mean).flops
    ours, without = (
        (lambda: seconds(lambda: all_of(engines[0], PROMPTS))),
        (lambda: seconds(lambda: all_of(engines[1], ROWS))),
    )
    return ours, without, tokens, flops


def samples(shape: TransformerConfig) -> Turn:
    model = LanguageModel(shape, VOCABULARY)
    engine: Any = Engine(model, DecodeSpec(ANSWER, -1, PAD, ()))
    weights, rest = engine.to_decode(jax.jit(model.init)(jax.random.key(0))), (jax.random.key(1), Sampling(), 0)
    once_BP = jax.random.randint(jax.random.key(2), (ROWS // SAMPLES, PROMPT), 5, VOCABULARY)
    each_BP = jnp.repeat(once_BP, SAMPLES, axis=0)
    return (
        lambda: seconds(lambda: engine.completing(SAMPLES)(weights, once_BP, once_BP > 0, *rest)),
        lambda: seconds(lambda: engine.complete(weights, each_BP, each_BP > 0, *rest)),
        ROWS * ANSWER,
        drawn(Passes(model.config, VOCABULARY), len(once_BP), SAMPLES, PROMPT, ANSWER),
    )


def main() -> None:
    given = shapes_parser(__doc__, ["1.8M", "10M"], 5, "draws").parse_args()
    keep_freed_memory()
    limits, turned = Limits.measured(given.dtype), {}
    for name in given.shapes:
        for work in (queue, samples):
            ours, without, tokens, flops = work(shape_of(name, given.dtype))
            turns = Turns.of(ours, without, given.times)
            turned[f"{work.__name__}, {name}"] = turns.figures(tokens=tokens, floor=limits.floor(flops))
    Console().print(table_of(f"draws with it and without, in turns, n = {given.times}", turned))
    keep(given.results, "rollout_engine", {**limits.kept(), "dtype": given.dtype, **turned})


if __name__ == "__main__":
    main()
