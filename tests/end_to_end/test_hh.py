"""The path of configs/hh_rlhf.py on real HH-RLHF rows: a tiny Llama with a chat template, every stage, test-sized."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import DataConfig
from pit_jax.data.folds import FOLDS
from pit_jax.data.preparation import FOLD_KINDS
from pit_jax.data.sources import read_source
from pit_jax.data.store import open_data
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.data.text.transcripts import messages_of
from tests import tiny_checkpoint
from tests.data.text.published_templates import PUBLISHED

ROWS = 1500
CHATML = PUBLISHED["chatml"]
SMALL = [
    "--transformer.dtype=float32",
    "--transformer.remat=none",
    "--data.prompt-length=96",
    "--data.response-length=64",
    "--data.buckets=1",
    "--sft.policy-steps=4",
    "--sft.improver-steps=4",
    "--sft.batch-size=8",
    "--rm.policy-steps=4",
    "--rm.improver-steps=4",
    "--rm.batch-size=8",
    "--rl.batch-size=8",
    "--rl.policy-rounds=1",
    "--rl.curriculum.rounds",
    "1",
    "1",
    "--rl.minibatches=1",
    "--rl.epochs=1",
    "--rl.heldout-prompts=8",
    "--rl.evaluate-every=1",
    "--rl.ignore-gates",
    "--improve.batch-size=8",
    "--improve.rounds=2",
    "--evaluate.prompts=8",
    "--evaluate.temperatures",
    "0.4",
    "--evaluate.resamples=20",
]


@pytest.fixture(scope="module")
def rows(repository: Path) -> Path:
    """The slice of real rows, beside the project or in it."""
    name = Path("shared") / "data" / "hh_rlhf_harmless_slice.jsonl.gz"
    found = [folder / name for folder in (repository.parent, repository, repository.resolve().parent)]
    for path in found:
        if path.is_file():
            return path
    pytest.skip(f"the HH-RLHF slice is at none of {', '.join(map(str, found))}")


@pytest.fixture(scope="module")
def finished(
    rows: Path, repository: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """(workdir, output) of --stage=all."""
    folder = tmp_path_factory.mktemp("hh")
    texts = [
        text for triple in read_source(f"hh:{rows}", DataConfig()).triples for text in (triple.prompt, triple.chosen)
    ]
    base = tiny_checkpoint.write(
        folder / "base", chat=CHATML.template, special=CHATML.special, texts=texts, vocab_size=2000
    )
    command = [sys.executable, str(repository / "launch" / "tpu_run.py"), "--stage=all"]
    flags = [f"--config={repository / 'configs' / 'hh_rlhf.py'}", f"--workdir={folder / 'run'}", f"--base={base}"]
    done = subprocess.run(
        [*command, *flags, f"--data.sources=hh:{rows}", *SMALL], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "run", done.stdout


def report_of(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "data" / "report.json").read_text())
    return found


def test_every_stage_finishes(finished: tuple[Path, str]) -> None:
    workdir, output = finished
    stages = [f"{stage}-{model}" for stage in ("sft", "rm", "rl") for model in ("policy", "improver")]
    for name in (*stages, "improve", "evaluate"):
        assert (workdir / name / "done.json").is_file(), name
    assert "PIT x1 vs policy" in output and (workdir / "report" / "index.html").is_file()
    assert len((workdir / "improve" / "trails.jsonl").read_text().splitlines()) == 8


def test_every_row_is_kept_or_dropped_for_a_reason(finished: tuple[Path, str]) -> None:
    workdir, output = finished
    (source,) = report_of(workdir)["sources"].values()
    assert source["read"] == ROWS == source["kept"] + sum(source["dropped"].values())
    assert source["kept"] > 300 and source["dropped"]["empty answer"] == 4
    assert f"{ROWS} read, {source['kept']} kept; dropped: " in output
    assert sum(fold["examples"] for fold in report_of(workdir)["folds"].values()) == source["kept"]


def test_no_prompt_is_in_two_folds(finished: tuple[Path, str]) -> None:
    data = open_data(finished[0] / "data")
    rows = {fold: data.triples(fold) for fold in FOLDS}
    prompts = {fold: {row.prompt for row in triples} for fold, triples in rows.items()}
    assert all(prompts.values())
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values()))


def test_prompts_keep_their_turns_in_the_tokens(finished: tuple[Path, str]) -> None:
    data = open_data(finished[0] / "data")
    template = data.template
    backend = template.tokenizer.backend
    assert template.tokenizer.eos_id == template.tokenizer.id_of(CHATML.end)
    several = 0
    for fold in FOLDS:
        kind = FOLD_KINDS[fold][0]
        arrays = data.rows(fold, kind).whole()
        for row, triple in enumerate(data.triples(fold)):
            if kind == "sft-policy":
                tokens = arrays["tokens_BL"][row]
            elif kind == "reward":
                tokens = arrays["chosen_BL"][row]
            else:
                tokens = arrays["prompt_BP"][row][arrays["prompt_mask_BP"][row]]
            spelled = backend.decode(tokens.tolist(), skip_special_tokens=False)
            messages = messages_of(triple.prompt)
            written = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
            assert spelled.startswith(written + "<|im_start|>assistant\n")
            several += sum(role == "user" for role, _ in messages) > 1
    assert several > 100, "rows with several turns of the user"


def test_the_export_names_the_end_of_a_turn(
    finished: tuple[Path, str], repository: Path, environment: dict[str, str], rows: Path
) -> None:
    workdir = finished[0]
    command = [sys.executable, str(repository / "launch" / "tpu_run.py"), "--stage=export"]
    flags = [f"--config={repository / 'configs' / 'hh_rlhf.py'}", f"--workdir={workdir}"]
    base = [f"--base={workdir.parent / 'base'}", f"--data.sources=hh:{rows}"]
    done = subprocess.run([*command, *flags, *base, *SMALL], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    tokenizer = load_tokenizer(workdir / "export" / "improver")
    settings = json.loads((workdir / "export" / "improver" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tokenizer.eos_id == tokenizer.id_of("<|im_end|>")
    card = (workdir / "export" / "improver" / "README.md").read_text()
    assert "An answer ends with <|im_end|>, which counts" in card and "Earlier turns are earlier messages." in card
