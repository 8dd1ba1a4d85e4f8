"""gs:// is a path like one on a disk, or is refused; never a folder named gs: that nobody asked for."""

import ast
import gzip
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pit_jax import files, paths
from pit_jax.config import Config
from pit_jax.data.readers import local_files, read_rows, split_location
from pit_jax.errors import UserError
from pit_jax.parallel.mesh import mesh_of
from pit_jax.paths import local, to_path
from pit_jax.run.base import load_base, with_base
from pit_jax.run.record import read_record, write_record
from tests import tiny_checkpoint
from tests.data.rows import PAIR

PACKAGE = Path(paths.__file__).parent


@pytest.mark.parametrize(
    "name", ["gs:/bucket/x", "gs://", "gs:///x", "s3://bucket/x", "file:///x", Path("gs://bucket/x")], ids=str
)
def test_what_is_neither_is_refused(name: Any) -> None:
    with pytest.raises(UserError, match="asked for a path on a disk, or for gs://BUCKET/NAME"):
        to_path(name)


def test_a_path_on_a_disk_is_left_alone(tmp_path: Path) -> None:
    for name in ("runs/tiny", "a:b/c", "", "/x//y/", "c@d:/e"):
        assert to_path(name) == Path(name) and type(to_path(name)) is type(Path(name))
    assert local(tmp_path / "none") == tmp_path / "none"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves it alone behind `--workdir=`; inside of a name it is a letter."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert to_path("~/runs/a") == tmp_path / "runs" / "a" and to_path("~") == tmp_path
    assert to_path("runs/~a") == Path("runs/~a")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR))
    assert local_files("~/pairs.jsonl") == [tmp_path / "pairs.jsonl"] and local_files("~") == local_files(str(tmp_path))
    with pytest.raises(UserError, match=r"~no one/runs: nobody here has the home folder ~no one; write the whole path"):
        to_path("~no one/runs")


def test_without_its_package_gs_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(paths, "_store", paths._store.__wrapped__)
    with pytest.raises(UserError, match=r"gs:// paths need the gcsfs package.*pip install 'pit_jax\[gcs\]'"):
        to_path("gs://never-asked/x")


def test_only_to_path_makes_a_path_of_what_a_user_names() -> None:
    named = {"workdir", "wording", "base", "parent_run", "path", "prompts", "address", "location", "run"}
    offences = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Path" and node.args:
                made = ast.unparse(node.args[0])
                if made.rpartition(".")[2] in named:
                    offences.append(f"{file.relative_to(PACKAGE)}: Path({made})")
    assert [where for where in offences if not where.startswith(("contract/", "shipped.py"))] == []


def test_files_in_a_bucket(bucket: str) -> None:
    folder = to_path(bucket)
    files.check_writable(folder)
    assert not folder.exists(), "the probe is gone"
    assert files.read_json(folder / "a.json") is None and files.read_jsonl(folder / "a.jsonl") == []
    files.write_json(folder / "a.json", {"a": "ü"})
    files.write_json(folder / "a.json", {"a": "ß"})
    assert files.read_json(folder / "a.json") == {"a": "ß"}
    for number in range(3):
        files.append_jsonl(folder / "a.jsonl", [{"row": number}])
    assert files.read_jsonl(folder / "a.jsonl") == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.jsonl"], "what was joined is gone"
    with pytest.raises(UserError, match="cannot reach gs://no-such-bucket/x/.*: FileNotFoundError: .*check the bucket"):
        files.check_writable(to_path("gs://no-such-bucket/x"))


def test_the_marker_of_a_folder_is_put_last_and_removed_first(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, calls = to_path(bucket) / "data", []
    (target.with_name("data2") / "x").write_text("a neighbour")

    class Noted:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **named: Any) -> Any:
                if name in ("put", "rm"):
                    calls.append((name, sorted(str(path).rpartition("data/")[2] for path in args[-1])))
                return getattr(store, name)(*args, **named)

            return call

    store = paths._store()
    monkeypatch.setattr(paths, "_store", Noted)
    for number in ("first", "second"):
        with files.whole_folder(target) as partial:
            (partial / "below").mkdir()
            (partial / "below" / number).write_text(number)
            (partial / "done.json").write_text("{}")
    once = [("put", ["below/first"]), ("put", ["done.json"])]
    again = [("rm", ["done.json"]), ("rm", ["below/first"]), ("put", ["below/second"]), ("put", ["done.json"])]
    assert calls == once + again
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as partial:
        raise KeyboardInterrupt
    assert [str(path).rpartition("data/")[2] for path in paths.files_below(target)] == ["below/second", "done.json"]


