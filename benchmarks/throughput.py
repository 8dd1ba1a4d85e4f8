"""Steps of the embedded run, timed: tokens/s of SFT, of the gap tree against four passes, and of decoding.

    python -m benchmarks.throughput

Absolute figures depend on the machine and on what else it runs; the ratio of the gap's two forms is the one to compare.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import limits
from benchmarks.results import keep, parser_of
from pit_jax.batch import DecodeSpec, GapBatch, SftBatch
from pit_jax.flags import DEFAULT_CONFIG
from pit_jax.inference.decoding import complete
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.model.scoring import end_scores
from pit_jax.objectives.gap import gap_loss
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.recipes import gap, sft
from pit_jax.shipped import load_config

VOCAB, PROMPT, ANSWER, REPEATS = 448, 20, 32, 10


def seconds(program: Callable[..., Any], *arguments: Any) -> float:
    """Median seconds of a call, compiled and warmed up."""
    compiled = jax.jit(program)
    jax.block_until_ready(compiled(*arguments))
    return float(np.median([limits.seconds(lambda: compiled(*arguments)) for _ in range(REPEATS)]))


def sft_seconds(model: LanguageModel, batch: int) -> float:
    length = PROMPT + 2 * ANSWER
    tokens_BL = jax.random.randint(jax.random.key(1), (batch, length), 5, VOCAB)
    places_BL = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    rows = SftBatch(tokens_BL, tokens_BL, places_BL >= length - ANSWER, places_BL, jnp.ones_like(places_BL))
    loss = sft.make_loss(model, slots=ANSWER)
    return seconds(jax.grad(lambda params: loss(params, rows, jax.random.key(0))[0]), model.init(jax.random.key(0)))


def tree_seconds(model: ScalarModel, batch: int) -> float:
    """The gap loss's gradient over one row a pair: trunk, two references, four candidates."""
    sizes = {1: PROMPT, 2: ANSWER, 4: ANSWER, 5: ANSWER, 3: ANSWER, 6: ANSWER, 7: ANSWER}
    starts = {
        1: 0,
        2: PROMPT,
        3: PROMPT,
        4: PROMPT + ANSWER,
        5: PROMPT + ANSWER,
        6: PROMPT + ANSWER,
        7: PROMPT + ANSWER,
    }
    nodes = np.concatenate([np.full(size, node, np.int32) for node, size in sizes.items()])
    places = np.concatenate(
        [np.arange(starts[node], starts[node] + size, dtype=np.int32) for node, size in sizes.items()]
    )
    ends = (jnp.full(batch, np.flatnonzero(nodes == node)[-1], jnp.int32) for node in (6, 4, 7, 5))
    tokens_BL = jax.random.randint(jax.random.key(1), (batch, len(nodes)), 5, VOCAB)
    nodes_BL, places_BL = (jnp.broadcast_to(jnp.asarray(x), tokens_BL.shape) for x in (nodes, places))
    rows, loss = GapBatch(tokens_BL, places_BL, nodes_BL, *ends), gap.make_loss(model)
    return seconds(jax.grad(lambda params: loss(params, rows, jax.random.key(0))[0]), model.init(jax.random.key(0)))


def four_pass_seconds(model: ScalarModel, batch: int) -> float:
    """The same loss over four whole sequences a pair."""
    tokens_BL = jax.random.randint(jax.random.key(1), (4 * batch, PROMPT + 2 * ANSWER), 5, VOCAB)

    def loss(params: Any) -> jax.Array:
        return gap_loss(*jnp.split(end_scores(model, params, tokens_BL, jnp.ones_like(tokens_BL)), 4))[0]

    return seconds(jax.grad(loss), model.init(jax.random.key(0)))


def decode_seconds(model: LanguageModel, batch: int) -> float:
    prompt_BP = jax.random.randint(jax.random.key(1), (batch, PROMPT + ANSWER), 5, VOCAB)

    spec = DecodeSpec(response_slot=ANSWER, eos_id=-1, pad_id=0, suffix=())

    def draw(params: Any, key: jax.Array) -> Any:
        return complete(model, params, prompt_BP, prompt_BP > 0, key, Sampling(), spec=spec)

    return seconds(draw, model.init(jax.random.key(0)), jax.random.key(2))


def main() -> None:
    given = parser_of(__doc__).parse_args()
    keep_freed_memory()
    config = load_config(DEFAULT_CONFIG)
    language, scalar = LanguageModel(config.transformer, VOCAB), ScalarModel(config.transformer, VOCAB)
    tuned, pairs, drawn = config.sft.batch_size, config.rm.batch_size, config.improve.batch_size
    tree, four = tree_seconds(scalar, pairs), four_pass_seconds(scalar, pairs)
    timed = {
        "SFT gradient": (sft_seconds(language, tuned), tuned * (PROMPT + 2 * ANSWER)),
        "gap gradient, tree": (tree, pairs * (PROMPT + 6 * ANSWER)),
        "gap gradient, four passes": (four, 4 * pairs * (PROMPT + 2 * ANSWER)),
        "decode": (decode_seconds(language, drawn), drawn * ANSWER),
    }
    table = Table(title=f"configs/tiny.py, median of {REPEATS}; four passes / tree: {four / tree:.2f}")
    for column in ("program", "ms", "tokens/s"):
        table.add_column(column, justify="left" if column == "program" else "right")
    for name, (took, tokens) in timed.items():
        table.add_row(name, f"{1e3 * took:.0f}", f"{tokens / took:,.0f}")
    Console().print(table)
    figures = {name: {"ms": round(1e3 * took, 1), "tokens/s": round(n / took)} for name, (took, n) in timed.items()}
    keep(given.results, "throughput", {**figures, "four passes / tree": round(four / tree, 2)})


if __name__ == "__main__":
    main()
