"""--stage=data on small sources: what a person finds on the page, and what the stage leaves alone."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, DataConfig, TokenizerConfig
from pit_jax.recipes import pipeline, seeds


def rows() -> list[dict[str, Any]]:
    found = [{"prompt": f"<b>question</b> {i}", "chosen": f"yes & {i}", "rejected": "no"} for i in range(120)]
    return [*found, *found[:3], *({**row, "prompt": row["prompt"].upper()} for row in found[:40])]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "odd[" / "b] [x]" / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()) + '{"prompt": "x", "[/b]\\u001b[2J": 1}\n')
    data = DataConfig(
        sources=(f"pairs:{path}",), heldout_fraction=0.2, prompt_length=40, response_length=20, max_bad_rows=0.01
    )
    return Config(stage="data", workdir=str(path.parent / "run"), data=data, tokenizer=TokenizerConfig(vocab_size=300))


def test_the_page_and_the_terminal_show_the_pairs(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_mesh(*args: Any) -> None:
        raise AssertionError("looking at data needs no device")

    monkeypatch.setattr(pipeline, "make_mesh", no_mesh)
    monkeypatch.setenv("COLUMNS", "120")
    pipeline.run(config)
    said = capsys.readouterr().out
    assert "164 read, 163 kept" in said and "1 x missing columns chosen, rejected (first at " in said
    assert "found [/b]␛[2J, prompt; needed" in said and f"data report: {config.workdir}/inspect/index.html" in said
    assert re.search(r"⟦yes & \d+<eos>⟧", said)
    workdir = Path(config.workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["data", "inspect", "run.json"]
    before = {path: path.stat().st_mtime_ns for path in (workdir / "data").rglob("*")}

    page = (workdir / "inspect" / "index.html").read_text()
    assert "<b>question" not in page and "&lt;b&gt;question" in page
    assert page.count('<div class="label">policy</div>') == page.count('<div class="label">improver</div>') == 10
    answers = [unescape(text) for text in re.findall("<ins>(yes[^<]*)</ins>", page)]
    assert len(answers) == 20 and all(re.fullmatch(r"yes & \d+<eos>", text) for text in answers)
    assert "pairs.jsonl, line 164: found [/b]\x1b[2J, prompt; needed chosen, rejected" in unescape(page)
    pipeline.run(config)
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / "data").rglob("*")}


def test_near_copies_of_held_out_prompts_are_found(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Forty prompts are there in capitals too: another prompt to the hash, which may lie in another fold."""
    pipeline.run(config)
    table = capsys.readouterr().out.partition("held-out rows whose prompt")[2]
    found = re.findall(r"^ ?(?:sft|rm|rl) +(\d+) +(\d+) +(\d+)", table, flags=re.MULTILINE)
    assert len(found) == 3 and {exact for _, exact, _ in found} == {"0"}
    assert sum(int(near) for _, _, near in found) > 3


def test_seeds_are_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="--stage=data with --seeds=0,1: data do not depend on a seed"):
        seeds.run(replace(config, seeds=(0, 1)))
