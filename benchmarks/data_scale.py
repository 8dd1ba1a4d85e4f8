"""Preparing pairs and drawing batches from them, as their number grows: pairs/s, peak memory, milliseconds a batch.

    python -m benchmarks.data_scale --scratch=runs/data-scale [--pairs 1000 100000 1000000]

Pairs of about 300 tokens (a prompt and two answers of a third each) are made of random words, as frequent as Zipf's
law says, and written as JSON lines; a tokenizer is trained on the first of them beforehand and given to every run.
Each preparation is a process of its own, whose time counts from its start to its end and whose peak resident memory
is that of the system's books. Batches are then drawn in this process, in the order of training, and put on the devices:
one of each number of pairs in turn, so that what else the machine does is the same to all. Among more pairs the longest
is longer and all rows are padded to it, so every number is drawn in the width of the widest, too. The first batches
touch pages that this process has not mapped yet.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.batch import GapBatch, SftBatch
from pit_jax.config import DataConfig, MeshConfig, TokenizerConfig
from pit_jax.data.rows import StoredRows
from pit_jax.data.store import open_data, prepare
from pit_jax.data.stream import Stream
from pit_jax.data.text.tokenizers import train_tokenizer
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh
from pit_jax.parallel.sharding import put_rows

WORDS, LONGEST_WORD, WORDS_OF_A_TEXT = 50_000, 12, (30, 82)
VOCABULARY, TRAINED_ON = 8192, 10_000
BATCH, BATCHES, FIRST = 64, 1000, 100
KINDS = {"sft-improver": ("sft", SftBatch), "gap": ("rm", GapBatch)}
PREPARE = "import sys; from benchmarks.data_scale import prepare_in; prepare_in(*sys.argv[1:])"


def rows(count: int) -> Iterator[dict[str, str]]:
    """`count` generated pairs; the first ones are the same whatever the count."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (WORDS, LONGEST_WORD), dtype=np.uint8)
    lengths = rng.integers(2, LONGEST_WORD + 1, WORDS)
    words = [row[:length].tobytes().decode() for row, length in zip(letters, lengths, strict=True)]
    shares = np.cumsum(1 / np.arange(1, WORDS + 1))
    for start in range(0, count, 1000):
        sizes = rng.integers(*WORDS_OF_A_TEXT, (1000, 3))
        picked = np.searchsorted(shares, rng.random(int(sizes.sum())) * shares[-1])
        ends = [0, *accumulate(sizes.ravel().tolist())]
        texts = [" ".join(words[i] for i in picked[a:b].tolist()) for a, b in zip(ends, ends[1:], strict=False)]
        for i in range(min(1000, count - start)):
            yield dict(zip(("prompt", "chosen", "rejected"), texts[3 * i : 3 * i + 3], strict=True))


def write(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def config_of(path: str, buckets: int) -> DataConfig:
    return DataConfig(sources=(f"pairs:{path}",), prompt_length=512, response_length=512, buckets=buckets)


def prepare_in(source: str, tokenizer: str, folder: str, buckets: str) -> None:
    """What a process of its own does; it prints its peak resident bytes."""
    prepare(config_of(source, int(buckets)), TokenizerConfig(path=tokenizer), Path(folder), say=lambda _: None)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def preparation(source: Path, tokenizer: Path, folder: Path, buckets: int) -> tuple[float, float, int]:
    """(seconds, CPU seconds, peak resident bytes) of a preparation."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", PREPARE, *map(str, (source, tokenizer, folder, buckets))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, int(done.stdout.splitlines()[-1])


def draw(mesh: Mesh, kind: str, rows: Sequence[StoredRows]) -> np.ndarray:
    """Milliseconds [rows, BATCHES - 1, 2] and those of the CPU to draw a batch, pad it and put it on the devices.

    The first batch, which draws the order of the epoch, is left out.
    """
    make = KINDS[kind][1]
    streams = [Stream(each, batch_size=BATCH, seed=0) for each in rows]
    times = np.zeros((len(streams), BATCHES, 2))
    for index in range(BATCHES):
        for turn in range(len(streams)):
            number = (index + turn) % len(streams)
            start = np.array([time.perf_counter(), time.process_time()])
            jax.block_until_ready(put_rows(mesh, make, streams[number].batch(index)))
            times[number, index] = np.array([time.perf_counter(), time.process_time()]) - start
    return 1000 * times[:, 1:]


def batches(folders: Sequence[Path], kind: str) -> list[dict[str, float]]:
    """For each folder: the width of its rows, and median milliseconds a batch."""
    mesh = make_mesh(MeshConfig())
    own = [open_data(folder).rows(KINDS[kind][0], kind) for folder in folders]
    widest = max((rows.layout for rows in own), key=lambda layout: layout.row_lengths[kind])
    equal = draw(mesh, kind, [replace(rows, layout=widest) for rows in own])
    found = {
        "ms a batch, first ones, equal widths": np.median(equal[:, :FIRST, 0], axis=1),
        "ms a batch, later, equal widths": np.median(equal[:, FIRST:, 0], axis=1),
        "ms of CPU a batch, later, equal widths": np.median(equal[:, FIRST:, 1], axis=1),
        "ms a batch, later": np.median(draw(mesh, kind, own)[:, FIRST:, 0], axis=1),
    }
    widths = ({f"{kind}: width": rows.layout.row_lengths[kind]} for rows in own)
    return [
        width | {f"{kind}: {name}": round(float(values[i]), 2) for name, values in found.items()}
        for i, width in enumerate(widths)
    ]


def measure(scratch: Path, tokenizer: Path, count: int, buckets: int) -> dict[str, Any]:
    source, folder = scratch / f"pairs-{count}.jsonl", scratch / f"data-{count}"
    write(source, count)
    shutil.rmtree(folder, ignore_errors=True)
    seconds, cpu, peak = preparation(source, tokenizer, folder, buckets)
    source.unlink()
    data = open_data(folder)
    return {
        "pairs": count,
        "tokens a pair": sum(data.report["lengths before drops"][n]["p50"] for n in ("prompt", "chosen", "rejected")),
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu, 1),
        "pairs/s": round(count / seconds),
        "peak resident MiB": peak >> 20,
        "bytes on disk a pair": sum(file.stat().st_size for file in folder.glob("*.*")) // count,
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for pairs and data; 3 KB a pair")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="numbers of pairs")
    parser.add_argument("--buckets", type=int, default=1, help="widths of rows (data.buckets)")
    args: argparse.Namespace = parser.parse_args()
    keep_freed_memory()
    args.scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = args.scratch / "tokenizer"
    texts = (text for row in rows(TRAINED_ON) for text in row.values())
    train_tokenizer(texts, vocab_size=VOCABULARY, folder=tokenizer)
    measured = [measure(args.scratch, tokenizer, count, args.buckets) for count in args.pairs]
    folders = [args.scratch / f"data-{count}" for count in args.pairs]
    for kind in KINDS:
        for figures, found in zip(measured, batches(folders, kind), strict=True):
            figures |= found
    table = Table(box=None, show_header=False)
    for name in measured[0]:
        table.add_row(name, *(f"{figures[name]:,}" for figures in measured))
    Console(width=200).print(table)
    settings = {"buckets": args.buckets, "batch": BATCH, "batches": BATCHES - 1, "first ones": FIRST}
    keep(args.results, "data_scale", {**settings, "runs": measured})


if __name__ == "__main__":
    main()
