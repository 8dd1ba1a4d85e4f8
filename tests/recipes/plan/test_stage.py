"""--stage=plan from the command to its page, on simulated devices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes import pipeline
from pit_jax.recipes.plan import stage
from pit_jax.run.plan import Plan
from tests.recipes.plan.conftest import MakeProgram, plan_with


def test_a_plan_needs_no_data_and_no_tpu(micro: Config, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.run(micro)
    told, workdir = capsys.readouterr().out, Path(micro.workdir)
    assert "libtpu is not installed" in told and "not known to fit" in told
    assert not (workdir / "data").exists()
    plan = json.loads((workdir / "plan" / "plan.json").read_text())
    (planned,) = plan["stages"]
    (program,) = planned["programs"]
    assert (plan["topology"], plan["mesh"], planned["id"], program["name"]) == (
        "v5e:2x4",
        [8, 1, 1],
        "sft-policy",
        "update",
    )
    assert program["compiled"]["temporaries"] is None and program["calls"] == 8
    assert program["flops"] > 0 and {one["kind"] for one in program["compiled"]["traffic"]} == {"all-reduce"}
    page = (workdir / "plan" / "index.html").read_text()
    assert "sft-policy" in page and "simulated CPU devices" in page and "all-reduce" in page


def test_hours_of_rows_in_buckets_are_those_of_the_widest(
    micro: Config, program: MakeProgram, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said beside the hours, in the terminal and on the page."""
    monkeypatch.setattr(stage, "plan_of", lambda *args, **asked: plan_with(("sft-policy", [program()])))
    for buckets in (1, 3):
        pipeline.run(replace(micro, data=replace(micro.data, buckets=buckets)))
        page = (Path(micro.workdir) / "plan" / "index.html").read_text()
        for told in (capsys.readouterr().out, page):
            assert ("Hours count every row at its widest width." in told) == (buckets > 1)


def test_what_cannot_be_planned(micro: Config) -> None:
    def planned(**knobs: Any) -> Config:
        return replace(micro, plan=replace(micro.plan, **knobs))

    for config, told in (
        (planned(topology="v9-8"), "asked for a TPU"),
        (planned(stages=("evaluate",)), "no stage that trains"),
        (replace(micro, sft=replace(micro.sft, batch_size=12)), "--sft.batch-size=12 is not divisible"),
        (replace(micro, seeds=(1, 2)), "does not depend on a seed"),
    ):
        with pytest.raises(UserError, match=told):
            (pipeline.check if config.seeds else pipeline.run)(config)


def test_a_search_tries_with_least_effort_and_answers_as_a_run_is_compiled(
    micro: Config, program: MakeProgram, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cheapest mesh fits as it was tried, and not as a run is compiled: the next one is proposed."""
    efforts: list[tuple[str, int]] = []

    def planned(config: Config, machine: Any, **asked: Any) -> Plan:
        efforts.append((machine.effort, config.mesh.fsdp))
        fits = machine.effort == "least" or config.mesh.fsdp != 8
        update = program(memory=4.0 if fits else 40.0, seconds=10.0 - config.mesh.fsdp)
        return plan_with(("sft-policy", [update]), flags=asked["flags"])

    monkeypatch.setattr(stage, "plan_of", planned)
    pipeline.run(replace(micro, plan=replace(micro.plan, search=True, tries=3)))
    assert efforts == [("least", 8), ("least", 4), ("least", 2), ("full", 8), ("full", 4)]
    assert "--mesh.fsdp=4" in capsys.readouterr().out.partition("flags:")[2]
