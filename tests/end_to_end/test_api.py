"""pit_jax.load: a finished run from Python."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pit_jax
from pit_jax.api import Pit
from pit_jax.errors import UserError
from tests.end_to_end.test_all import BLOCK

PROMPTS = [
    "write a kind reminder to anna about the book club: five, the hall, tea",
    "write a cheerful update to jonas about the city walk: finn, pens, five",
    "write a kind invitation to karl about the dance class: the cellar, bread, ida",
]
ANSWERS = ["dear anna, we start at five. warm wishes", "hey jonas", ""]


@pytest.fixture(scope="module")
def pit(finished: tuple[Path, str]) -> Pit:
    return pit_jax.load(finished[0])


def test_importing_costs_nothing() -> None:
    code = "import sys, pit_jax; print(pit_jax.__version__, sorted({'jax', 'numpy', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [pit_jax.__version__, "[]"], done.stderr


def test_every_call_gives_as_many_as_it_gets(pit: Pit) -> None:
    drawn = pit.answer(PROMPTS)
    assert [type(text) for text in drawn] == [str] * 3
    assert [type(text) for text in pit.improve(PROMPTS, ANSWERS)] == [str] * 3
    for scores in (pit.gap(PROMPTS, drawn, ANSWERS), pit.reward(PROMPTS, drawn)):
        assert [type(score) for score in scores] == [float] * 3 and np.isfinite(scores).all()


def test_a_copy_is_no_better(pit: Pit) -> None:
    assert pit.gap(PROMPTS, ANSWERS, ANSWERS) == [0.0] * 3
    gaps = pit.gap(PROMPTS, ["hey jonas"] * 3, ANSWERS)
    assert gaps[1] == 0.0 and gaps[0] != 0.0 != gaps[2]


def test_greedy_texts_do_not_depend_on_their_neighbours(pit: Pit) -> None:
    together = pit.improve(PROMPTS, ANSWERS)
    alone = [pit.improve([prompt], [answer])[0] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert together == alone
    assert pit.answer(PROMPTS[::-1]) == pit.answer(PROMPTS)[::-1]


def test_rounds_follow_one_another(pit: Pit) -> None:
    """A second round improves what the first one gave: another text than after one round, for some of many prompts."""
    prompts, answers = PROMPTS * 4, [f"{answer} {n}" for n in range(4) for answer in ANSWERS]
    once, twice = pit.improve(prompts, answers), pit.improve(prompts, answers, rounds=2)
    assert once != twice


def test_a_seed_names_a_draw(pit: Pit) -> None:
    first = pit.answer(PROMPTS, temperature=1.0, seed=1)
    assert pit.answer(PROMPTS, temperature=1.0, seed=1) == first
    assert pit.answer(PROMPTS, temperature=1.0, seed=2) != first
    improved = pit.improve(PROMPTS, ANSWERS, temperature=1.0, seed=1)
    assert pit.improve(PROMPTS, ANSWERS, temperature=1.0, seed=1) == improved
    assert pit.improve(PROMPTS, ANSWERS, temperature=1.0, seed=2) != improved


def test_messages_are_texts(pit: Pit) -> None:
    asked = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    given = [[{"role": "assistant", "content": answer}] for answer in ANSWERS[:2]]
    assert pit.answer(asked) == pit.answer(PROMPTS)
    assert pit.improve(asked[:2], given) == pit.improve(PROMPTS[:2], ANSWERS[:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pit: pit.answer("one text"), "prompts: found one text; pass a list of texts"),
        (lambda pit: pit.answer([]), "prompts: found none"),
        (lambda pit: pit.answer(["fine", 3]), "prompts: number 2"),
        (lambda pit: pit.answer(["fine", [{"role": "owner", "content": "x"}]]), "prompts: number 2"),
        (lambda pit: pit.answer(["fine", " "]), "prompts: number 2"),
        (
            lambda pit: pit.answer(["fine", "word " * 400]),
            "prompt 2 has 1202 tokens, the models were trained on at most 33",
        ),
        (lambda pit: pit.answer(PROMPTS, temperature=-1.0), "temperature"),
        (lambda pit: pit.improve(PROMPTS, ANSWERS[:2]), "found 3 prompts and 2 answers"),
        (lambda pit: pit.improve(PROMPTS, ANSWERS, rounds=0), "rounds=0"),
        (lambda pit: pit.improve(PROMPTS[:1], ["word " * 400]), "answers: number 1 has"),
        (lambda pit: pit.improve(PROMPTS[:1], [None]), "answers: number 1"),
        (lambda pit: pit.gap(PROMPTS, ANSWERS, "x"), "references: found one text"),
    ],
)
def test_what_cannot_be_asked_is_named(pit: Pit, call: Callable[[Pit], object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call(pit)


def test_a_run_is_asked_for_what_it_has(finished: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no run\.json"):
        pit_jax.load(tmp_path)
    for name in ("data", "sft-policy", "rm-policy"):
        shutil.copytree(finished[0] / name, tmp_path / name)
    shutil.copy(finished[0] / "run.json", tmp_path / "run.json")
    part = pit_jax.load(str(tmp_path))
    assert part.reward(PROMPTS, ANSWERS) == pit_jax.load(finished[0]).reward(PROMPTS, ANSWERS)
    with pytest.raises(UserError, match="has no finished rl-improver; run --stage=rl --model=improver first"):
        part.improve(PROMPTS, ANSWERS)


def test_a_branch_is_loaded_with_what_its_parent_run_has(
    finished: tuple[Path, str], execute: Callable[..., str], tmp_path: Path
) -> None:
    """It may move along with its parent run."""
    execute(tmp_path / "branch", f"--parent-run={finished[0]}", "--stage=rl", "--model=policy", "--rl.kl-coef=0.3")
    branch, whole = pit_jax.load(tmp_path / "branch"), pit_jax.load(finished[0])
    assert branch.reward(PROMPTS, ANSWERS) == whole.reward(PROMPTS, ANSWERS)
    scores = branch.answer(PROMPTS, temperature=1.0), whole.answer(PROMPTS, temperature=1.0)
    assert all(isinstance(text, str) for text in scores[0])


def test_one_seed_of_a_run_is_loaded_by_its_folder(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Beside the data that all seeds share."""
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    for name in ("sft-policy", "rm-policy"):
        shutil.copytree(finished[0] / name, tmp_path / "seed-0" / name)
    shutil.copy(finished[0] / "run.json", tmp_path / "seed-0")
    one, whole = pit_jax.load(tmp_path / "seed-0"), pit_jax.load(finished[0])
    assert one.reward(PROMPTS, ANSWERS) == whole.reward(PROMPTS, ANSWERS)


def test_the_lines_of_the_readme_run(
    finished: tuple[Path, str], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(finished[0])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"prompts": PROMPTS, "answers": ANSWERS}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["better"]) == len(names["gaps"]) == len(PROMPTS)


def test_a_run_is_used_without_tensorflow(
    finished: tuple[Path, str], environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """And it is the example of the documentation that uses it."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    command = [sys.executable, str(repository / "examples" / "improve_answers.py"), str(finished[0])]
    path = os.pathsep.join([str(tmp_path), str(repository)])
    done = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("given     hey jonas"), done.stderr[-2000:]
