"""Where rows lie: files, folders, the Hugging Face hub (`datasets`), `tensorflow-datasets`. All are read as a stream.

PATH[@SPLIT]                              a .jsonl, .json or .parquet file, JSON maybe as .gz, or a folder of such
                                          files or one that `datasets` saved, on a disk or at gs://BUCKET/..; @SPLIT
                                          takes the files whose name, or folder, says it
hub/OWNER/NAME[:CONFIG][/FOLDER][@SPLIT]  a repository on the hub; never runs code of its own
tfds/NAME[/CONFIG][:VERSION][@SPLIT]      prepared in $TFDS_DATA_DIR, else downloaded there
"""

import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pit_jax.data.text.row import Row, Unusable
from pit_jax.errors import UserError
from pit_jax.paths import files_below, local, to_path

HUB, TFDS = "hub/", "tfds/"
Record = tuple[str, Row | Unusable]  # where it is, for messages, and the row or why there is none
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_NOTES = re.compile(r"dataset_infos?\.json")  # of `datasets`, on the data beside it
_SPLITS = "train|training|test|testing|validation|valid|val|dev|eval|evaluation|held[_-]?out"
_SPLIT = re.compile(rf"(?<![^/._-])(?:{_SPLITS})(?:_\w+)?(?=[/.-])", re.IGNORECASE)  # in names of files and folders
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes, beside the data
_BOM = b"\xef\xbb\xbf"
_BATCH = 1024  # rows of a parquet file in memory at once


def read_rows(location: str, advice: str) -> Iterator[Record]:
    """Every row at `location`. `advice` ends the message where a library cannot reach it (`download_advice`).

    Raises UserError where there is nothing to read, or no reaching it.
    """
    for where, row in _rows(location, advice):
        yield where, row if isinstance(row, Unusable) else _plain_row(row)


def _plain_row(row: Row) -> Row | Unusable:
    try:
        return {name: _plain(value) for name, value in row.items()}
    except UnicodeDecodeError as error:
        return Unusable("not valid UTF-8", f"{error.reason} at byte {error.start}")
    except RecursionError:
        return Unusable("nested too deeply", "a row holds texts, or lists of messages")


def _rows(location: str, advice: str) -> Iterator[Record]:
    address, split = split_location(location)
    if address.startswith(HUB):
        yield from _hub_rows(address, split or "train", advice)
    elif address.startswith(TFDS):
        yield from _tfds_rows(address, split or "train", advice)
    elif _is_saved(to_path(address)):
        yield from _saved_rows(to_path(address), split)
    else:
        for path in local_files(location):
            yield from _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def download_advice(layout: str, locations: Sequence[str]) -> str:
    """What to download elsewhere, where to put it and which source to pass then; nothing for local paths.

    Several `locations` are folders of one repository of the hub. Raises UserError for a name that is none of a hub's.
    """
    address, split = split_location(locations[0])
    if address.startswith(TFDS):
        name = address.removeprefix(TFDS)
        return (
            f"Where it can be downloaded, run `tfds build {name}`, put the folder that it makes under "
            f"~/tensorflow_datasets into {_tfds_folder()} (or another that TFDS_DATA_DIR names), and run this again"
        )
    if not address.startswith(HUB):
        return ""
    repository = _hub_names(address)[0]
    folders = [_hub_names(split_location(location)[0])[2] for location in locations]
    split = re.split(r"[^A-Za-z0-9_-]", split or "train")[0]
    files = " ".join(f"--include '{folder + '/' if folder else ''}*{split}*'" for folder in folders)
    several = "-" + os.path.commonprefix(folders).strip("-/") if len(folders) > 1 else ""
    kept = f"downloads/{repository.rpartition('/')[2]}{several}"
    inside = "/" + folders[0] if len(folders) == 1 and folders[0] else ""
    return (
        f"Where the hub can be reached, run `hf download {repository} --repo-type dataset {files} --local-dir {kept}`, "
        f"put the folder here, and pass {layout}:{kept}{inside}@{split}"
    )


