"""A plan on eight simulated chips, with models of width 16."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.recipes.plan import stage, walk
from pit_jax.run.plan import Compiled, Plan, ProgramPlan, StagePlan
from pit_jax.run.roofline import Roofline
from pit_jax.shipped import load_config

GIB = 2**30

MakeProgram = Callable[..., ProgramPlan]


@pytest.fixture
def micro(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Config:
    """configs/micro.py, to be planned for eight v5e chips without the TPU's compiler."""
    for module in (stage, walk):
        monkeypatch.setattr(module, "has_tpu_compiler", lambda: False)
    config = load_config("configs/micro.py")
    plan = replace(config.plan, topology="v5e-8", stages=("sft-policy",), price=2.0)
    return replace(config, stage="plan", workdir=str(tmp_path), plan=plan)


@pytest.fixture
def program() -> MakeProgram:
    """program(name, memory, limit, seconds, calls): of a TPU's compiler, with one GiB beside it."""

    def make(
        name: str = "update", memory: float = 4.0, limit: float = 15.75, seconds: float = 1.0, calls: float = 3600.0
    ) -> ProgramPlan:
        fits = memory <= limit
        compiled = Compiled(
            "tpu", GIB, 0, int((memory - 2) * GIB) if fits else None, (), 3.0, None if fits else int((memory - 1) * GIB)
        )
        least = Roofline(seconds, 0.1, 0.1, 0.0)
        return ProgramPlan(name, compiled, GIB, limit * GIB, 1e12, 1e9, 1000.0, calls, least)

    return make


def plan_with(*stages: tuple[str, list[ProgramPlan]], flags: tuple[str, ...] = ()) -> Plan:
    made = tuple(StagePlan(id, tuple(programs)) for id, programs in stages)
    return Plan("v5e:2x4", 8, 2, "v5litepod-8", (1, 8, 1), "toy", 10, 2.0, made, flags)
