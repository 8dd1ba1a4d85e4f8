"""How many labels are wrong, as `--stage=data` says it of a world whose labels are flipped now and then, and in truth.

    python -m benchmarks.label_noise [--worlds notes plans orders matches] [--flipped 0 0.1 0.3]

Two readers of 4,000 pairs each, 2,000 held-out ones. Truth is the share of held-out labels that the rubric contradicts.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.batch import Triple
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.world import World, pairs
from pit_jax.evaluation.readers import MOST_ASKED, MOST_READ, reading


def flipped(triples: Sequence[Triple], share: float) -> list[Triple]:
    """The pairs with that share of the labels the other way round."""
    rng = random.Random(0)
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if rng.random() < share else pair for pair in triples
    ]


def wrong(world: World, triples: Sequence[Triple]) -> float:
    """The share of labels that the rubric contradicts."""
    return float(np.mean([world.score(p.prompt, p.chosen) < world.score(p.prompt, p.rejected) for p in triples]))


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--worlds", nargs="+", default=WORLDS.names(), choices=WORLDS.names())
    parser.add_argument("--flipped", nargs="+", type=float, default=[0.0, 0.1, 0.3])
    arguments = parser.parse_args(argv)
    table = Table("world", "flipped", "wrong in truth", "said, at most", "readers right", "of half the pairs", "agree")
    rows = []
    for name in arguments.worlds:
        drawn = pairs(WORLDS[name], 2 * MOST_READ + MOST_ASKED, 0)
        for share in arguments.flipped:
            triples = flipped(drawn, share)
            heldout = triples[2 * MOST_READ :]
            found = reading({"sft": triples[:MOST_READ], "rm": triples[MOST_READ : 2 * MOST_READ]}, heldout)
            assert found is not None, "there are enough"
            truth, said = wrong(WORLDS[name], heldout), found.wrong_labels
            rows.append({"world": name, "flipped": share, "wrong": truth, **asdict(found)})
            told = "–" if said is None else f"{said.value:.3f} [{said.low:.3f}, {said.high:.3f}]"
            shares = (f"{value:.3f}" for value in (found.right, found.half, found.agree))
            table.add_row(name, f"{share:g}", f"{truth:.3f}", told, *shares)
    Console().print(table)
    keep(arguments.results, "label_noise", {"rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
