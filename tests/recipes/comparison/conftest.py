"""A tiny run whose trained models are random ones, and one engine for all tests, so that nothing is compiled twice."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import Mesh

from pit_jax.config import Config, EvaluateConfig, ImproveConfig
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.evaluation.judges.judge import Judge
from pit_jax.inference.texts import TextEngine
from pit_jax.recipes.comparison import draw, evaluate
from pit_jax.recipes.comparison.draw import Answering, Prompts
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from pit_jax.table import Source, forget
from tests.world import MakeContext, StandInTemplate, World, finish_parents

ENGINE = World().engine
CONFIG = Config(
    improve=ImproveConfig(rounds=2, batch_size=4, queue=1),
    evaluate=EvaluateConfig(prompts=6, temperatures=(0.8,), resamples=20),
    rl=replace(Config().rl, batch_size=16, heldout_prompts=24),
)
EVALUATE = StageId("evaluate")


@functools.cache
def shared_texts(mesh: Mesh, batch_size: int, prompt_length: int) -> TextEngine:
    """What draw.text_engine makes for the tiny world."""
    world = World()
    template: Any = StandInTemplate(world)
    return TextEngine(ENGINE, world.scalar, template, mesh, prompt_length, batch_size)


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(context: Context) -> TextEngine:
        return shared_texts(context.mesh, context.config.improve.batch_size, context.config.data.prompt_length)

    monkeypatch.setattr(draw, "text_engine", texts)


@pytest.fixture
def ready(place: MakeContext) -> MakeContext:
    """ready(config, stage, truth=False, mesh=(1, 1, 1)) -> a context whose parents are finished, in one workdir."""

    def make(config: Config = CONFIG, stage: StageId = EVALUATE, **how: Any) -> Context:
        return finish_parents(place(config, stage, **how))

    return make


@pytest.fixture
def answering(ready: MakeContext, tmp_path: Path) -> Callable[..., Answering]:
    """answering(prompts, folder, given, config) -> the systems of a run on these prompts."""

    def make(
        prompts: list[str], folder: str = "answers", given: Any = (), *, config: Config = CONFIG, **how: Any
    ) -> Answering:
        stage = StageId("paper")  # it may ask every model
        return Answering(ready(config, stage, **how), Prompts(prompts, tmp_path / folder, given))

    return make


@pytest.fixture
def mesh(make_mesh: Any) -> Iterator[Mesh]:
    """One device, set."""
    found: Mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(found):
        yield found


@pytest.fixture
def without_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation leaves out the gap model on outputs, which test_outputs.py measures."""
    monkeypatch.setattr(evaluate, "measure_outputs", lambda context, texts: {})


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Callable[[Judge], Judge]]:
    """declare(judge): a fork's judge, until the test is over."""
    source = Source(tmp_path / "mine.py", "0123456789ab")

    def add(judge: Judge) -> Judge:
        JUDGES.add(judge, source)
        return judge

    yield add
    forget(source)
