"""Tokens drawn a second against transformers' generate, in turns, float32, the same threads.

    python -m benchmarks.sampling_rate [--shapes 1.8M 10M] [--times 5]

64 prompts of 64 tokens, 96 more each at temperature 1, no end. Beside the ratio stands the floor of a step: its matrix
products at the peak of this machine.
"""

import os
from typing import Any

import jax
from rich.console import Console

from benchmarks.peers import Peer, Turns, table_of
from benchmarks.results import keep
from benchmarks.shapes import SHAPES, VOCABULARY, limits, peak_flops, seconds, shape_of, shapes_parser
from pit_jax.batch import DecodeSpec
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel
from pit_jax.parallel.host_memory import keep_freed_memory

ROWS, PROMPT, TOKENS = 64, 64, 96


def main() -> None:
    given = shapes_parser(__doc__, ["1.8M", "10M"], 5, "draws").parse_args()
    keep_freed_memory()
    versions, peak, turned = {}, peak_flops(), {}
    for name in given.shapes:
        model = LanguageModel(shape_of(name), VOCABULARY)
        engine = Engine(model, DecodeSpec(TOKENS, eos_id=-1, pad_id=0, suffix=()))
        weights = engine.to_decode(model.init(jax.random.key(0)))
        prompt_BP = jax.random.randint(jax.random.key(1), (ROWS, PROMPT), 5, VOCABULARY)

        def draw(engine: Any = engine, weights: Any = weights, prompt_BP: jax.Array = prompt_BP) -> float:
            return seconds(lambda: engine.complete(weights, prompt_BP, prompt_BP > 0, jax.random.key(2), Sampling(), 0))

        job = {"work": "sampling", "threads": os.cpu_count(), "vocabulary": VOCABULARY, "shape": SHAPES[name]}
        with Peer("torch_peer.py", {**job, "rows": ROWS, "length": PROMPT, "tokens": TOKENS}) as peer:
            versions = peer.ready
            turns = Turns.of(draw, peer.seconds, given.times)
        flops = ROWS * Passes(model.config, VOCABULARY).draw(PROMPT, TOKENS, TOKENS).flops
        turned[name] = turns.figures(tokens=ROWS * TOKENS, flops=flops, peak=peak)
    title = f"{TOKENS} tokens behind {ROWS} prompts of {PROMPT}, in turns, n = {given.times}"
    Console().print(table_of(title, turned))
    keep(given.results, "sampling_rate", {**limits(peak), **versions, **turned})


if __name__ == "__main__":
    main()
