"""The paper's systems on random models: who is compared, what every answer cost, and the numbers of other stages."""

import io
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pit_jax.batch import Answer
from pit_jax.config import Config, PaperConfig
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.notes import NOTES
from pit_jax.evaluation.results import ComparisonRow, PaperResults, RatingRow, Results, read_results
from pit_jax.evaluation.stats.ratings import rate_prompts
from pit_jax.evaluation.systems import CHOSEN, DPO, POLICY, SFT_IMPROVER, Output, SystemId, pit
from pit_jax.files import read_jsonl
from pit_jax.model.flops import Work
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison import costs, evaluate, improve, paper
from pit_jax.recipes.comparison.ablations import ABLATIONS, branched
from pit_jax.recipes.comparison.draw import Answering, heldout_prompts
from pit_jax.recipes.comparison.judging import Judging
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen
from tests.recipes.comparison.conftest import CONFIG
from tests.recipes.comparison.test_refine import NUMBERS
from tests.world import MakeContext, finish

PAPER, IMPROVE = StageId("paper"), StageId("improve")
REFINED, ONE_LINE = SystemId("self-refine", 4), SystemId("one-line")
FIRST_ONLY, RLHF = ABLATIONS["first-only"].system, ABLATIONS["direct-rlhf"].system


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two temperatures, two rounds, an ablation of either kind, and Self-Refine in numbers."""
    folder = tmp_path / "wording"
    folder.mkdir()
    for name, text in NUMBERS.items():
        (folder / f"{name}.txt").write_text(text)
    knobs = PaperConfig(
        ablations=("first-only", "direct-rlhf"),
        temperatures=(0.5, 0.8),
        temperature=0.8,
        rounds=2,
        wording=str(folder),
        refine_length=24,
    )
    return replace(CONFIG, seed=1, paper=knobs)


@pytest.fixture
def written(ready: MakeContext, mesh: Any, config: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Context]:
    """written() -> the context of a paper whose results are on disk, and whose ablations are finished.

    The truth is the sum of an answer's numbers: random answers differ in it, and hardly in their length.
    """
    summed = replace(NOTES, score=lambda prompt, answer: float(sum(map(int, answer.split()))), flaws=None)
    monkeypatch.setitem(WORLDS._values, NOTES.name, summed)

    def run() -> Context:
        context = ready(config, PAPER, truth=True)
        for name in config.paper.ablations:
            finish(branched(context, ABLATIONS[name]).folder_of(ABLATIONS[name].stages[-1]))
        paper.run(context)
        return context

    return run


def results_of(context: Context) -> PaperResults:
    found = read_results(context.folder_of(PAPER).path / "results.json", PaperResults)
    assert found is not None
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_the_results_of_a_run(written: Callable[[], Context]) -> None:
    results = results_of(written())
    systems = [row.system for row in results.systems]
    best = next(system for system in systems if system.kind == "best-of-n")
    others = [CHOSEN, SFT_IMPROVER, FIRST_ONLY, RLHF, DPO, best, REFINED, ONE_LINE]
    assert systems == [POLICY, pit(1), pit(2), *others]
    assert [row.name for row in results.systems] == [str(system) for system in systems]
    for judge in ("rubric", "gap"):
        assert [row.left for row in results.table if row.judge == judge] == systems[1:]
    assert {row.right for row in results.table} == {POLICY} and {row.n for row in results.table} == {6}
    assert {row.temperature for row in results.sweep} == {0.5, 0.8} and len(results.sweep) == 2 * 3 * 2
    pairs = {(row.left, row.right) for row in results.curriculum}
    assert pairs == {(pit(1), POLICY), *((pit(1), other) for other in (SFT_IMPROVER, FIRST_ONLY))} | {
        (other, POLICY) for other in (SFT_IMPROVER, FIRST_ONLY)
    }
    assert all(len(rows) == 1 + 2 * 2 for rows in results.ratings.values())
    assert all(rows == sorted(rows, key=lambda row: -row.rating) for rows in results.ratings.values())
    assert [row.name for row in results.gap_losses] == ["five terms", "difference of two scores"]
    difference = results.gap_losses[-1].quality
    assert difference is not None and difference.reference_share == 0.5
    assert (difference.agreement.tie, difference.agreement.antisymmetry) == (0.0, 0.0)
    assert results.failures and {found.judge for found in results.failures} == {"rubric"}
    assert all(found.score_before is not None and found.score_after < found.score_before for found in results.failures)
    assert any(row.delta for row in results.table if row.judge == "rubric")
    check_costs(results, systems)


def check_costs(results: PaperResults, systems: list[SystemId]) -> None:
    """Nobody drew the chosen answers; who rewrites pays for what it rewrites."""
    spent = {row.name: row.flops for row in results.costs.answers}
    assert list(spent) == [str(system) for system in systems if system != CHOSEN]
    assert spent["policy"] < spent["SFT improver x1"] and spent["PIT x1"] < spent["PIT x2"]
    assert spent["policy"] < spent["one-line"] < spent["Self-Refine x4"]
    trained = [row.name for row in results.costs.training]
    assert trained[-3:] == ["dpo-policy", "first-only: rl-improver", "direct-rlhf: rl-policy"]
    assert "rm-second-gap" not in trained, "nobody has trained it"
    assert all(row.flops > 0 and row.tokens > 0 for row in results.costs.training)


def numbers(row: ComparisonRow) -> dict[str, Any]:
    return vars(row)


def test_one_system_at_one_temperature_has_one_number_everywhere(
    ready: MakeContext,
    mesh: Any,
    without_outputs: None,
    config: Config,
    written: Callable[[], Context],
    tmp_path: Path,
) -> None:
    """improve, evaluate and paper read the same answers and the same verdicts, whoever is first."""
    improve.run(ready(config, IMPROVE, truth=True))
    drawn = snapshot(tmp_path / "answers")
    assert set(drawn) == {"policy@0.8.jsonl", "pit@0.8.jsonl"}
    context = ready(config, truth=True)
    evaluate.run(context)
    answers, verdicts = snapshot(tmp_path / "answers"), snapshot(tmp_path / "verdicts")
    assert {name: answers[name] for name in drawn} == drawn
    results = results_of(written())
    assert {name: snapshot(tmp_path / "answers")[name] for name in answers} == answers
    assert {name: snapshot(tmp_path / "verdicts")[name] for name in verdicts} == verdicts
    evaluated = read_results(tmp_path / "evaluate" / "results.json", Results)
    assert evaluated is not None

    told = {(row.judge, row.left, row.right): numbers(row) for row in evaluated.rows}
    again = [row for row in (*results.table, *results.curriculum, *results.sweep) if row.temperature == 0.8]
    shared = [row for row in again if (row.judge, row.left, row.right) in told]
    assert len(shared) > 10
    assert all(numbers(row) == told[row.judge, row.left, row.right] for row in shared)
    measured = {row.system: row for row in evaluated.systems}
    both = [row for row in results.systems if row.system in measured]
    assert [row.system for row in both] == [POLICY, pit(1), pit(2), SFT_IMPROVER]
    assert all(row == measured[row.system] for row in both)
    trails = read_jsonl(tmp_path / "improve" / "trails.jsonl")
    scores = [np.mean([row["scores"][round] for row in trails]) for round in range(3)]
    assert scores == pytest.approx([measured[system].score_mean for system in (POLICY, pit(1), pit(2))])


def test_every_comparison_of_a_run_is_over_the_same_prompts(
    ready: MakeContext, mesh: Any, without_outputs: None, config: Config, written: Callable[[], Context]
) -> None:
    """evaluate.prompts counts for all; no other stage has a number of its own."""
    context = written()
    assert results_of(context).prompts == config.evaluate.prompts == len(heldout_prompts(context).texts) == 6
    for id in (PAPER, IMPROVE, StageId("evaluate")):
        assert catalogue()[id].depends_on(config)["evaluate.prompts"] == 6


def test_a_killed_paper_goes_on_where_it_stopped(written: Callable[[], Context], tmp_path: Path) -> None:
    """Killed between the sweep and its results: what was drawn stays, and the results are those of a whole run."""
    whole = (results_of(written()), snapshot(tmp_path / "answers"))
    (tmp_path / "paper" / "results.json").unlink()
    (tmp_path / "paper" / "done.json").unlink()
    answers = tmp_path / "answers"
    (answers / "self-refine-x4@0.5.jsonl").unlink()
    path = answers / "dpo@0.8.jsonl"
    path.write_bytes(path.read_bytes()[:-200])
    before = snapshot(answers)
    again = results_of(written())
    assert again == whole[0]
    after = {name: content for name, (_, content) in snapshot(answers).items()}
    assert after == {name: content for name, (_, content) in whole[1].items()}
    kept = before.keys() - {path.name}
    assert {name: before[name] for name in kept} == {name: snapshot(answers)[name] for name in kept}


RATED = (POLICY, pit(1), pit(2), SystemId("self-refine", 1), SystemId("self-refine", 2))


def rated(ready: MakeContext, config: Config, counts: np.ndarray) -> tuple[dict[str, list[RatingRow]], str]:
    """(ratings of answers with so many words, [systems, prompts], by the rubric; what was said)."""
    context = ready(replace(config, evaluate=replace(config.evaluate, judges=("rubric",))), PAPER, truth=True)
    console = Console(record=True, width=200, file=io.StringIO())
    context = replace(context, screen=Screen(console))
    outputs = {}
    for system, counts_N in zip(RATED, counts.tolist(), strict=True):
        answers = [Answer(" ".join(["7"] * count), (*[7] * count, 1)) for count in counts_N]
        outputs[system] = Output(answers, [f"{system} {i}" for i in range(6)], np.ones(6))
    found = paper.ratings(context, Judging(Answering(context, heldout_prompts(context))), outputs)
    return found, console.export_text()


def test_ratings_are_of_the_outcomes_of_all_pairs(ready: MakeContext, config: Config) -> None:
    """The same games by hand: 1 where the left answer has more words, 0.5 for as many."""
    counts = np.random.default_rng(3).integers(1, 5, (5, 6))
    counts[:, 0], counts[:, 1] = range(1, 6), range(5, 0, -1)  # everybody wins somewhere
    found, _ = rated(ready, config, counts)
    games = {
        (str(RATED[i]), str(RATED[j])): 0.5 + 0.5 * np.sign(counts[i] - counts[j])
        for i, j in itertools.combinations(range(5), 2)
    }
    strengths = rate_prompts(games, scale=400, base=10, resamples=20, seed=1)
    assert list(found) == ["rubric"]
    told = {str(row.system): (row.rating, row.low, row.high) for row in found["rubric"]}
    assert told == {name: (one.rating, one.low, one.high) for name, one in strengths.items()}
    assert [row.rating for row in found["rubric"]] == sorted((row.rating for row in found["rubric"]), reverse=True)


def test_a_system_that_always_wins_has_no_rating(ready: MakeContext, config: Config) -> None:
    counts = np.ones((5, 6), int)
    counts[1] = 3
    found, said = rated(ready, config, counts)
    assert found == {} and "ratings by rubric: " in said


def test_a_reply_costs_its_passes(ready: MakeContext, config: Config) -> None:
    """An answer, its rewrite and a prompted review, from the same shapes as the trainings."""
    context = ready(config, PAPER)
    shapes = costs.shapes_of(context)
    passes, prompt, slot = shapes.passes, shapes.layout.prompt_slot, shapes.layout.response_slot
    first = Output([], [], np.array([4.0, 6.0]))
    rewritten = Output([], [], np.array([8.0, 12.0]), replies=2.0, reference=first)
    refined = Output([], [], np.array([14.0, 16.0]), replies=3.0, reference=first)
    best = Output([], [], np.array([10.0, 10.0]), replies=2.0)
    answer = passes.draw(prompt, slot, 5.0)
    assert costs.answer_work(context, POLICY, first) == Work(5.0, answer.flops)
    rewrite = passes.draw(shapes.improver_slot, slot, 5.0)
    assert costs.answer_work(context, pit(1), rewritten) == Work(10.0, answer.flops + rewrite.flops)
    review = passes.draw(24, slot, 5.0)  # refine_length
    assert costs.answer_work(context, REFINED, refined) == Work(15.0, answer.flops + 2 * review.flops)
    scored = 2 * passes.score(prompt + slot)
    assert costs.answer_work(context, SystemId("best-of-n", 2), best).flops == pytest.approx(
        2 * answer.flops + scored.flops
    )
    assert costs.answer_work(context, CHOSEN, Output([], [], np.zeros(2), replies=0.0)) == Work()


def test_trainings_that_a_run_has_not_finished_cost_nothing(ready: MakeContext, config: Config) -> None:
    context = ready(config, StageId("evaluate"))
    found = [str(stage.id) for stage, _ in costs.trainings(context)]
    assert found == ["sft-policy", "sft-improver", "rm-policy", "rm-improver", "rl-policy", "rl-improver"]


def test_a_paper_is_finished_until_its_words_change(ready: MakeContext, config: Config) -> None:
    """The wording by its content: read again or elsewhere it is the same, one word more is another."""
    context = ready(config, PAPER)
    stage = catalogue()[PAPER]
    before = stage.depends_on(context.config)
    moved = shutil.copytree(config.paper.wording, f"{config.paper.wording}-moved")
    assert stage.depends_on(replace(context.config, paper=replace(config.paper, wording=moved))) == before
    path = Path(config.paper.wording) / "refine.txt"
    path.write_text(path.read_text() + " 9")
    changed = stage.depends_on(context.config)
    assert {name for name in before if before[name] != changed[name]} == {"contents of paper.wording"}


def test_what_is_trained_before_lies_in_this_run_and_its_branches(config: Config) -> None:
    found = [(Path(branch.workdir).name, str(id)) for branch, id in catalogue()[PAPER].branches(config)]
    assert found == [("tiny", "dpo-policy"), ("first-only", "rl-improver"), ("direct-rlhf", "rl-policy")]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ablations": ("first",)}, "--paper.ablations: found first; name each of first-only"),
        ({"wording": "nowhere"}, "feedback.txt: no such file; the wording needs feedback.txt"),
    ],
)
def test_knobs_that_make_no_table_are_refused(config: Config, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue()[PAPER].check(replace(config, paper=replace(config.paper, **knobs)))


def test_a_branch_has_no_paper_of_its_own(config: Config) -> None:
    with pytest.raises(ValueError, match="--stage=paper makes branches of a run: leave --parent-run out"):
        catalogue()[PAPER].check(replace(config, parent_run="runs/other"))
