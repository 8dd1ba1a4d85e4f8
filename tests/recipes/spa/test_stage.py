"""SPA's phases: which model each starts from, is held to, and is judged against; and what it leaves."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Triple
from pit_jax.config import AdapterConfig, Config
from pit_jax.errors import UserError
from pit_jax.model.adapters import has_adapters
from pit_jax.parallel.sharding import param_sharding
from pit_jax.recipes.catalogue import REWARD, SFT_POLICY, STAGES
from pit_jax.recipes.spa import stage
from pit_jax.recipes.spa.objective import ANCHOR
from pit_jax.recipes.spa.stage import Spa, check, parents, write_labelled
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.folders import StageFolder
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from tests.world import MakeContext, World, finish_parents

SPA = StageId("spa", "policy")
BASE = Config()
CONFIG = replace(
    BASE,
    spa=replace(BASE.spa, gold_share=0.3, slices=(1.0, 1.0), strengths=(0.5, 0.25), batch_size=8, seed_epochs=1),
    improve=replace(BASE.improve, batch_size=8),
)
PARTS = {"model", "sft", "previous"}


class Stopped(Exception):
    """A phase where it would train."""


@pytest.fixture
def run_of(place: MakeContext, monkeypatch: pytest.MonkeyPatch, world: World) -> Callable[..., Spa]:
    """run_of(config) -> a run whose finished phases hold random models, each its own."""

    def restored(context: Context, folder: StageFolder, init: Any, round: int | None = None) -> Any:
        drawn = world.fill(init, zlib.crc32(f"{folder.name}/{folder.phase}".encode()))
        return jax.device_put(drawn, param_sharding(drawn, context.mesh))

    def make(config: Config = CONFIG, **how: Any) -> Spa:
        context = finish_parents(place(config, SPA, **how))
        monkeypatch.setattr(params, "restored", restored)
        return Spa(context)

    return make


def same(found: Any, expected: Any) -> bool:
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


@pytest.mark.parametrize(("number", "before"), [(0, None), (1, "seed"), (2, "iteration-1")])
@pytest.mark.parametrize("rank", [0, 2], ids=["in full", "adapters"])
def test_a_phase_starts_from_the_one_before_and_is_held_to_it(
    run_of: Any, monkeypatch: pytest.MonkeyPatch, number: int, before: str | None, rank: int
) -> None:
    """The first from the SFT model, no later one to it (SPA's reference in training is the model before)."""
    spa = run_of(replace(CONFIG, adapter=AdapterConfig(rank=rank)))
    rows, trained = spa.context.data.rows("rm", "reward"), list[Any]()

    def train(context: Context, task: Any, models: Models, start: Callable[[], Any]) -> None:
        trained.append((task, start()))
        raise Stopped

    monkeypatch.setattr(stage, "train", train)
    monkeypatch.setattr(Spa, "own_pairs", lambda self, models, number: (rows, {}))
    monkeypatch.setattr(Spa, "gold_pairs", lambda self: (rows, {}))
    with jax.set_mesh(spa.context.mesh), pytest.raises(Stopped):
        spa.phase(number)
    ((task, start),) = trained
    models = Models(spa.context)
    sft = models.load(SFT_POLICY)
    expected = sft if before is None else models.own(phase=before)
    assert same(task.beside[ANCHOR], expected) and same(start, expected)
    assert before is None or not same(expected, sft)
    assert (task.phase, task.seed, task.score) == ("seed" if before is None else f"iteration-{number}", number, None)
    assert has_adapters(start) == bool(rank)


@pytest.mark.parametrize(
    ("number", "previous"), [(1, None), (2, "seed")], ids=["the first iteration", "the second iteration"]
)
def test_labels_ask_the_model_in_training_and_the_sft_model(run_of: Any, number: int, previous: str | None) -> None:
    """In every iteration the same SFT model; "previous" is that of the iteration before the one in training."""
    spa = run_of()
    models = Models(spa.context)
    parts, sft = spa.parts(models, number, PARTS), models.load(SFT_POLICY)
    assert same(parts["sft"], sft)
    assert same(parts["model"], models.own(phase="seed" if number == 1 else "iteration-1"))
    assert same(parts["previous"], models.own(phase=previous) if previous else sft)
    assert not same(parts["model"], sft)


@pytest.mark.parametrize("rank", [0, 2], ids=["in full", "adapters"])
def test_the_phase_of_the_gold_pairs(run_of: Any, rank: int) -> None:
    """One pass over them; what is known of it, and the trained parameters alone, are on disk."""
    spa = run_of(replace(CONFIG, adapter=AdapterConfig(rank=rank)), truth=True)
    gold = spa.triples(0)
    with jax.set_mesh(spa.context.mesh):
        spa.phase(0)
    folder = spa.folder(0)
    done, manifest = folder.done(), json.loads((folder.path / "manifest.json").read_text())
    assert 0 < len(gold) < 24 and done["round"] == -(-len(gold) // 8) == manifest["training"]["updates"]
    assert manifest["pairs"]["count"] == len(gold) and manifest["model"] == done["digest"]
    assert [Triple(**json.loads(line)) for line in (folder.path / "pairs.jsonl").read_text().splitlines()] == gold
    assert manifest["parents"] == dict.fromkeys(("trained from", "sft"), "digest of sft-policy")
    assert manifest["training"]["noisy"] == 0.0 and manifest["held-out"]["prompts"] == 24
    assert manifest["training"]["loss"] == pytest.approx(np.log(2), abs=0.05), "it begins at the anchor"
    wrong = np.mean([len(t.chosen.split()) < len(t.rejected.split()) for t in gold])
    assert manifest["training"]["wrong"] == pytest.approx(wrong, abs=0.25) and wrong > 0
    path = folder.path / "checkpoints" / str(done["round"]) / "meta" / "metadata"
    leaves = json.loads(path.read_text())["leaves"]
    trained = [name for name in leaves if name.startswith("params")]
    assert trained and not any(ANCHOR in name for name in leaves)
    assert all(("adapter" in name) == bool(rank) for name in trained)
    assert {name for name in leaves if "window" in name} == {"extras/window/margins_W", "extras/window/seen"}


def test_a_finished_phase_is_left_alone(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on with the first that is not."""
    spa, begun = run_of(), list[int]()

    def phase(self: Spa, number: int) -> None:
        begun.append(number)
        (self.folder(number).path / "pairs.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (self.folder(number).path / "pairs.jsonl").write_text("")
        self.folder(number).finish(round=1, digest=f"d{number}")

    phase(spa, 0)
    (spa.folder(0).path / "pairs.jsonl").write_text('{"prompt": "7", "chosen": "8", "rejected": "9"}\n')
    monkeypatch.setattr(Spa, "phase", phase)
    begun.clear()
    stage.run(spa.context)
    assert begun == [1, 2] and spa.context.folder.done() == {"round": 2, "digest": "d2"}
    stage.run(spa.context)
    assert begun == [1, 2]


def test_all_pairs_lie_in_one_folder(run_of: Any) -> None:
    """Those of the phases, and of the other folds what they were."""
    spa = run_of()
    for number in range(3):
        spa.folder(number).path.mkdir(parents=True)
        (spa.folder(number).path / "pairs.jsonl").write_text(json.dumps({"prompt": str(number)}) + "\n")
    write_labelled(spa)
    folder = spa.context.folder.path / "labelled"
    lines = {path.name: path.read_text().splitlines() for path in folder.iterdir()}
    assert [json.loads(lines[f"{name}.jsonl"][0])["prompt"] for name in ("gold", "iteration-1", "iteration-2")] == [
        *"012"
    ]
    others = [Triple(**json.loads(line)) for line in lines["other-folds.jsonl"]]
    assert others == [triple for fold in ("sft", "rl", "heldout") for triple in spa.context.data.triples(fold)]


def test_what_no_run_of_spa_can_do_is_refused() -> None:
    with pytest.raises(UserError) as error:
        check(replace(CONFIG, spa=replace(CONFIG.spa, strengths=(0.5, 0.25, 0.125))), "policy")
    assert str(error.value) == ("--spa.strengths 0.5 0.25 0.125: give one for each of the 2 iterations of --spa.slices")
    none = replace(CONFIG.spa, noise_share=0.01, window=50)
    with pytest.raises(UserError, match=r"--spa.noise-share=0.01 of --spa.window=50 is less than one pair"):
        check(replace(CONFIG, spa=none), "policy")
    check(replace(CONFIG, spa=replace(none, noise_share=0.0)), "policy")
    with pytest.raises(UserError, match="no source of labels 'mine'"):
        check(replace(CONFIG, spa=replace(CONFIG.spa, labels="mine")), "policy")
    check(CONFIG, "policy")


def test_a_reward_model_is_a_parent_where_it_labels() -> None:
    """The lineage knows whose labels they are."""
    assert parents(CONFIG, "policy") == (SFT_POLICY,)
    asked = replace(CONFIG, spa=replace(CONFIG.spa, labels="reward"))
    assert STAGES["spa-policy"].parents(asked) == (SFT_POLICY, REWARD)
