"""The gap model in a run: its gates, who is refused and told what, and the second one that RL is watched with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import GapBatch
from pit_jax.config import Config, GatesConfig, RmConfig
from pit_jax.data.features import Example
from pit_jax.data.stream import Stream
from pit_jax.errors import UserError
from pit_jax.evaluation.controls import CONTROLS, Standing, standing
from pit_jax.evaluation.gap_quality import NAMES, gates, measure, restore
from pit_jax.model.scoring import end_scores, tree_gaps
from pit_jax.recipes import gap
from pit_jax.recipes.catalogue import GAP, SFT_IMPROVER, SFT_POLICY
from pit_jax.report.tables import gates_table
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.supervised import Task
from tests.world import EOS, SUFFIX, MakeContext, World, finish_parents

CONFIG = replace(Config(), rl=replace(Config().rl, batch_size=16, heldout_prompts=24))
SECOND = StageId("rm", "second-gap")


def with_gates(**knobs: Any) -> Config:
    """CONFIG with rl.ignore_gates, or with other limits."""
    rl = replace(CONFIG.rl, ignore_gates=knobs.pop("ignore_gates", False))
    return replace(CONFIG, rl=rl, rm=replace(CONFIG.rm, gates=replace(GatesConfig(), **knobs)))


def read(context: Context, name: str) -> Any:
    return json.loads((context.folder_of(GAP).path / name).read_text())


SOUND = {control.name: Standing(200, win=0.1, lose=0.9) for control in CONTROLS}


def leave_quality(context: Context, reference_share: float, **controls: Standing) -> Path:
    """quality.json of 400 pairs that are ranked well, with an effect of the reference or without one."""
    spread_N = np.where(np.arange(400) % 5 == 0, -1.0, 1.0) * 2 * np.log(4)  # right, and sure, 8 times in 10
    reference_N = spread_N * reference_share
    gaps = {"wl": spread_N, "ww": spread_N - reference_N, "ll": reference_N, "lw": 0 * spread_N}
    quality = replace(measure(gaps, np.zeros(400)), controls=SOUND | controls)
    gap.write_quality(context, quality, gates(quality, context.config.rm.gates))
    return context.folder_of(GAP).path / "quality.json"


@pytest.mark.parametrize("truth", [False, True])
def test_the_gap_model_is_measured_on_the_heldout_pairs(place: MakeContext, world: World, truth: bool) -> None:
    """In batches, as in one: gaps.json, quality.json and its gates agree with the model over all pairs at once."""
    config = replace(CONFIG, rm=replace(CONFIG.rm, batch_size=16))
    context = finish_parents(place(config, truth=truth))
    model = Models(context).load(GAP)
    found = gap.measure_gates(context, model)

    data: Any = context.data
    batch = GapBatch(**data.rows("heldout", "gap").whole())
    gaps = jax.device_get(tree_gaps(world.scalar, model, batch))
    written = read(context, "gaps.json")
    for name in NAMES:
        np.testing.assert_allclose(written[name], gaps[name], rtol=1e-4, atol=1e-5)
    examples = data.folds["heldout"]
    lengths_N = np.array([len(e.chosen) - len(e.rejected) for e in examples])
    expected = measure({name: np.array(gap) for name, gap in written.items()}, lengths_N, lengths_N if truth else None)
    expected = replace(expected, controls=gap.heldout_controls(context, model))
    assert found == gates(expected, GatesConfig()) and bool(expected.by_truth) == truth
    content = {"quality": asdict(expected), "gates": [asdict(gate) for gate in found]}
    assert read(context, "quality.json") == json.loads(json.dumps(content))
    assert gap.read_quality(context) == json.loads(json.dumps(asdict(expected)))


def test_controls_are_asked_in_both_orders_of_one_program_a_slot(
    place: MakeContext, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the chosen answers as training tokenises them: each pair of orders, one row at a time, says the same.

    An answer of four words or more said twice does not fit a slot of 8 with its end: those share a second program.
    """
    context = finish_parents(place())
    model, texts = Models(context).load(GAP), gap.text_engine(context)
    monkeypatch.setattr(gap, "text_engine", lambda context: texts)
    found = gap.heldout_controls(context, model)
    assert texts._gap._cache_size() == 2
    data: Any = context.data
    examples = data.folds["heldout"]

    def score(example: Example, candidate: Sequence[int], reference: Sequence[int]) -> float:
        row_BL = jnp.array([[3, *example.prompt, *reference, *SUFFIX, *candidate, EOS]], jnp.int32)
        return float(end_scores(world.scalar, model, row_BL, jnp.ones_like(row_BL))[0])

    for control in CONTROLS:
        answers = control.answers([triple.chosen for triple in data.triples("heldout")])
        sides = [
            (e, list(map(int, answer.split())), list(e.chosen)) for e, answer in zip(examples, answers, strict=True)
        ]
        h_N = np.array([score(e, new, old) - score(e, old, new) for e, new, old in sides if new != old])
        assert found[control.name] == standing(h_N), control.name
    assert found["copy"].prompts == 0 < found["cut"].prompts < found["empty"].prompts