def split_location(location: str) -> tuple[str, str]:
    """(address, split); a path that exists as it stands may hold an @."""
    address, separator, split = location.rpartition("@")
    return (address, split) if separator and not to_path(location).exists() else (location, "")


def local_files(location: str) -> list[Path]:
    """The files that `location` reads, none for the hub and tensorflow-datasets.

    Raises UserError for a folder without files to read, one that is not there, or one with several splits of which
    none is named.
    """
    address, split = split_location(location)
    if address.startswith((HUB, TFDS)):
        return []
    path = to_path(address)
    if path.is_file():
        if split:
            raise UserError(f"{location}: {path} is a file, which has no splits; leave @{split} out")
        return [path]
    inside = [file for file in files_below(path) if _shown(file.relative_to(path))]
    if _is_saved(path):
        return inside
    data = [file for file in inside if file.name.endswith(_SUFFIXES) and not _NOTES.fullmatch(file.name)]
    begins = re.compile(rf"{re.escape(split)}(?![^.-])")
    matches = [file for file in data if _split_of(file, path) == split or begins.match(file.name)] if split else data
    if not split:
        _check_one_split(location, path, data)
    if not matches:
        names = ", ".join(str(file.relative_to(path)) for file in inside[:10]) or "nothing"
        wanted = f" whose name begins with {split!r}" if split else ""
        raise UserError(f"{path}: asked for {', '.join(_SUFFIXES)} files{wanted} in this folder, found {names}")
    return matches


def _split_of(file: Path, folder: Path) -> str:
    """The split that a file's name says, else that of the folders between it and `folder`; "" where none does."""
    return (_SPLIT.findall(file.relative_to(folder).as_posix()) or [""])[-1]


def _check_one_split(location: str, folder: Path, files: Sequence[Path]) -> None:
    """UserError for files of several splits, or of a held-out one beside others: no test rows are read unasked."""
    first = {_split_of(file, folder): file for file in reversed(files)}
    alone = first.pop("", None)
    splits = sorted(first)
    train = next((name for name in splits if name.lower().startswith("train")), None)
    if not splits or (len(splits) == 1 and (alone is None or train)):
        return
    named = f"{location}@{train or splits[0]}"
    others = f" and of no split ({alone.name})" if alone is not None else ""
    advice = f"file to read, as in {alone}" if alone is not None and not train else f"split to read, as in {named}"
    raise UserError(f"{location}: found files of {', '.join(splits)}{others} in this folder; name the {advice}")


def identity(location: str) -> str:
    """What a location means beside the contents of its `local_files`, wherever these lie.

    Nothing for files, which a split has picked already; the split of a folder that `datasets` saved; all of an address
    on the hub or in tensorflow-datasets.
    """
    address, split = split_location(location)
    if address.startswith((HUB, TFDS)):
        return location
    return f"@{split}" if split and _is_saved(to_path(address)) else ""


def _shown(path: Path) -> bool:
    """Not in a hidden folder, such as the one in which a download keeps its notes."""
    return not any(part.startswith(".") for part in path.parts)


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in _SAVED)


def _json_rows(path: Path) -> Iterator[Record]:
    """Of every line that is not blank, or of a file that is one JSON list."""
    lines = ((number, raw.removeprefix(_BOM) if number == 1 else raw) for number, raw in _lines(path))
    lines = ((number, raw) for number, raw in lines if not raw.isspace() and raw)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{path}: the file is empty; it must hold one JSON object a line, or a list of them")
    if first[1].lstrip().startswith(b"[") and ".json" in path.suffixes:
        yield from _json_list(path, b"".join(raw for _, raw in chain([first], lines)))
        return
    for number, raw in chain([first], lines):
        yield f"{path}, line {number}", _json_row(raw)


def _json_list(path: Path, raw: bytes) -> Iterator[Record]:
    """Of a file that is one list, as a whole in memory."""
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: begins as a JSON list and is none ({_line(error)})") from error
    for number, row in enumerate(rows, 1):
        kind = type(row).__name__
        yield f"{path}, row {number}", row if isinstance(row, dict) else Unusable(f"a JSON {kind}", "needed an object")
    if not rows:
        raise UserError(f"{path}: the file is empty; it must hold one JSON object a pair")


