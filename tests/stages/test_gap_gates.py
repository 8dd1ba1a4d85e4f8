"""The gates in a run: what is measured and written, who is refused and told what."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config, GatesConfig
from pit_jax.evaluation.gap_quality import NAMES, gates, measure, restore
from pit_jax.stages import gap_gates, models
from pit_jax.stages.context import Context
from pit_jax.stages.models import load
from pit_jax.stages.rm import tree_gaps

CONFIG = replace(Config(), rl=replace(Config().rl, batch_size=16, heldout_prompts=24))


def with_gates(**knobs: Any) -> Config:
    """CONFIG with rl.ignore_gates, or with other limits."""
    rl = replace(CONFIG.rl, ignore_gates=knobs.pop("ignore_gates", False))
    return replace(CONFIG, rl=rl, rm=replace(CONFIG.rm, gates=replace(GatesConfig(), **knobs)))


def read(context: Context, name: str) -> Any:
    return json.loads((context.folder("rm", "improver").path / name).read_text())


def leave_quality(context: Context, reference_share: float) -> Path:
    """quality.json of 400 pairs that are ranked well, with an effect of the reference or without one."""
    spread_N = np.where(np.arange(400) % 5 == 0, -1.0, 1.0) * 2 * np.log(4)  # right, and sure, 8 times in 10
    reference_N = spread_N * reference_share
    gaps = {"wl": spread_N, "ww": spread_N - reference_N, "ll": reference_N, "lw": 0 * spread_N}
    gap_gates.write_quality(context, measure(gaps, np.zeros(400)))
    return context.folder("rm", "improver").path / "quality.json"


@pytest.mark.parametrize("truth", [False, True])
def test_the_gap_model_is_measured_on_the_heldout_pairs(place: Any, world: Any, truth: bool) -> None:
    """In batches, as in one: gaps.json, quality.json and its gates agree with the model over all pairs at once."""
    config = replace(CONFIG, rm=replace(CONFIG.rm, batch_size=16))
    context = place(config, truth=truth)
    examples = context.data.folds["heldout"]
    found = gap_gates.measure_heldout(context)

    gaps = jax.device_get(tree_gaps(world.scalar, load(context, "rm", "improver"), world.batch("gap", examples)))
    written = read(context, "gaps.json")
    for name in NAMES:
        np.testing.assert_allclose(written[name], gaps[name], rtol=1e-4, atol=1e-5)
    lengths_N = np.array([len(e.chosen) - len(e.rejected) for e in examples])
    expected = measure({name: np.array(gap) for name, gap in written.items()}, lengths_N, lengths_N if truth else None)
    assert found == expected and bool(found.by_truth) == truth
    content = read(context, "quality.json")
    assert content == json.loads(
        json.dumps({"quality": asdict(expected), "gates": [asdict(g) for g in gates(expected, GatesConfig())]})
    )


def test_rl_refuses_a_gap_model_that_fails_a_gate(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file alone: no model is loaded and nothing is compiled."""
    context = place()
    path = leave_quality(context, 0.05)
    monkeypatch.setattr(models, "restored", None)
    with pytest.raises(ValueError) as error:
        gap_gates.require_gates(context)
    assert str(error.value) == (
        f"stage rl-improver refuses the gap model of {path.parent}: gate reference 0.050, asked for at least 0.200 "
        "(the gap hardly moves, or moves the wrong way, with the reference: the model ignores it). Mend its data or "
        f"its training (delete {path.parent} to train it again), move the limit with --rm.gates.min-share, or run "
        "anyway with --rl.ignore-gates"
    )


def test_a_refusal_names_the_other_gates_that_failed(place: Any) -> None:
    context = place(with_gates(min_weakest=0.9))
    leave_quality(context, 0.05)
    with pytest.raises(ValueError, match=r"the model ignores it\); also failed: weakest\. Mend its data"):
        gap_gates.require_gates(context)


def test_a_good_gap_model_passes_without_a_word(place: Any) -> None:
    context = place()
    leave_quality(context, 0.5)
    assert gap_gates.require_gates(context) == {}


def test_failed_gates_can_be_ignored_and_are_noted(place: Any) -> None:
    context = place(with_gates(ignore_gates=True, min_weakest=0.9))
    leave_quality(context, 0.05)
    assert gap_gates.require_gates(context) == {
        "gates": "ignored: reference 0.050, asked for at least 0.200; weakest 0.800, asked for at least 0.900"
    }


def test_limits_are_those_of_the_run_that_asks(place: Any) -> None:
    """Moving a limit needs no new measurement, and the file that the report reads says which limit held."""
    context = place()
    path = leave_quality(context, 0.05)
    before = json.loads(path.read_text())
    looser = place(with_gates(min_share=0.01))
    assert gap_gates.require_gates(looser) == {}
    after = json.loads(path.read_text())
    assert after["quality"] == before["quality"]
    assert [g["passed"] for g in before["gates"] if g["name"] == "reference"] == [False]
    assert [(g["passed"], g["limit"]) for g in after["gates"] if g["name"] == "reference"] == [(True, 0.01)]


def test_a_gap_model_that_nobody_measured_is_measured_first(place: Any) -> None:
    context = place(with_gates(ignore_gates=True))
    notes = gap_gates.require_gates(context)
    assert notes["gates"].startswith("ignored: ")  # a random model
    assert read(context, "quality.json")["quality"]["pairs"] == 24


def test_a_table_for_the_terminal_marks_what_failed(place: Any) -> None:
    context = place()
    quality = restore(json.loads(leave_quality(context, 0.05).read_text())["quality"])
    table = gap_gates.gates_table(gates(quality, GatesConfig()))
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("reference", "0.050", "≥ 0.200", "failed") in cells
    assert ("length", "–", "≤ 0.500", "passed") in cells
    assert [row.style for row in table.rows].count("red") == 1