def test_controls_of_answers_that_none_of_them_changes(place: MakeContext) -> None:
    """Nothing is asked, and nothing is refused."""
    context = finish_parents(place())
    data: Any = context.data
    data.folds["heldout"] = [replace(example, chosen=[]) for example in data.folds["heldout"]]
    found = gap.heldout_controls(context, Models(context).load(GAP))
    assert found == {control.name: Standing(0, 0.0, 0.0) for control in CONTROLS}


@pytest.mark.parametrize(
    ("taste", "failed"),
    [
        (lambda prompt, answer: len(answer.ids), ["longest", "another"]),
        (lambda prompt, answer: -len(answer.ids), ["empty", "another", "cut"]),
        (lambda prompt, answer: 0, ["empty", "another", "cut"]),
        (lambda prompt, answer: 9 * (prompt in answer.text) + len(set(answer.ids)), []),
    ],
    ids=["length", "brevity", "nothing", "content"],
)
def test_what_a_gap_model_likes_decides_its_controls(
    place: MakeContext, monkeypatch: pytest.MonkeyPatch, taste: Any, failed: list[str]
) -> None:
    """Sixty answers that say their prompt first, then "7"; RL is refused by the first gate that fails."""
    context = place()
    data: Any = context.data
    words = [[10 + i % 30, 11 + i // 30, 7] for i in range(60)]
    data.folds["heldout"] = [Example(ids[:2], [3, *ids[:2]], ids, [8]) for ids in words]

    def gaps(params: Any, prompts: Any, candidates: Any, references: Any) -> list[float]:
        rows = zip(prompts, candidates, references, strict=True)
        return [1.0 + taste(prompt, a) - taste(prompt, b) for prompt, a, b in rows]

    engine = SimpleNamespace(template=context.data.template, gaps=gaps)
    monkeypatch.setattr(gap, "text_engine", lambda context: engine)
    leave_quality(context, 0.5, **gap.heldout_controls(context, {}))
    if failed:
        with pytest.raises(
            UserError, match=f"gate {failed[0]} -?[01].[0-9]+, asked for at least .*{', '.join(failed[1:])}"
        ):
            gap.require_gates(context)
    written = read(context, "quality.json")["gates"]
    assert [gate["name"] for gate in written if not gate["passed"]] == failed


def test_rl_refuses_a_gap_model_that_fails_a_gate(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file alone: no model is loaded and nothing is compiled."""
    context = place()
    path = leave_quality(context, 0.05)
    monkeypatch.setattr(params, "restored", None)
    with pytest.raises(UserError) as error:
        gap.require_gates(context)
    assert str(error.value) == (
        f"stage rl-improver refuses the gap model of {path.parent}: gate reference 0.050, asked for at least 0.200 "
        "(the gap hardly moves, or moves the wrong way, with the reference: the model ignores it). Mend its data or "
        f"its training (delete {path.parent} to train it again), move the limit with --rm.gates.min-share, or run "
        "anyway with --rl.ignore-gates"
    )


def test_a_refusal_names_the_other_gates_that_failed(place: MakeContext) -> None:
    context = place(with_gates(min_weakest=0.9))
    leave_quality(context, 0.05)
    with pytest.raises(UserError, match=r"the model ignores it\); also failed: weakest\. Mend its data"):
        gap.require_gates(context)


def test_a_good_gap_model_passes_without_a_word(place: MakeContext) -> None:
    context = place()
    leave_quality(context, 0.5)
    assert gap.require_gates(context) == {}


def test_failed_gates_can_be_ignored_and_are_noted(place: MakeContext) -> None:
    context = place(with_gates(ignore_gates=True, min_weakest=0.9))
    leave_quality(context, 0.05)
    assert gap.require_gates(context) == {
        "gates": "ignored: reference 0.050, asked for at least 0.200; weakest 0.800, asked for at least 0.900"
    }


def test_limits_are_those_of_the_run_that_asks(place: MakeContext) -> None:
    """Moving a limit needs no new measurement, and the file that the report reads says which limit held."""
    path = leave_quality(place(), 0.05)
    before = json.loads(path.read_text())
    looser = place(with_gates(min_share=0.01))
    assert gap.require_gates(looser) == {}
    after = json.loads(path.read_text())
    assert after["quality"] == before["quality"]
    assert [g["passed"] for g in before["gates"] if g["name"] == "reference"] == [False]
    assert [(g["passed"], g["limit"]) for g in after["gates"] if g["name"] == "reference"] == [(True, 0.01)]


def test_a_gap_model_that_nobody_measured_is_measured_first(place: MakeContext) -> None:
    context = finish_parents(place(with_gates(ignore_gates=True)))
    notes = gap.require_gates(context)
    assert notes["gates"].startswith("ignored: ")  # a random model
    assert read(context, "quality.json")["quality"]["pairs"] == 24


def test_figures_without_controls_are_measured_again(place: MakeContext) -> None:
    """quality.json of a gap model that met none."""
    context = finish_parents(place(with_gates(ignore_gates=True)))
    path = leave_quality(context, 0.5)
    content = json.loads(path.read_text())
    del content["quality"]["controls"]
    path.write_text(json.dumps(content))
    gap.require_gates(context)
    assert read(context, "quality.json")["quality"]["controls"].keys() == SOUND.keys()


@pytest.mark.parametrize("whole", [True, False])
def test_a_parent_run_keeps_its_own_verdict(place: MakeContext, tmp_path: Path, whole: bool) -> None:
    """A branch with other limits judges the same figures, and writes nothing into the run that it branches off; nor
    where it must measure what its parent lacks."""
    parent = finish_parents(place())
    folder = parent.folder_of(GAP)
    folder.begin(parent.config, data_fingerprint=parent.data.fingerprint)
    for above in (SFT_IMPROVER, SFT_POLICY):
        parent.folder_of(above).begin(parent.config, data_fingerprint=parent.data.fingerprint)
    path = leave_quality(parent, 0.05)
    if not whole:
        content = json.loads(path.read_text())
        del content["quality"]["controls"]
        path.write_text(json.dumps(content))
    before = {file: file.read_bytes() for file in folder.path.iterdir()}
    config = replace(
        with_gates(min_share=0.01, ignore_gates=True), workdir=str(tmp_path / "branch"), parent_run=str(tmp_path)
    )
    config = replace(config, data=parent.config.data, transformer=parent.config.transformer)
    branch = replace(parent, config=config, run=replace(parent.run, config=config))
    assert branch.folder_of(GAP).path == folder.path
    assert (gap.require_gates(branch) == {}) == whole
    assert {file: file.read_bytes() for file in folder.path.iterdir()} == before


def test_a_table_for_the_terminal_marks_what_failed(place: MakeContext) -> None:
    quality = restore(json.loads(leave_quality(place(), 0.05).read_text())["quality"])
    table = gates_table(gates(quality, GatesConfig()))
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("reference", "0.050", "≥ 0.200", "failed") in cells
    assert ("length", "–", "≤ 0.500", "passed") in cells
    assert [row.style for row in table.rows].count("red") == 1


def test_the_selection_score_is_the_mean_of_the_five_accuracies() -> None:
    metrics = {f"gap/acc_{i}": 0.1 * i for i in range(1, 6)} | {"loss": 9.0, "gap/mean_wl": 5.0}
    assert gap.mean_accuracy(metrics) == pytest.approx(0.3)


@pytest.fixture(scope="module")
def gap_params(world: World) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module")
def batch(world: World) -> GapBatch:
    """Random pairs, and the corners: empty answers, equal answers."""
    corners = [Example([9], [3, 9], [], [7, 8]), Example([9], [3], [7, 8], []), Example([8], [3, 8], [7], [7])]
    found: GapBatch = world.batch("gap", [*world.examples(5), *corners])
    return found


@pytest.mark.parametrize(("terms", "smoothing"), [("five", 0.0), ("five", 0.1), ("pair", 0.1)])
def test_the_loss_is_the_objective_on_the_trees_gaps(
    world: World, gap_params: Any, batch: GapBatch, terms: Literal["five", "pair"], smoothing: float
) -> None:
    """Labels are smoothed in the loss of five terms alone."""
    config = Config(rm=RmConfig(gap_loss=terms, label_smoothing=smoothing))
    loss_of = gap.make_loss(world.scalar, gap.objective_of(config, "improver"))
    loss, metrics = jax.jit(loss_of)(gap_params, batch, jax.random.key(0))
    gaps = jax.jit(lambda params, batch: tree_gaps(world.scalar, params, batch))(gap_params, batch)
    found = {name: np.asarray(gap_B, np.float64) for name, gap_B in gaps.items()}
    five = (("wl", "ww"), ("wl", "ll"), ("wl", "lw"), ("ww", "lw"), ("ll", "lw"))
    pairs = five if terms == "five" else (("wl", "lw"),)
    wrong = smoothing if terms == "five" else 0.0
    loss_B: Any = sum(
        (1 - wrong) * np.log1p(np.exp(found[b] - found[a])) + wrong * np.log1p(np.exp(found[a] - found[b]))
        for a, b in pairs
    )
    np.testing.assert_allclose(loss, loss_B.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["gap/mean_wl"].value, found["wl"].mean(), rtol=1e-5)
    assert float(metrics["loss"].count) == len(found["wl"])


def test_a_second_gap_model_has_another_head_and_another_order(
    place: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same pairs, all five terms of the loss and the same SFT weights below the head; its own number of updates."""
    begun: dict[str, tuple[Task, Any]] = {}

    def noted(context: Context, task: Task, models: Models, start: Any) -> tuple[int, str]:
        begun[context.folder.name] = (task, start())
        return 1, "digest"

    measured: list[tuple[str, Any]] = []
    monkeypatch.setattr(gap, "train", noted)
    monkeypatch.setattr(
        gap, "measure_gates", lambda context, params: measured.append((context.folder.name, context.folder.done()))
    )
    losses: list[tuple[float, float]] = []

    def with_loss_of(model: Any, objective: Any, slots: Any) -> None:
        """Where all gaps are equal the pair's one term is ln 2, and five are five times that, smoothed or not."""
        smoothed, _ = objective(*(jnp.array([x]) for x in (1.0, 0.0, 0.0, 0.0)))
        losses.append((float(objective(*[jnp.zeros(1)] * 4)[0] / np.log(2)), float(smoothed)))

    monkeypatch.setattr(gap, "make_loss", with_loss_of)
    base = Config()
    knobs: dict[str, Any] = {
        "improver_steps": 7,
        "second_gap_steps": 5,
        "gap_loss": "pair",
        "negatives": 0.5,
        "label_smoothing": 0.1,
    }
    config = replace(base, rm=replace(base.rm, **knobs))
    for stage in (GAP, SECOND):
        context = finish_parents(place(config, stage))
        context.folder.path.mkdir(exist_ok=True)
        gap.run(context)
        assert context.folder.done() == {"round": 1, "digest": "digest"}
    (first, first_start), (second, second_start) = begun["rm-improver"], begun["rm-second-gap"]
    assert (first.steps, second.steps) == (7, 5)
    down, up = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    np.testing.assert_allclose(losses, [(1, down), (5, 3 * (0.9 * down + 0.1 * up) + 2 * np.log(2))], rtol=1e-5)
    assert measured == [("rm-improver", None)], "before it is finished; the second one has no gates"
    assert second.score is first.score
    assert min(len(first.rows), len(second.rows)) > 24 == len(first.heldout) == len(second.heldout), "none is held out"
    heads = [np.asarray(start.pop("head")["kernel"]) for start in (first_start, second_start)]
    assert np.abs(heads[0] - heads[1]).min() > 0
    for a, b in zip(jax.tree.leaves(first_start), jax.tree.leaves(second_start), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [Stream(t.rows, batch_size=len(t.rows), seed=t.seed).rows(0) for t in (first, second)]
    assert sorted(rows[0]) == sorted(rows[1]) and (rows[0] != rows[1]).any()
