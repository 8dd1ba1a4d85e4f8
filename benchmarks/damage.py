"""Files of prepared data altered at random: is each named in one sentence?

    python -m benchmarks.damage --scratch=runs/damage [--alterations=200]

One folder is prepared. Then one file at a time is altered, the data are opened as every command does, and the file is
put back. Counted are alterations that a UserError named with its file, those that went unnoticed, and other errors.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.results import keep, parser_of
from pit_jax.config import DataConfig, TokenizerConfig
from pit_jax.data.store import open_data, prepare
from pit_jax.errors import UserError

DATA, TOKENS = DataConfig(world_pairs=2000), TokenizerConfig()
GARBAGE = (
    b"{",
    b"[]",
    b"null",
    b'"data"',
    b"{}",
    b"7",
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"files": {}}',
    b'{"inputs": []}',
)
NAMED, UNNOTICED, OTHER = "named", "unnoticed", "other errors"
Alteration = Callable[[bytes, random.Random], bytes | None]  # None: no file


def flipped_bit(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut_off(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def block_of_zeros(content: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(content)), 512
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def rotated(content: bytes, rng: random.Random) -> bytes:
    turn = 4 * rng.randrange(1, max(2, len(content) // 4))
    return content[turn:] + content[:turn]


def swapped_rows(content: bytes, rng: random.Random) -> bytes:
    """Two of 4 bytes each, where all are numbers of examples."""
    rows = np.frombuffer(content[: len(content) // 4 * 4], np.int32).copy()
    one, other = rng.sample(range(len(rows)), 2)
    rows[[one, other]] = rows[[other, one]]
    return rows.tobytes() + content[4 * len(rows) :]


def beyond_the_vocabulary(content: bytes, rng: random.Random) -> bytes:
    place = 2 * rng.randrange(len(content) // 2)
    return content[:place] + b"\xff\xff" + content[place + 2 :]


def other_number(content: bytes, rng: random.Random) -> bytes:
    number = rng.choice(list(re.finditer(rb"\d+", content)))
    return content[: number.start()] + str(int(number[0]) + 1).encode() + content[number.end() :]


ALTERATIONS: dict[str, tuple[Alteration, str]] = {  # and the files that they are for
    "flipped bit": (flipped_bit, "*"),
    "cut off": (cut_off, "*"),
    "block of zeros": (block_of_zeros, "*"),
    "empty": (lambda content, rng: b"", "*"),
    "deleted": (lambda content, rng: None, "*"),
    "rotated": (rotated, "*.bin"),
    "swapped rows": (swapped_rows, "*.bin"),
    "beyond the vocabulary": (beyond_the_vocabulary, "tokens.bin"),
    "other number": (other_number, "*.json"),
    "garbage": (lambda content, rng: rng.choice(GARBAGE), "*.json"),
}


def soak(folder: Path, opened: Callable[[], object], count: int, rng: random.Random) -> Counter[tuple[str, str]]:
    """How often each of ALTERATIONS to the files of a folder had which end when it was opened."""
    ends = Counter[tuple[str, str]]()
    for kind in islice(cycle(ALTERATIONS), count):
        alter, files = ALTERATIONS[kind]
        paths = [path for path in sorted(folder.rglob(files)) if path.is_file()]
        path, before, after = altered(rng.choice(paths), alter, rng)
        while after == before:  # of equal rows none changes places
            path, before, after = altered(rng.choice(paths), alter, rng)
        path.unlink() if after is None else path.write_bytes(after)
        ends[kind, end_of(opened, path)] += 1
        path.write_bytes(before)
    return ends


def altered(path: Path, alter: Alteration, rng: random.Random) -> tuple[Path, bytes, bytes | None]:
    """The file, what it holds, and what it would."""
    before = path.read_bytes()
    return path, before, alter(before, rng)


def end_of(opened: Callable[[], object], path: Path) -> str:
    try:
        opened()
    except UserError as error:
        message = str(error)
        return NAMED if str(path) in message and "\n" not in message else OTHER
    except Exception:
        return OTHER
    return UNNOTICED


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the data")
    parser.add_argument("--alterations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the files, places and bits")
    args = parser.parse_args()
    folder: Path = args.scratch / "data"

    def by_command() -> None:
        prepare(DATA, TOKENS, folder, say=lambda _: None)

    by_command()
    figures = {}
    for name, opened in (("by a command", by_command), ("as it is", lambda: open_data(folder))):
        ends = soak(folder, opened, args.alterations, random.Random(args.seed))
        opened()
        figures[name] = {kind: {end: n for (k, end), n in ends.items() if k == kind} for kind in ALTERATIONS}
        total = {end: sum(n for (_, e), n in ends.items() if e == end) for end in (NAMED, UNNOTICED, OTHER)}
        Console().print(f"opened {name}: {total}")
    keep(args.results, "damage", figures)


if __name__ == "__main__":
    main()
