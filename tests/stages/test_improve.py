"""The improve stage over a tiny world: what it writes, what it prints, and whose gaps it reads."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from pit_jax.batch import PromptBatch
from pit_jax.config import Config, ImproveConfig
from pit_jax.inference.improve import Answers
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.stopping import NEVER, ScoredTrail
from pit_jax.stages import improve, models
from pit_jax.stages.context import Context
from pit_jax.stages.models import load
from pit_jax.stages.systems import GapScorer, Systems, make_gap, right_padded, tokenise_prompts

PROMPTS = ["7 8 9", "10", "11 12", "13 14 15 16", "17", "18 19", "20 21 22", "23", "24 25", "26"]
ROUNDS, BATCH = 3, 4


@pytest.fixture
def loaded(context: Any, make_mesh: Any, tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """loaded(stop, threshold) -> a context over PROMPTS whose stages have finished, and whose console keeps it all."""
    seeds = {("rl", "policy"): 0, ("rl", "improver"): 1, ("rm", "improver"): 2}
    monkeypatch.setattr(models, "restored", lambda _, stage, model, make: world.fill(make, seeds[stage, model]))
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))

    def make(stop: str, threshold: float = 0.0) -> Context:
        settings = ImproveConfig(ROUNDS, stop, threshold, batch_size=BATCH, prompts=str(path))
        found: Context = context(Config(improve=settings), make_mesh(1, 1, 1))
        console = Console(record=True, width=100, file=io.StringIO())
        for parent in found.folder("improve", "").parents(found.config):
            parent.path.mkdir(parents=True)
            (parent.path / "done.json").write_text('{"round": 1, "digest": "0123456789ab"}')
        return replace(found, console=console)

    return make


def trails(context: Context) -> list[dict[str, Any]]:
    with jax.set_mesh(context.mesh), Progress(console=Console(quiet=True)) as progress:
        improve.run(context, progress)
    return [json.loads(line) for line in (context.folder("improve", "").path / "trails.jsonl").read_text().splitlines()]


def scored(context: Context, threshold: float) -> ScoredTrail:
    """The trail that `improve` takes its rows from."""
    systems = Systems(context, PROMPTS, batch_size=BATCH, sampling=Sampling())
    loads = [load(context, *name) for name in (("rl", "policy"), ("rl", "improver"), ("rm", "improver"))]
    with jax.set_mesh(context.mesh):
        return systems.scored_trail(
            *loads, 0.8, context.key("improve"), lambda done: None, rounds=ROUNDS, threshold=threshold
        )


def test_gaps_are_the_gap_models_centred_on_the_answer_before(loaded: Any) -> None:
    context = loaded("rounds")
    trail, params = scored(context, NEVER), load(context, "rm", "improver")
    gap, rows = jax.jit(make_gap(context)), PromptBatch(**tokenise_prompts(context, PROMPTS))
    for k in range(ROUNDS):
        old, new = (jax.tree.map(lambda x, i=i: x[i], trail.answers) for i in (k, k + 1))
        expected_N = gap(params, rows, old, new) - gap(params, rows, old, old)
        np.testing.assert_allclose(trail.gap_B[k], expected_N, atol=1e-5)
    assert np.abs(trail.gap_B).max() > 0.05


def test_gaps_in_place_are_those_of_texts(loaded: Any) -> None:
    """Tokens of two answers with their EOS, or texts, which the scorer tokenises itself."""
    context = loaded("rounds")
    params, slot, eos = load(context, "rm", "improver"), context.data.response_slot, context.data.tokenizer.eos_id
    old, new = ([[6 + (seed * i) % 30 for i in range(1 + i % 5)] for i in range(len(PROMPTS))] for seed in (7, 11))
    ends = [np.array([[len(ids)] for ids in side]) for side in (old, new)]
    answers = [
        Answers(right_padded([[*ids, eos] for ids in side], slot, 0), np.arange(slot)[None] <= end_N1)
        for side, end_N1 in zip((old, new), ends, strict=True)
    ]
    found_N = jax.jit(make_gap(context))(params, PromptBatch(**tokenise_prompts(context, PROMPTS)), *answers)
    old_texts, new_texts = ([" ".join(map(str, ids)) for ids in side] for side in (old, new))
    with jax.set_mesh(context.mesh):
        expected_N = GapScorer(context, params, batch_size=BATCH)(PROMPTS, new_texts, old_texts)
    np.testing.assert_allclose(found_N, expected_N, atol=1e-5)


@pytest.mark.parametrize(("stop", "threshold"), [("rounds", 0.0), ("best", 0.0), ("threshold", 0.0)])
def test_a_run_writes_the_trail_of_every_prompt(loaded: Any, stop: str, threshold: float) -> None:
    context = loaded(stop, threshold)
    rows = trails(context)
    assert [row["prompt"] for row in rows] == PROMPTS
    trail = scored(context, threshold if stop == "threshold" else NEVER)
    for i, row in enumerate(rows):
        assert len(row["answers"]) == len(row["tokens"]) == ROUNDS + 1 and len(row["gaps"]) == ROUNDS
        np.testing.assert_allclose(row["gaps"], trail.gap_B[:, i], atol=1e-4)
        assert row["tokens"] == [trail.answers.mask_BT[0, i].sum(), *trail.tokens_B[:, i]]
        assert row["scores"] is None
        sums = np.cumsum([0.0, *trail.gap_B[:, i].tolist()])
        small = [k for k, gap in enumerate(trail.gap_B[:, i]) if gap < threshold]
        expected = {"rounds": ROUNDS, "best": int(np.argmax(sums)), "threshold": small[0] if small else ROUNDS}
        assert row["chosen"] == expected[stop]
        if stop == "threshold":
            assert row["answers"][row["chosen"] :] == [row["answers"][-1]] * (ROUNDS + 1 - row["chosen"])
    assert len({row["chosen"] for row in rows}) > 1 or stop == "rounds"
    printed = context.console.export_text()
    assert "mean gap" in printed and "chosen %" in printed


def test_the_table_by_hand() -> None:
    """Two prompts, two rounds. Round 1: gaps +0.5 and -0.1, so the second prompt keeps its answer and stops.

    Round 2: the first prompt alone draws, a copy. Lengths 2 and 1, then 3 and 1, then 3 and 1.
    """
    lengths = np.array([[2, 1], [3, 1], [3, 1]])
    mask_BT = np.arange(4) < lengths[..., None]
    trail = ScoredTrail(
        answers=Answers(np.zeros(mask_BT.shape, np.int32), mask_BT),
        gap_B=np.array([[0.5, -0.1], [0.0, 0.0]], np.float32),
        tokens_B=np.array([[3, 2], [3, 0]], np.int32),
        copied_B=np.array([[False, False], [True, False]]),
        active_B=np.array([[True, True], [True, False]]),
        kept_B=np.array([[True, False], [True, False]]),
    )
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(improve.round_table(trail, np.array([2, 0])))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["improve,", "n", "=", "2"]
    assert lines[2:] == [
        ["0", "–", "1.5", "–", "100.0", "1.5", "50.0"],
        ["1", "+0.200", "2.0", "0.0", "100.0", "2.5", "0.0"],
        ["2", "+0.000", "2.0", "100.0", "50.0", "1.5", "50.0"],
    ]
    (first, second) = improve.rows_of(["p", "q"], [["a", "b"], ["c", "b"], ["c", "b"]], trail, np.array([2, 0]))
    assert first == {"prompt": "p", "answers": ["a", "c", "c"], "gaps": [0.5, 0.0], "tokens": [2, 3, 3], "chosen": 2}
    assert second == {"prompt": "q", "answers": ["b"] * 3, "gaps": [-0.1, 0.0], "tokens": [1, 2, 0], "chosen": 0}


def test_a_round_in_which_nobody_draws_has_no_means() -> None:
    nothing_KB = np.zeros((1, 1), bool)
    answers = Answers(np.zeros((2, 1, 4), np.int32), np.ones((2, 1, 4), bool))
    trail = ScoredTrail(
        answers, np.zeros((1, 1)), np.zeros((1, 1), np.int32), nothing_KB, active_B=nothing_KB, kept_B=nothing_KB
    )
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(improve.round_table(trail, np.array([0])))
    assert console.export_text().splitlines()[3].split() == ["1", "–", "4.0", "–", "0.0", "0.0", "0.0"]
