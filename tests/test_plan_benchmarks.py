"""benchmarks/plans.py and benchmarks/weak_scaling.py, on plans that are made up."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.plans import Cell, page, read
from benchmarks.weak_scaling import measure, scaled
from pit_jax.config import Config, flatten
from pit_jax.run.plan import Plan, Traffic
from tests.recipes.plan.conftest import MakeProgram, plan_with, program

__all__ = ["program"]


def test_the_table_of_a_page(program: MakeProgram, tmp_path: Path) -> None:
    """A stage that fits has hours and a price, one that does not has neither; the command stands below."""
    stages = ("sft-improver", [program()]), ("rl-improver", [program("draw", memory=40.0), program()])
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(asdict(plan_with(*stages))))
    cell = Cell("gemma-2b", "LoRA", "v5e-8")
    text = page([(cell, read(path))], {"v5e": 2.0})
    rows = [line for line in text.splitlines() if line.startswith("| gemma-2b")]
    assert rows[0] == (
        "| gemma-2b | LoRA | v5e-8 (8 chips) | sft-improver | yes | 4.0 of 15.8 (update) | 0.0 | – | 125 | 1.00 | 16 |"
    )
    assert "| **no** | 40.0 of 15.8 (draw) | 0.0 | – | – | – | – |" in rows[1]
    assert "--plan.model=gemma-2b" in text and "--adapter.rank=16" in text and "--mesh.fsdp=8 --mesh.tensor=1" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "v5e 197 TFLOP/s bf16" in text


def test_a_machine_four_times_as_large_has_four_times_the_rows() -> None:
    config = scaled(Config(), 64, 16, axis="data", fsdp=16, tensor=1)
    flat, before = flatten(config), flatten(Config())
    assert [flat[name] / before[name] for name in ("sft.batch_size", "rm.batch_size", "rl.batch_size")] == [4, 4, 4]
    assert (config.mesh.data, config.mesh.fsdp) == (-1, 16)
    assert scaled(Config(), 64, 16, axis="fsdp", fsdp=16, tensor=1).mesh.fsdp == 64


def test_bytes_sent_by_size(program: MakeProgram) -> None:
    """A reference's program is the same one at every size, whatever its rows; what sends nothing is left out."""

    def make(config: Config, size: int) -> Plan:
        draws = replace(
            program(f"references of {size}, rewritten"),
            compiled=replace(program().compiled, traffic=(Traffic("all-gather", "loop", 2, 10.0 + size, 4),)),
        )
        return plan_with(("rl-improver", [draws, program("update")]))

    figures = measure(Config(), [16, 64], make, axis="data", fsdp=16, tensor=1)
    assert figures == {"rl-improver references of rewritten": [26.0, 74.0]}
