"""A run whose workdir, data and base are in a bucket: the same numbers as on a disk, and nothing left beside it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import stream
from pit_jax.files import read_json, write_jsonl
from pit_jax.paths import to_path, upload
from tests import tiny_checkpoint

Command = Callable[..., list[str]]
ROOM = ("--data.prompt-length=256", "--data.response-length=256")  # the base's tokenizer knows few words
STORE = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "XDG_CACHE_HOME")


@pytest.mark.slow
def test_a_run_in_a_bucket(bucket: str, command: Command, environment: dict[str, str], tmp_path: Path) -> None:
    """Prepared, trained, run again; a branch of it; the page of its data."""
    inputs, cwd = tmp_path / "inputs", tmp_path / "cwd"
    tiny_checkpoint.write(inputs / "base")
    rows = [
        {"prompt": triple.prompt, "chosen": triple.chosen, "rejected": triple.rejected}
        for triple in stream(NOTES, 600, 0)
    ]
    write_jsonl(inputs / "pairs.jsonl", rows)
    upload(inputs, to_path(bucket) / "inputs")
    cwd.mkdir()

    def run(workdir: str, where: str, *flags: str) -> str:
        argv = command(workdir, f"--base={where}/base", f"--data.sources=pairs:{where}/pairs.jsonl", *ROOM, *flags)
        variables = {**environment, **{name: os.environ[name] for name in STORE}}
        done = subprocess.run(argv, env=variables, cwd=cwd, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    sft = ("--stage=sft", "--model=policy", "--data.rates=1.0")
    run(f"{bucket}/run", f"{bucket}/inputs", *sft)
    run(str(tmp_path / "run"), str(inputs), *sft)
    there, here = (to_path(folder) / "run" / "sft-policy" / "done.json" for folder in (bucket, tmp_path))
    digests = [(read_json(done) or {})["digest"] for done in (there, here)]
    assert digests[0] == digests[1], "the same parameters, bit for bit"
    assert "sft-policy: finished before, skipped" in run(f"{bucket}/run", f"{bucket}/inputs", *sft)
    branch = ("--stage=rm", "--model=policy", "--data.rates=1.0", f"--parent-run={bucket}/run")
    run(f"{bucket}/branch", f"{bucket}/inputs", *branch)
    assert json.loads((to_path(bucket) / "branch" / "run.json").read_text())["parent_run"] == f"{bucket}/run"
    run(f"{bucket}/run", f"{bucket}/inputs", "--stage=data", "--data.rates=1.0")
    assert "<html" in (to_path(bucket) / "run" / "inspect" / "index.html").read_text()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".partial")]
    assert list(cwd.iterdir()) == []
