"""--stage=plan from the command to its page, on simulated devices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes import pipeline


def test_a_plan_needs_no_data_and_no_tpu(micro: Config, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.run(micro)
    told, workdir = capsys.readouterr().out, Path(micro.workdir)
    assert "libtpu is not installed" in told and "not known to fit" in told
    assert not (workdir / "data").exists()
    plan = json.loads((workdir / "plan" / "plan.json").read_text())
    (stage,) = plan["stages"]
    (program,) = stage["programs"]
    assert (plan["topology"], plan["mesh"], stage["id"], program["name"]) == (
        "v5e:2x4",
        [8, 1, 1],
        "sft-policy",
        "update",
    )
    assert program["compiled"]["temporaries"] is None and program["calls"] == 8
    assert program["flops"] > 0 and {one["kind"] for one in program["compiled"]["traffic"]} == {"all-reduce"}
    page = (workdir / "plan" / "index.html").read_text()
    assert "sft-policy" in page and "simulated CPU devices" in page and "all-reduce" in page


def test_what_cannot_be_planned(micro: Config) -> None:
    def planned(**knobs: Any) -> Config:
        return replace(micro, plan=replace(micro.plan, **knobs))

    for config, told in (
        (planned(topology="v9-8"), "asked for a TPU"),
        (planned(stages=("evaluate",)), "no stage that trains"),
        (planned(price=float("nan")), "a price of 0 or more"),
        (planned(tries=0), "1 try or more"),
        (replace(micro, sft=replace(micro.sft, batch_size=12)), "--sft.batch-size=12 is not divisible"),
        (replace(micro, seeds=(1, 2)), "does not depend on a seed"),
    ):
        with pytest.raises(UserError, match=told):
            (pipeline.check if config.seeds else pipeline.run)(config)
