"""How our own cost grows: of a decode step with what is cached, and of a round of RL with its prompts, float32.

    python -m benchmarks.growth --parts steps [--sizes 64 128 256 512 1024] [--times 5]
    python -m benchmarks.growth --parts rounds --times 3

`steps`: 64 rows of the 10M shape, each over a cache of so many tokens. A step is what 32 of them take more than 8, by
24. It grows as it has to where its floor, as in benchmarks/sampling_rate.py, is the same share of it. `rounds`: the
policy's RL of the 1.8M shape, PPO from random models: so many prompts of the notes set, 53 tokens behind each, scores,
and two passes of updates by minibatches of 32. A round grows as it has to where a drawn token takes as long.
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.limits import Limits, seconds
from benchmarks.results import keep, parser_of
from benchmarks.sampling_rate import bytes_read
from benchmarks.shapes import VOCABULARY, shape_of
from pit_jax.batch import DecodeSpec
from pit_jax.config import Config
from pit_jax.data.store import prepare
from pit_jax.inference.decoding import Decoder, State
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, Params, layers_apart
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import init_sharded, replicated
from pit_jax.recipes.catalogue import RL_POLICY, catalogue
from pit_jax.recipes.rl import make_trainer
from pit_jax.recipes.rl_shapes import programs
from pit_jax.rl.curriculum import Place
from pit_jax.rl.monitors import STEP
from pit_jax.rl.roles import Roles
from pit_jax.rl.trainer import token_counts
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.programs import Shapes
from pit_jax.run.screen import Screen
from pit_jax.training.clock import Clock
from pit_jax.training.optimizer import make_rl_optimizer
from pit_jax.training.state import Partition, plan_state

Figures = dict[str, float]
ROWS, SHORT, LONG = 64, 8, 32  # steps
ANSWER, MINIBATCH, PAIRS = 53, 32, 8_000


def in_turns(works: Mapping[int, Callable[[], Figures]], times: int) -> dict[int, Figures]:
    """Medians of what each gives, so many times one after the other, behind one of each that is not counted."""
    turns = [[work() for work in works.values()] for _ in range(1 + times)][1:]
    found = {}
    for size, given in zip(works, zip(*turns, strict=True), strict=True):
        medians = {name: statistics.median(figures[name] for figures in given) for name in given[0]}
        found[size] = {name: float(f"{median:.3g}") for name, median in medians.items()}
    return found


def step(cached: int, limits: Limits, _: Path) -> Callable[[], Figures]:
    """Milliseconds of a step over so many slots and of its floor, which is that share of it."""
    shape, prompt, spec = shape_of("10M", "float32"), cached - LONG, DecodeSpec(LONG, eos_id=-1, pad_id=0, suffix=())
    model, passes = LanguageModel(shape, VOCABULARY), Passes(shape, VOCABULARY)
    weights = layers_apart(jax.jit(model.init)(jax.random.key(0)), shape.layers)  # as inference.decoding.complete does
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


def context_of(prompts: int, folder: Path) -> Context:
    """Of the policy's RL by rounds of so many prompts, in slots for answers of ANSWER tokens."""
    base, shape = Config(), replace(shape_of("1.8M", "float32"), vocab_rows=VOCABULARY)
    rl = replace(base.rl, batch_size=prompts, minibatches=prompts // MINIBATCH)
    data = prepare(replace(base.data, notes_pairs=PAIRS), base.tokenizer, folder, say=lambda _: None)
    layout = {**data.report["layout"], "response_slot": ANSWER}
    data = replace(data, response_slot=ANSWER, report={**data.report, "layout": layout})
    run = Run(replace(base, transformer=shape, rl=rl), catalogue())
    return Context(run.config, run, run.stage(RL_POLICY), data, mesh_of(1, 1, 1), Screen(Console(quiet=True)))


def round_of(prompts: int, _: Limits, folder: Path) -> Callable[[], Figures]:
    """Microseconds a drawn token of a round, the next one at every call, and those of its phases."""
    context = context_of(prompts, folder)
    config, mesh, networks = context.config.rl, context.mesh, (context.language_model, context.scalar_model)
    policy, scorer = (init_sharded(network.init, jax.random.key(0), mesh) for network in networks)
    roles = Roles(Partition(policy), Partition(scorer), {"anchor": policy, "scorer": scorer}, {})
    plan = plan_state(roles.trainable, make_rl_optimizer(config, 1, critic=True), replicated(mesh), seed=0, extras={})
    state, extras = plan.begin(roles.trainable, {}), {"kl_coef": np.float32(config.kl_coef)}
    shapes = Shapes(context.config, context.data.layout, context.vocab_size, mesh)
    (update,) = (program.function for program in programs(shapes, "policy") if program.name == "update")
    trainer, numbers = make_trainer(context, roles), itertools.count()

    def work() -> Figures:
        nonlocal state
        clock, number, weights = Clock(), next(numbers), trainer.to_decode(state)
        experience, _ = trainer.round(replace(state, extras=extras), weights, number, Place(), None, clock)
        del weights
        for batch in trainer.minibatches(experience, number):
            state, metrics = update(state, batch)
            clock.lap("score", experience.scores_B)
            assert np.isfinite(metrics[STEP].value)  # waited for as --rl.stop-kl does
            clock.lap("update")
        tokens, phases = int(token_counts(experience)[1]), clock.take()
        took = {"us": sum(phases.values()), **{name: phases[name] for name in ("rollout", "score", "update")}}
        return {name: 1e6 * each / tokens for name, each in took.items()}

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
    with tempfile.TemporaryDirectory() as scratch, jax.set_mesh(mesh_of(1, 1, 1)):
        for part in given.parts:
            works = {size: PARTS[part](size, limits, Path(scratch) / "data") for size in given.sizes}
            found[part], table = in_turns(works, given.times), Table(title=f"{part}, n = {given.times}")
            for column in (part, *found[part][given.sizes[0]]):
                table.add_column(column, justify="right")
            for size, figures in found[part].items():
                table.add_row(f"{size:,}", *(f"{figure:g}" for figure in figures.values()))
            Console().print(table)
    keep(given.results, "growth", {**limits.kept(), "times": given.times, **found})


if __name__ == "__main__":
    main()
