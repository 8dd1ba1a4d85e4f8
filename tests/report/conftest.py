"""A working folder as the stages leave it, with numbers drawn from a seed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.config import GatesConfig
from pit_jax.evaluation.controls import Standing
from pit_jax.evaluation.gap_quality import gates, measure
from pit_jax.evaluation.results import ControlRow, Results, write_results
from pit_jax.evaluation.systems import POLICY, SFT_IMPROVER, SystemId, pit
from tests.report.pages import compared, measured, rewritten

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_training(root: Path, rng: np.random.Generator) -> None:
    for model in ("policy", "improver"):
        rows: list[dict[str, Any]] = []
        for step in range(0, 400, 2):
            loss = float(3 * np.exp(-step / 120) + 0.4 + 0.05 * rng.normal())
            rows.append({"step": step, "phase": "train", "time": step / 10, "loss": loss, "learning_rate": 1e-3})
            if step % 40 == 0:
                rows.append({"step": step, "phase": "eval", "time": step / 10, "loss": loss + 0.05})
        write_lines(root / f"sft-{model}" / "metrics.jsonl", rows)
        for row in rows:
            rise = 0.5 + 0.45 * (1 - float(np.exp(-row["step"] / 150)))
            names = ("wl_ww", "wl_ll", "wl_lw", "ww_lw", "ll_lw")
            extra = {f"gap/acc_{name}": rise - 0.02 * i for i, name in enumerate(names)}
            row |= {"accuracy": rise} if model == "policy" else extra
        write_lines(root / f"rm-{model}" / "metrics.jsonl", rows)
        write_json(root / f"rm-{model}" / "config.json", {"seed": 0, "note": HOSTILE})
        write_json(root / f"rm-{model}" / "lineage.json", {"config": "0123456789ab", "parent": "sft"})
        rounds = []
        for step in range(60):
            kl = float(0.05 * step + 0.1 * rng.normal())
            phase = float(step >= 25)
            met = ("policy-rl",) if phase else ("rejected", "chosen")
            shares = {f"curriculum/{name}/success": 0.3 + step / 200 for name in met} if model == "improver" else {}
            row = {"step": step, "phase": "train", "time": step, "objective/kl": kl, "curriculum/phase": phase}
            rounds.append(row | shares)
            if step % 5 == 0:
                proxy, truth = step / 20, 3.5 + step / 40 - max(0, step - 40) / 15
                scores = {"objective/scores": proxy, "truth/score": truth}
                rounds.append(
                    {
                        "step": step,
                        "phase": "eval",
                        "time": step,
                        "objective/kl": kl,
                        "val/eos_rate": 0.99,
                        "val/copy_rate": step / 200,
                        **scores,
                    }
                )
        write_lines(root / f"rl-{model}" / "metrics.jsonl", rounds)
        write_json(root / f"rl-{model}" / "done.json", {"round": 45, "digest": "0123456789ab"})


def write_evaluation(root: Path, rng: np.random.Generator) -> None:
    centers = {"wl": 2.5, "ww": 0.2, "ll": -0.1, "lw": -2.4}
    gaps = {name: rng.normal(center, 1.1, 800) for name, center in centers.items()}
    write_json(root / "rm-improver" / "gaps.json", {name: gap.tolist() for name, gap in gaps.items()})
    quality = measure(gaps, np.random.default_rng(1).integers(-5, 6, 800), np.linspace(1, 4, 800))
    quality = replace(quality, controls={"longest": Standing(256, win=0.1, lose=0.8)})
    rows = [asdict(gate) for gate in gates(quality, GatesConfig())]
    write_json(root / "rm-improver" / "quality.json", {"quality": asdict(quality), "gates": rows})
    output = {"pairs": 256, "copies": 0.1, "gap": 0.4, "agreement": asdict(quality.agreement)}
    known = {"PIT rewriting policy-rl": asdict(quality), "policy against chosen": None}
    outputs = {name: {**output, "quality": figures} for name, figures in known.items()}
    write_json(root / "evaluate" / "gap_outputs.json", {"key": "0123456789ab", "sets": outputs})
    prompts = ["write a kind reminder to anna about the book club", "thank omar for the soup, mention friday", HOSTILE]
    answers = [
        "dear anna , the book club meets on monday . bring nothing .",
        "dear anna , the book club meets on monday at six . bring a cake .",
        "dear anna , the book club meets on monday at six . please bring a cake . warmly , the club",
        "dear anna , the book club meets on monday at six . please bring a cake . warmly , the club",
    ]
    spent = {"scores": [3.0, 4.0, 6.0, 6.0], "gaps": [0.8, 1.9, 0.0], "tokens": [12, 15, 19, 19], "chosen": 2}
    rows = [{"prompt": p, "answers": answers, **spent} for p in prompts]
    rows.append({"prompt": "attack", "answers": [HOSTILE, "calm " + HOSTILE], "scores": None, "gaps": [1.0]})
    write_lines(root / "improve" / "trails.jsonl", rows)
    write_results(root / "evaluate" / "results.json", results())


def results() -> Results:
    """Three rounds by two judges at three temperatures; the gap likes length."""
    table, systems, controls = [], [], []
    for i, temperature in enumerate((0.4, 0.8, 1.0)):
        for judge in ("rubric", "gap"):
            for k in (1, 2, 3):
                delta, changes = 6.0 * i + 3 * k - (4 if judge == "rubric" else 7), {"left_tokens": 24.0 + k}
                table.append(compared(pit(k), POLICY, judge, temperature, delta, 3.4, **changes))
        for k, system in enumerate((POLICY, pit(1), pit(2), pit(3))):
            changes = {"score_mean": 5.2 - 0.3 * i + 0.1 * k, "copy_rate": 0.2 * k, "edit_distance": 0.31 - 0.1 * k}
            systems.append(measured(system, temperature, **changes))
    for judge, likes_length in (("rubric", False), ("gap", True)):
        for name, delta in (("longest", 12.5 if likes_length else -60.0), ("copy", 0.0), ("empty", -100.0)):
            row = compared(SystemId("control", source=name), POLICY, judge, 0.8, delta)
            controls.append(ControlRow(row, "does not win", not (likes_length and name == "longest")))
    rewrites = [rewritten(system, temperature) for temperature in (0.4, 0.8, 1.0) for system in (pit(1), SFT_IMPROVER)]
    return Results(["rubric", "gap"], 0.8, 6.0, table, controls, systems, rewrites)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A working folder in which every stage has run."""
    root, rng = tmp_path / "tiny", np.random.default_rng(0)
    root.mkdir()
    write_training(root, rng)
    write_evaluation(root, rng)
    return root