def test_what_must_be_local_is_copied_once(bucket: str, tmp_path: Path) -> None:
    folder = to_path(bucket) / "data"
    for name in ("a.bin", "below/b.bin", "c.safetensors"):
        (folder / name).write_text(name)
    (folder.with_name("data2") / "x").write_text("a neighbour")
    copy = local(folder, but=(".safetensors",))
    assert [str(path.relative_to(copy)) for path in paths.files_below(copy)] == ["a.bin", "below/b.bin"]
    (copy / "a.bin").write_text("read from the disk")
    assert (local(folder, but=(".safetensors",)) / "a.bin").read_text() == "read from the disk"
    (folder / "a.bin").write_text("changed")
    assert (local(folder, but=(".safetensors",)) / "a.bin").read_text() == "changed"
    assert local(folder / "below" / "b.bin").read_text() == "below/b.bin"
    with pytest.raises(UserError, match="data/none: asked for an object or a folder of them, found none"):
        local(folder / "none")
    assert not list((tmp_path / "cache" / "pit_jax").glob(".partial-*"))


def test_rows_in_a_bucket_are_those_on_a_disk(bucket: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    lines, table = (json.dumps(PAIR) + "\n") * 3, io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "x"}]), table)
    contents = {
        "train.jsonl": lines.encode(),
        "more.jsonl.gz": gzip.compress(lines.encode()),
        "a.parquet": table.getvalue(),
    }
    disk = tmp_path / "here"
    disk.mkdir()
    for name, content in contents.items():
        (disk / name).write_bytes(content)
        (to_path(bucket) / name).write_bytes(content)
    for location in ("", "@more", "/train.jsonl"):
        there, here = list(read_rows(bucket + location, "")), list(read_rows(f"{disk}{location}", ""))
        assert [row for _, row in there] == [row for _, row in here] and len(here) in (3, 7)
        assert [where.replace(bucket, str(disk)) for where, _ in there] == [where for where, _ in here]
    assert [str(path) for path in local_files(f"{bucket}@train")] == [f"{bucket}/train.jsonl"]
    assert split_location(f"{bucket}@train") == (bucket, "train")


def test_a_base_in_a_bucket_is_the_one_on_a_disk(bucket: str, tmp_path: Path) -> None:
    here = tiny_checkpoint.write(tmp_path / "llama")
    there = f"{bucket}/llama"
    paths.upload(here, to_path(there))
    (to_path(there) / "pytorch_model.bin").write_text("never read")
    found, expected = (with_base(replace(Config(), base=str(base))) for base in (there, here))
    assert found.transformer == expected.transformer and found.tokenizer.path == there
    assert not list((tmp_path / "cache").rglob("*.safetensors")), "not before the weights are asked for"
    mesh, rows = mesh_of(1, 1, 1), found.transformer.vocab_rows
    loaded = load_base(found, mesh, jax.random.key(0), ids=rows, rows=rows)
    saved = load_file(here / "model.safetensors")["model.embed_tokens.weight"]
    known = len(saved) - tiny_checkpoint.PADDING_ROWS
    np.testing.assert_array_equal(loaded["embedding"][:known], saved[:known])
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_record_names_a_bucket_whole_and_a_disk_by_the_way(bucket: str, tmp_path: Path) -> None:
    here = str(tmp_path)
    for workdir, parent in ((bucket, f"{bucket}-1"), (f"{here}/run", f"{bucket}-1"), (bucket, f"{here}/parent")):
        write_record(replace(Config(), workdir=workdir, parent_run=parent))
        read = read_record(to_path(workdir), Config)
        assert (read.workdir, read.parent_run) == (workdir, parent)
    assert not os.path.exists("gs:")
