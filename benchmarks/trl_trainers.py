"""A pass over rows of real lengths in training, against TRL's SFTTrainer and RewardTrainer, in turns.

    python -m benchmarks.trl_trainers --pairs=test.jsonl.gz [--work sft reward] [--shape 1.8M] [--times 5]

The lengths are those of the first pairs of HH-RLHF (harmless-base/test.jsonl.gz of the public anthropics/hh-rlhf), of
at most 512 tokens, where words and marks are counted. TRL has its defaults (8 rows a batch, padded to their longest) in
float32, in an environment of its own, made in .venv-trl. Ours packs the rows of SFT into rows of 1,024, two an update,
and pads pairs, eight an update, to the smallest of eight widths. Tokens are those of the rows without padding. The
floor is that of the products that we compute, padding and all.
"""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.limits import Limits
from benchmarks.peers import Peer, Turns, environment, table_of
from benchmarks.results import keep, parser_of
from benchmarks.shapes import SHAPES, VOCABULARY, peer_job, shape_of
from benchmarks.training_steps import updates
from pit_jax.batch import RewardBatch, SftBatch
from pit_jax.config import MeshConfig
from pit_jax.data.features import Layout, row_lengths
from pit_jax.data.packing import PackedRows, widths_of
from pit_jax.data.ragged import Ragged
from pit_jax.data.rows import StoredRows
from pit_jax.data.stream import WINDOW, Stream
from pit_jax.model.flops import Passes, Work
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh
from pit_jax.parallel.sharding import put_rows
from pit_jax.recipes import reward, sft

LONGEST, PACKED_WIDTH, PACKED_ROWS, PAIRS, WIDTHS = 512, 1024, 2, 8, 8
ROWS = WINDOW * PAIRS  # of a pass: a window of batches, so that each row is met once
KINDS = {"sft": "sft-policy", "reward": "reward"}
TRL = "trl", "trl>=1.16,<2", "torch>=2.6"  # an environment and its packages
TURN = re.compile(r"\n\n(?:Human|Assistant):")

Batches = list[tuple[Any, float]]  # with the operations of each


def tokens_in(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def lengths_of(path: Path, count: int) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) of the first pairs whose rows have at most LONGEST tokens."""
    found: list[tuple[int, int, int]] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            pair = json.loads(line)
            start = list(TURN.finditer(pair["chosen"]))[-1].end()
            texts = pair["chosen"][:start], pair["chosen"][start:], pair["rejected"]
            prompt, chosen, rejected = (tokens_in(text) for text in texts)
            lengths = prompt, chosen, rejected - prompt
            if min(lengths) > 0 and prompt + max(lengths[1:]) <= LONGEST:
                found.append(lengths)
    return found[:count]


def rows_of(kind: str, lengths: list[tuple[int, int, int]]) -> StoredRows:
    """Rows of random tokens. TRL's rows have as many: an EOS of ours is the last token of an answer."""
    sizes = np.array([(prompt, prompt, chosen - 1, rejected - 1) for prompt, chosen, rejected in lengths])
    rng = np.random.default_rng(0)
    tokens = Ragged.of(rng.integers(5, VOCABULARY, sizes.sum()).astype(np.int32), sizes.ravel())
    widths = widths_of(row_lengths(kind, sizes, 0), WIDTHS)
    layout = Layout(0, 2, (), {kind: widths[-1]}, LONGEST, LONGEST, {kind: widths[:-1]})
    return StoredRows(kind, layout, tokens, np.zeros(len(sizes), np.float32), np.arange(len(sizes)))


def epoch(work: str, rows: StoredRows, passes: Passes) -> Batches:
    """All batches of one pass, on the host."""
    source: Any = PackedRows(rows, PACKED_WIDTH) if work == "sft" else rows
    size = PACKED_ROWS if work == "sft" else PAIRS
    stream, batches = Stream(source, batch_size=size, seed=0), []
    count = -(-len(source) // size)
    assert len({*np.concatenate([stream.rows(index) for index in range(count)]).tolist()}) == len(source), "all are met"
    for index in range(count):
        batch = stream.batch(index)
        if work == "sft":
            operations: Work = size * passes.read(PACKED_WIDTH, logits=PACKED_WIDTH).trained()
        else:
            operations = 2 * size * passes.score(batch["chosen_BL"].shape[1]).trained()
        batches.append(({name: np.asarray(field) for name, field in batch.items()}, operations.flops))
    return batches


def ours(work: str, shape: str, batches: Batches) -> Callable[[], float]:
    """Seconds of the updates of a pass."""
    mesh, config, make = make_mesh(MeshConfig()), shape_of(shape, "float32"), SftBatch if work == "sft" else RewardBatch
    language, scalar = LanguageModel(config, VOCABULARY), ScalarModel(config, VOCABULARY)
    losses = {"sft": sft.make_loss(language, slots=PACKED_WIDTH, single=False), "reward": reward.make_loss(scalar)}
    params, loss = jax.jit({"sft": language, "reward": scalar}[work].init)(jax.random.key(0)), losses[work]
    return updates(params, loss, lambda: (put_rows(mesh, make, arrays) for arrays, _ in batches))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="test.jsonl.gz of harmless-base")
    parser.add_argument("--work", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--shape", default="1.8M", choices=list(SHAPES))
    parser.add_argument("--times", type=int, default=5, help="pairs of passes")
    given = parser.parse_args()
    keep_freed_memory()
    lengths, python = lengths_of(given.pairs, ROWS), environment(*TRL)
    limits, turned, versions = Limits.measured("float32"), {}, {}
    for work in given.work:
        batches = epoch(work, rows_of(KINDS[work], lengths), Passes(shape_of(given.shape, "float32"), VOCABULARY))
        job = {**peer_job(work, shape_of(given.shape, "float32")), "batch": PAIRS, "lengths": lengths}
        with Peer("trl_peer", job, python) as peer:
            versions = peer.ready
            turns = Turns.of(ours(work, given.shape, batches), peer.seconds, given.times)
        tokens = sum(prompt * (1 + (work == "reward")) + chosen for prompt, chosen, _ in lengths)
        tokens += sum(rejected for *_, rejected in lengths) if work == "reward" else 0
        turned[work] = turns.figures(tokens=tokens, floor=limits.floor(sum(flops for _, flops in batches)))
    Console().print(table_of(f"passes over {len(lengths)} rows, {given.shape}, in turns, n = {given.times}", turned))
    keep(given.results, "trl_trainers", {**limits.kept(), **versions, "shape": given.shape, **turned})


if __name__ == "__main__":
    main()
