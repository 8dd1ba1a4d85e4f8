"""Two commands at once on one workdir: one trains, the other waits and finds it done."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.files import read_jsonl


@pytest.mark.slow  # tests/parallel/test_lock.py says the same of two processes that train nothing
def test_two_commands_write_every_row_once(
    finished: tuple[Path, str], command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    argv = command(tmp_path, "--stage=sft", "--model=policy")
    running = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("is in use by process" in output and "finished before, skipped" in output for output in outputs) == 1
    rows = Counter((row["step"], row["phase"]) for row in read_jsonl(tmp_path / "sft-policy" / "metrics.jsonl"))
    assert {key for key, times in rows.items() if times > 1 and key[1] != "performance"} == set()
    assert sorted({path.name for path in tmp_path.iterdir()} - {"compiled"}) == [
        "data",
        "run.json",
        "sft-policy",
    ]
