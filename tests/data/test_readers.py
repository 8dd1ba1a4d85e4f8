"""Files, folders, `datasets` and `tensorflow-datasets`, each with the real library on data made here."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pit_jax.data.readers import download_advice, identity, local_files, read_rows, split_location
from pit_jax.data.text.row import Unusable
from pit_jax.errors import UserError
from tests.data.rows import PAIR, turns, write

ROWS: list[dict[str, Any]] = [
    {"prompt": f"p {i} é", "chosen": turns("x", f"yes {i}"), "rejected": turns("x", "no"), "margin": i / 4}
    for i in range(5)
]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written outside of the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def read(location: Any) -> list[Any]:
    return [row for _, row in read_rows(str(location), download_advice("pairs", [str(location)]))]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.txt"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    """With a byte order mark, a blank line, and signs that some programs take for the end of a line."""
    odd = PAIR | {"prompt": "a\u2028b\x85c"}
    line = json.dumps(odd, ensure_ascii=False).encode() + b"\r"
    path = write(tmp_path / name, b"\xef\xbb\xbf" + json.dumps(PAIR).encode(), b" ", ROWS[1], line)
    expected = [(f"{path}, line 1", PAIR), (f"{path}, line 3", ROWS[1]), (f"{path}, line 4", odd)]
    assert list(read_rows(str(path), "")) == expected


@pytest.mark.parametrize(
    ("line", "reason", "found"),
    [
        (b'{"prompt": "x", "chosen"', "not valid JSON", "every line must hold one JSON object"),
        (b"[" * 100_000, "not valid JSON", "recursion"),
        (b'{"margin": ' + b"1" * 5000 + b"}", "not valid JSON", "every line must hold one JSON object"),
        (b'{"prompt": "\xff"}', "not valid UTF-8", "at byte 12; save the file as UTF-8"),
        (b"[1]", "a JSON list", "every line must hold one JSON object"),
    ],
)
def test_a_bad_line_does_not_end_the_file(tmp_path: Path, line: bytes, reason: str, found: str) -> None:
    bad, good = read(write(tmp_path / "a.jsonl", line, PAIR))
    assert isinstance(bad, Unusable) and bad.reason == reason and found in bad.found and not bad.known
    assert good == PAIR


def test_unusable_files(tmp_path: Path) -> None:
    for content in (b"", b"\n \n"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"empty\.jsonl: the file is empty"):
            read(tmp_path / "empty.jsonl")
    for content in (b"plain", gzip.compress(b"x" * 1000)[:20]):
        (tmp_path / "broken.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.jsonl\.gz: not a complete gzip file"):
            read(tmp_path / "broken.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as a Parquet file"):
        read(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="is a file, which has no splits; leave @test out"):
        read(f"{tmp_path / 'empty.jsonl'}@test")


@pytest.mark.parametrize("name", ["pairs.json", "pairs.json.gz"])
def test_a_json_file_holds_lines_or_one_list(tmp_path: Path, name: str) -> None:
    path, rows = tmp_path / name, [PAIR, ROWS[1]]
    for content in (json.dumps(rows, indent=1), "\n\n".join(map(json.dumps, rows))):
        raw = b"\xef\xbb\xbf" + content.encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        write(tmp_path / "dataset_info.json", {"no": "pair"})
        assert read(path) == read(tmp_path) == rows
    write(tmp_path / "list.json", [PAIR, 3])
    assert [getattr(row, "reason", row) for row in read(tmp_path / "list.json")] == [PAIR, "a JSON int"]
    for bad, message in ((b"[{]", "begins as a JSON list and is none"), (b"[]", "the file is empty")):
        write(tmp_path / "list.json", bad)
        with pytest.raises(UserError, match=message):
            read(tmp_path / "list.json")


def test_columns_of_messages_and_bytes_are_the_same_rows_everywhere(tmp_path: Path) -> None:
    """A struct of lists, as tensorflow-datasets and parquet hold messages, and text as bytes."""
    import pyarrow
    from pyarrow import parquet

    columns = {"role": ["user", "assistant"], "content": ["x", "yes"]}
    rows = [{"prompt": "p é", "chosen": columns}, {"prompt": "p", "chosen": {"role": ["user"], "content": "x"}}]
    expected = [{"prompt": "p é", "chosen": turns("x", "yes")}, rows[1]]
    assert read(write(tmp_path / "a.jsonl", *rows)) == expected
    texts = {name: pyarrow.array([text, text]) for name, text in PAIR.items()}
    texts |= {"prompt": texts["prompt"].dictionary_encode(), "chosen": texts["chosen"].cast("large_string")}
    parquet.write_table(pyarrow.table(texts), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == [PAIR, PAIR]
    binary = [{"prompt": "p é".encode(), "chosen": columns}, {"prompt": b"\xff", "chosen": columns}]
    parquet.write_table(pyarrow.Table.from_pylist(binary), tmp_path / "a.parquet")
    good, bad = read(tmp_path / "a.parquet")
    assert good == expected[0] and bad.reason == "not valid UTF-8"


def to_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def test_parquet_that_datasets_wrote(tmp_path: Path) -> None:
    path = to_parquet(tmp_path / "a.parquet", ROWS)
    assert list(read_rows(str(path), "")) == [(f"{path}, row {i}", row) for i, row in enumerate(ROWS, 1)]


def test_a_folder_of_files_and_its_splits(tmp_path: Path) -> None:
    """The layout of a repository of the hub, with the notes that a download leaves."""
    to_parquet(tmp_path / "set" / "data" / "train-00000-of-00002.parquet", ROWS[:2])
    to_parquet(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", ROWS[2:3])
    to_parquet(tmp_path / "set" / "data" / "train_sft-00000-of-00001.parquet", ROWS[4:])
    write(tmp_path / "set" / "test.jsonl.gz", ROWS[3])
    write(tmp_path / "set" / "README.md", b"# a set")
    write(tmp_path / "set" / ".cache" / "train.jsonl", b"{")
    with pytest.raises(UserError, match=r"files of test, train, train_sft in this folder; name the split .*set@train$"):
        read(tmp_path / "set")
    assert read(tmp_path / "set" / "data" / "train_sft-00000-of-00001.parquet") == ROWS[4:]
    assert read(f"{tmp_path / 'set'}@train") == ROWS[:3]
    assert read(f"{tmp_path / 'set'}@test") == [ROWS[3]]
    assert [path.name for path in local_files(f"{tmp_path / 'set'}@test")] == ["test.jsonl.gz"]
    assert identity(f"{tmp_path / 'set'}@test") == "", "the files say which they are"
    with pytest.raises(UserError, match=r"files whose name begins with 'dev' in this folder, found README.md, data"):
        read(f"{tmp_path / 'set'}@dev")


@pytest.mark.parametrize(
    ("names", "message", "train"),
    [
        (("train/0", "test/0"), "of test, train .*@train$", ["train/0"]),
        (("my_train", "my_Test"), "of Test, train .*@train$", ["my_train"]),
        (("all/train_prefs-0", "all/held_out"), "of held_out, train_prefs .*@train_prefs$", []),
        (("train", "test", "more"), r"of test, train and of no split \(more.jsonl\) .*@train$", ["train"]),
        (("train", "more"), "", ["train"]),
        (("more", "x/dev/0"), r"of dev and of no split .*name the file to read, as in .*more\.jsonl$", []),
        (("contest", "latest-0", "detrain"), "", []),
        (("train-0", "x/train-1"), "", ["train-0", "x/train-1"]),
    ],
)
def test_a_folder_of_several_splits_is_read_by_one(
    tmp_path: Path, names: tuple[str, ...], message: str, train: list[str]
) -> None:
    """However its files and folders are named; held-out rows are not read unasked."""
    for name in names:
        write(tmp_path / f"{name}.jsonl", PAIR)
    if message:
        with pytest.raises(UserError, match=f"found files {message}"):
            local_files(str(tmp_path))
    else:
        assert len(local_files(str(tmp_path))) == len(names)
    if train:
        found = local_files(f"{tmp_path}@train")
        assert [str(file.relative_to(tmp_path).with_suffix("")) for file in found] == train


def test_a_path_may_hold_an_at(tmp_path: Path) -> None:
    path = write(tmp_path / "me@home.jsonl", PAIR)
    assert read(path) == [PAIR]
    assert split_location(str(path)) == (str(path), "")
    assert split_location("hub/a/b@train[:10]") == ("hub/a/b", "train[:10]")


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    one, two = datasets.Dataset.from_list(ROWS[:3]), datasets.Dataset.from_list(ROWS[3:])
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "both")
    assert read(tmp_path / "one") == ROWS[:3]
    assert read(f"{tmp_path / 'both'}@test") == ROWS[3:]
    assert any(path.suffix == ".arrow" for path in local_files(str(tmp_path / "both")))
    assert [identity(f"{tmp_path / name}") for name in ("one", "both@test", "both@train")] == ["", "@test", "@train"]
    with pytest.raises(UserError, match="asked for split '', found train, test; write PATH@SPLIT"):
        read(tmp_path / "both")
    with pytest.raises(UserError, match="has no splits; leave @test out"):
        read(f"{tmp_path / 'one'}@test")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match="cannot be read as a folder of `save_to_disk`"):
        read(tmp_path / "one")


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        (
            "hub/Anthropic/hh-rlhf/harmless-base",
            (
                "hub/Anthropic/hh-rlhf/harmless-base@train cannot be read from the Hugging Face hub (Couldn't reach",
                "`hf download Anthropic/hh-rlhf --repo-type dataset --include 'harmless-base/*train*' "
                "--local-dir downloads/hh-rlhf`, put the folder here, "
                "and pass pairs:downloads/hh-rlhf/harmless-base@train",
            ),
        ),
        (
            "hub/nobody/nothing:small@test[:10%]",
            ("--include '*test*' --local-dir downloads/nothing", "pass pairs:downloads/nothing@test"),
        ),
        ("hub/nothing", ("a repository is written hub/OWNER/NAME",)),
    ],
)
def test_an_unreachable_hub_says_what_to_download(location: str, parts: tuple[str, ...]) -> None:
    """The tests run offline (HF_HUB_OFFLINE)."""
    with pytest.raises(UserError) as error:
        read(location)
    assert [part for part in parts if part not in str(error.value)] == []


@pytest.fixture
def tiny_tfds(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Writes `tiny_pairs` with its two splits; messages as tfds keeps them, a column of roles and one of contents."""

    def build() -> list[dict[str, Any]]:
        from pit_jax.data.tf import tensorflow_and_seqio

        tensorflow_and_seqio()
        import numpy as np
        import tensorflow_datasets as tfds

        messages = tfds.features.Sequence({"role": tfds.features.Text(), "content": tfds.features.Text()})
        columns = {"prompt": tfds.features.Text(), "chosen": messages, "rejected": messages, "margin": np.float32}
        broken = ROWS[4] | {"prompt": b"\xff"}
        tfds.dataset_builders.store_as_tfds_dataset(
            name="tiny_pairs",
            version="1.0.0",
            data_dir=os.environ["TFDS_DATA_DIR"],
            features=tfds.features.FeaturesDict(columns),
            split_datasets={"train": list(enumerate(ROWS[:4])), "test": [(0, broken)]},
        )
        return ROWS[:4]

    return build


def test_tensorflow_datasets(tiny_tfds: Callable[[], list[dict[str, Any]]]) -> None:
    expected = tiny_tfds()
    assert sorted(read("tfds/tiny_pairs"), key=str) == sorted(expected, key=str)
    assert read("tfds/tiny_pairs:1.0.0@train[:2]") == read("tfds/tiny_pairs")[:2]
    (bad,) = read("tfds/tiny_pairs@test")
    assert isinstance(bad, Unusable) and bad.reason == "not valid UTF-8"
    with pytest.raises(UserError, match="tfds/tiny_pairs@dev cannot be read from tensorflow-datasets"):
        read("tfds/tiny_pairs@dev")
    with pytest.raises(
        UserError, match=r"Dataset tiny_pears not found.*`tfds build tiny_pears`.*TFDS_DATA_DIR"
    ) as error:
        read("tfds/tiny_pears")
    assert len(str(error.value)) < 800
