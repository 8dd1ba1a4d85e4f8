"""The gap model's gradient by one tree a pair against four passes over whole sequences, in turns.

    python -m benchmarks.gap_tree [--lengths demo tldr hh] [--times 5]

Full rows: the demo's model and lengths, 32 pairs; the lengths of TL;DR (prompt 512, responses 53) and of HH-RLHF (200,
120) with the model of 10M, 4 pairs. Both sides do the same work and get the same gaps, which is checked first. The
floor is that of the tree's matrix products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.limits import Limits, seconds
from benchmarks.peers import Turns, table_of
from benchmarks.results import keep, parser_of
from benchmarks.shapes import shape_of
from pit_jax.batch import GapBatch
from pit_jax.data.features import Example, Layout, build, row_lengths, tree_slots
from pit_jax.flags import DEFAULT_CONFIG
from pit_jax.model.flops import Passes
from pit_jax.model.networks import ScalarModel
from pit_jax.model.scoring import end_scores, tree_gaps
from pit_jax.objectives.gap import gap_loss
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.shipped import load_config

VOCABULARY, SUFFIX, EOS = 768, (3, 4), 1
ORDER = (("w", "l"), ("w", "w"), ("l", "l"), ("l", "w"))  # candidate and reference of the arguments of gap_loss


class Lengths(NamedTuple):
    prompt: int
    answer: int  # with its EOS
    pairs: int


LENGTHS = {"demo": Lengths(24, 40, 32), "tldr": Lengths(512, 53, 4), "hh": Lengths(200, 120, 4)}


def model_of(name: str) -> ScalarModel:
    config = load_config(DEFAULT_CONFIG).transformer if name == "demo" else shape_of("10M", "float32")
    return ScalarModel(config, VOCABULARY)


def pairs_of(lengths: Lengths) -> list[Example]:
    rng = np.random.default_rng(0)

    def words(count: int) -> np.ndarray:
        return rng.integers(5, VOCABULARY, count)

    answers = lengths.answer - 1
    return [
        Example(words(lengths.prompt), words(lengths.prompt), words(answers), words(answers))
        for _ in range(lengths.pairs)
    ]


def sequences(pairs: list[Example]) -> jax.Array:
    """tokens_BL of candidates behind references, all pairs of the first of ORDER and then those of the next."""
    rows = []
    for candidate, reference in ORDER:
        for pair in pairs:
            answers = {"w": pair.chosen, "l": pair.rejected}
            rows.append([*pair.prefix, *answers[reference], *SUFFIX, *answers[candidate], EOS])
    return jnp.asarray(rows, jnp.int32)


def work(name: str) -> tuple[Callable[[], float], Callable[[], float], int, float]:
    """(seconds by the tree, seconds by four passes, tokens of the tree, its operations)."""
    lengths, model = LENGTHS[name], model_of(name)
    pairs = pairs_of(lengths)
    sizes = np.array([[lengths.prompt] * 2 + [lengths.answer - 1] * 2])
    length = int(row_lengths("gap", sizes, len(SUFFIX))[0])
    layout = Layout(0, EOS, SUFFIX, {"gap": length}, lengths.prompt, lengths.answer)
    batch = GapBatch(**{field: jnp.asarray(x) for field, x in build("gap", pairs, layout).items()})
    slots, whole = tree_slots(layout), sequences(pairs)
    params = jax.jit(model.init)(jax.random.key(0))

    def by_tree(params: Any) -> tuple[jax.Array, list[jax.Array]]:
        found = tree_gaps(model, params, batch, slots)
        gaps = [found[candidate + reference] for candidate, reference in ORDER]
        return gap_loss(*gaps)[0], gaps

    def by_passes(params: Any) -> tuple[jax.Array, list[jax.Array]]:
        gaps = jnp.split(end_scores(model, params, whole, jnp.ones_like(whole)), 4)
        return gap_loss(*gaps)[0], gaps

    tree, passes = (jax.jit(jax.value_and_grad(loss, has_aux=True)) for loss in (by_tree, by_passes))
    np.testing.assert_allclose(tree(params)[0][1], passes(params)[0][1], rtol=1e-3, atol=1e-4)
    flops = lengths.pairs * Passes(model.config, VOCABULARY).tree(slots, length).trained().flops
    return lambda: seconds(lambda: tree(params)), lambda: seconds(lambda: passes(params)), lengths.pairs * length, flops


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--times", type=int, default=5, help="pairs of gradients")
    given = parser.parse_args()
    keep_freed_memory()
    limits, turned = Limits.measured("float32"), {}
    for name in given.lengths:
        tree, passes, tokens, flops = work(name)
        turned[name] = Turns.of(tree, passes, given.times).figures(tokens=tokens, floor=limits.floor(flops))
    Console().print(table_of(f"gradients of the gap model, in turns, n = {given.times}", turned))
    keep(given.results, "gap_tree", {**limits.kept(), **turned})


if __name__ == "__main__":
    main()
