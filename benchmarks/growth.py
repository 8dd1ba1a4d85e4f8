"""How our own cost grows: of a decode step with what is cached, and of a round of RL with its prompts, float32.

    python -m benchmarks.growth --parts steps [--sizes 64 128 256 512 1024] [--times 5]
    python -m benchmarks.growth --parts rounds --times 3

`steps`: 64 rows of the 10M shape, each over a cache of so many tokens. A step is what 32 of them take more than 8, by
24. It grows as it has to where its floor, as in benchmarks/sampling_rate.py, is the same share of it. `rounds`: PPO of
the 1.8M shape from random models (benchmarks/rounds.py): 53 tokens behind so many prompts of 64, scores, and two passes
of updates by minibatches of 32. A round grows as it has to where a drawn token takes as long.
"""

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.limits import Limits, seconds
from benchmarks.results import keep, parser_of
from benchmarks.rounds import operations, rounds
from benchmarks.sampling_rate import bytes_read
from benchmarks.shapes import VOCABULARY, shape_of
from pit_jax.batch import DecodeSpec
from pit_jax.config import RlConfig
from pit_jax.inference.decoding import Decoder, State, for_one_device
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.parallel.host_memory import keep_freed_memory

Figures = dict[str, float]
ROWS, SHORT, LONG = 64, 8, 32  # steps
PROMPT, ANSWER, MINIBATCH = 64, 53, 32  # rounds


def in_turns(works: Mapping[int, Callable[[], Figures]], times: int) -> dict[int, Figures]:
    """Medians of what each gives, so many times one after the other, behind one of each that is not counted."""
    turns = [[work() for work in works.values()] for _ in range(1 + times)][1:]
    found = {}
    for size, given in zip(works, zip(*turns, strict=True), strict=True):
        medians = {name: statistics.median(figures[name] for figures in given) for name in given[0]}
        found[size] = {name: float(f"{median:.3g}") for name, median in medians.items()}
    return found


def step(cached: int, limits: Limits) -> Callable[[], Figures]:
    """Milliseconds of a step over so many slots and of its floor, which is that share of it."""
    shape, prompt, spec = shape_of("10M", "float32"), cached - LONG, DecodeSpec(LONG, eos_id=-1, pad_id=0, suffix=())
    model, passes = LanguageModel(shape, VOCABULARY), Passes(shape, VOCABULARY)
    weights = for_one_device(model, jax.jit(model.init)(jax.random.key(0)))
    prompt_BP = jax.random.randint(jax.random.key(1), (ROWS, prompt), 5, VOCABULARY)

    def decoder(weights: Params, sampling: Sampling) -> Decoder:
        return Decoder(model, weights, prompt_BP, prompt_BP > 0, jax.random.key(2), sampling, 0, spec, 1, 1)

    @jax.jit
    def after(weights: Params, sampling: Sampling, begun: State, count: int) -> State:
        drawn: State = jax.lax.fori_loop(0, count, lambda _, state: decoder(weights, sampling).step(state), begun)
        return drawn

    given = weights, Sampling(), jax.jit(lambda *given: decoder(*given).begun())(weights, Sampling())
    flops = [ROWS * passes.draw(prompt, LONG, count).flops for count in (LONG, SHORT)]
    read = [bytes_read(model, weights, ROWS, prompt, count) for count in (LONG, SHORT)]
    floor = limits.floor(flops[0] - flops[1], read[0] - read[1]) / (LONG - SHORT)

    def work() -> Figures:
        long, short = (seconds(partial(after, *given, count)) for count in (LONG, SHORT))
        took = (long - short) / (LONG - SHORT)
        return {"ms": 1e3 * took, "floor": 1e3 * floor, "share": floor / took}

    return work


def round_of(prompts: int, limits: Limits) -> Callable[[], Figures]:
    """Microseconds a drawn token of a round and of its floor, which is that share of it."""
    shape, config = shape_of("1.8M", "float32"), RlConfig(batch_size=prompts, minibatches=prompts // MINIBATCH)
    each, tokens = rounds(shape, config, PROMPT, ANSWER), prompts * ANSWER
    floor = limits.floor(operations(shape, config, PROMPT, ANSWER))

    def work() -> Figures:
        took = each()
        return {"us": 1e6 * took / tokens, "floor": 1e6 * floor / tokens, "share": floor / took}

    return work


PARTS = {"steps": step, "rounds": round_of}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="tokens, or prompts")
    parser.add_argument("--times", type=int, default=5, help="turns of all sizes")
    given = parser.parse_args()
    keep_freed_memory()
    limits, found = Limits.measured("float32"), dict[str, Any]()
    for part in given.parts:
        works = {size: PARTS[part](size, limits) for size in given.sizes}
        found[part], table = in_turns(works, given.times), Table(title=f"{part}, n = {given.times}")
        for column in (part, *found[part][given.sizes[0]]):
            table.add_column(column, justify="right")
        for size, figures in found[part].items():
            table.add_row(f"{size:,}", *(f"{figure:g}" for figure in figures.values()))
        Console().print(table)
    keep(given.results, "growth", {**limits.kept(), "times": given.times, **found})


if __name__ == "__main__":
    main()