def _json_row(raw: bytes) -> Row | Unusable:
    advice = "every line must hold one JSON object"
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return Unusable("not valid UTF-8", f"{error.reason} at byte {error.start}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        return Unusable("not valid JSON", f"{error}; {advice}")
    return row if isinstance(row, dict) else Unusable(f"a JSON {type(row).__name__}", advice)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        found = local(path)
        with gzip.open(found, "rb") if path.suffix == ".gz" else found.open("rb") as file:
            yield from enumerate(file, 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error})") from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parquet_rows(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(local(path)) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, PermissionError) as error:
        raise UserError(f"{path}: cannot be read as a Parquet file ({_line(error)})") from error
    if not number:
        raise UserError(f"{path}: the file is empty; it must hold one row a pair")


def _saved_rows(path: Path, split: str) -> Iterator[Record]:
    """Of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    import datasets

    try:
        data = datasets.load_from_disk(str(local(path)))
    except Exception as error:  # a half-copied folder may fail anywhere in datasets or pyarrow
        raise UserError(f"{path}: cannot be read as a folder of `save_to_disk` ({_line(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data and (split or len(data) > 1):
            raise UserError(f"{path}: asked for split {split!r}, found {', '.join(data)}; write PATH@SPLIT")
        data = data[split or next(iter(data))]
    elif split:
        raise UserError(f"{path}: has no splits; leave @{split} out")
    for number, row in enumerate(data, 1):
        yield f"{path}, row {number}", row


def _hub_names(address: str) -> tuple[str, str, str]:
    """(repository, config, folder) of hub/OWNER/NAME:CONFIG/FOLDER."""
    owner, _, rest = address.removeprefix(HUB).partition("/")
    name, _, folder = rest.partition("/")
    name, _, config = name.partition(":")
    if not owner or not name:
        raise UserError(f"{address}: a repository is written {HUB}OWNER/NAME[:CONFIG][/FOLDER][@SPLIT]")
    return f"{owner}/{name}", config, folder


def _hub_rows(address: str, split: str, advice: str) -> Iterator[Record]:
    import datasets

    repository, config, folder = _hub_names(address)
    try:
        data = datasets.load_dataset(repository, config or None, data_dir=folder or None, split=split)
    except Exception as error:  # the client, its transport, datasets and every file format have their own
        what = f"{address}@{split} cannot be read from the Hugging Face hub ({_line(error)})"
        raise UserError(f"{what}. {advice}") from error
    for number, row in enumerate(data, 1):
        yield f"{address}@{split}, row {number}", row


def _tfds_folder() -> str:
    return os.environ.get("TFDS_DATA_DIR") or str(Path("~/tensorflow_datasets").expanduser())


def _tfds_rows(address: str, split: str, advice: str) -> Iterator[Record]:
    from pit_jax.data.tf import tensorflow_and_seqio

    tensorflow_and_seqio()  # quietly, and without a GPU
    import tensorflow_datasets as tfds

    try:
        with contextlib.redirect_stdout(None):
            builder = tfds.builder(address.removeprefix(TFDS), data_dir=_tfds_folder(), try_gcs=False)
            builder.download_and_prepare()
        rows = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    except Exception as error:  # every data set fails to download, or to be known, in a way of its own
        what = f"{address}@{split} cannot be read from tensorflow-datasets ({_line(error)})"
        raise UserError(f"{what}. {advice}") from error
    for number, row in enumerate(rows, 1):
        yield f"{address}@{split}, row {number}", row


def _plain(value: Any) -> Any:
    """Strings for bytes, lists for arrays, and message lists for their columns ({"role": [..], "content": [..]})."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        plain = {name: _plain(item) for name, item in value.items()}
        columns = list(plain.values())
        if not plain.keys() >= {"role", "content"} or not all(isinstance(column, list) for column in columns):
            return plain
        if len({len(column) for column in columns}) != 1:
            return plain
        return [dict(zip(plain, items, strict=True)) for items in zip(*columns, strict=True)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _line(error: Exception) -> str:
    """The first line of what an error says: some go on with every data set there is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
