"""Answers of a run's systems: drawn once, the same however they are asked for, and read back by everybody."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Answer, Triple
from pit_jax.data.text.word_model import WordModel
from pit_jax.evaluation.answers import AnswerFile
from pit_jax.evaluation.systems import DPO, POLICY_SFT, SFT_IMPROVER, Output, SystemId, pit
from pit_jax.files import read_jsonl
from pit_jax.inference.best_of_n import n_for_budget
from pit_jax.inference.stopping import chosen_round
from pit_jax.recipes.catalogue import GAP, catalogue
from pit_jax.recipes.comparison import draw
from pit_jax.recipes.comparison.draw import IMPROVER_RL, Answering, heldout_prompts
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from tests.recipes.comparison.conftest import CONFIG
from tests.world import MakeContext, finish

PROMPTS = ["7 8 9", "10", "11 12", "13 14 15 16", "17", "18 19", "20 21 22", "23", "24 25", "26"]
BEST = SystemId("best-of-n", 3)
Make = Callable[..., Answering]
Files = dict[str, list[dict[str, Any]]]


def everything(asked: Answering, rounds: int = 2, temperature: float = 0.8) -> dict[SystemId, Output]:
    """Every kind of system that an Answering draws."""
    policy, improver = (asked.source(StageId("sft", role)) for role in ("policy", "improver"))
    trail = asked.trail(temperature, rounds)
    return {
        **{pit(round): output for round, output in enumerate(trail)},
        SFT_IMPROVER: asked.improved_by(SFT_IMPROVER, temperature, 1, improver)[1],
        POLICY_SFT: asked.answered_by(POLICY_SFT, temperature, policy),
        DPO: asked.answered_by(DPO, temperature, asked.source(StageId("dpo", "policy"))),
        BEST: asked.best_of_n(BEST, temperature),
    }


def files_in(folder: Path) -> Files:
    """The rows of every file."""
    return {path.name: read_jsonl(path) for path in folder.glob("*.jsonl")}


def assert_same(ours: Files, theirs: Files) -> None:
    """The same rows, token for token; gaps of other batches may differ in their last bits."""
    assert ours.keys() == theirs.keys() and len(ours) == 6
    for name in ours:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(mine.pop("gaps"), other.pop("gaps"), atol=1e-5)
            assert mine == other, name


def tokens(output: Output) -> list[tuple[int, ...]]:
    return [answer.ids for answer in output.answers]


def test_every_system_has_a_file_of_its_own(answering: Make, mesh: Any, tmp_path: Path) -> None:
    outputs = everything(answering(PROMPTS))
    names = ("policy", "pit", "sft-improver", "policy-sft", "dpo", "best-of-n-x3")
    assert set(files_in(tmp_path / "answers")) == {f"{name}@0.8.jsonl" for name in names}
    assert len({tuple(tokens(output)) for output in outputs.values()}) == len(outputs) == 7
    for output in outputs.values():
        assert len(output.answers) == len(set(output.keys)) == len(PROMPTS)
        np.testing.assert_array_equal(output.lengths_N, [len(ids) for ids in tokens(output)])


def test_another_reader_draws_nothing_and_touches_nothing(
    answering: Make, mesh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rounds and fewer prompts are there as well; no model is read for them."""
    drawn = everything(answering(PROMPTS))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "answers").iterdir()}
    monkeypatch.setattr(Models, "load", lambda self, id: pytest.fail(f"{id} was loaded"))
    read = everything(answering(PROMPTS))
    assert list(read) == list(drawn)
    for system, output in read.items():
        assert (output.answers, output.keys, output.replies) == (
            drawn[system].answers,
            drawn[system].keys,
            drawn[system].replies,
        )
        np.testing.assert_array_equal(output.drawn_N, drawn[system].drawn_N)
    assert everything(answering(PROMPTS[:4]), rounds=1)[pit(1)].answers == drawn[pit(1)].answers[:4]
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_more_prompts_and_more_rounds_equal_all_at_once(answering: Make, mesh: Any, tmp_path: Path) -> None:
    """Six prompts and two rounds, then ten and three, in batches of four: the second batch is half there."""
    everything(answering(PROMPTS, "at once"), rounds=3)
    everything(answering(PROMPTS[:6], "later"), rounds=2)
    first = files_in(tmp_path / "later")
    everything(answering(PROMPTS, "later"), rounds=3)
    second = files_in(tmp_path / "later")
    for name, rows in first.items():
        for old, new in zip(rows, second[name], strict=False):
            kept = len(old["drafts"])
            for field in ("drafts", "tokens", "replies", "gaps"):
                assert new[field][:kept] == old[field], "what was there stays"
            assert (new["index"], new["prompt"], new["key"]) == (old["index"], old["prompt"], old["key"])
    assert_same(second, files_in(tmp_path / "at once"))


def test_a_kill_inside_a_batch_costs_the_rows_that_it_cut_off(answering: Make, mesh: Any, tmp_path: Path) -> None:
    everything(answering(PROMPTS, "whole"))
    everything(answering(PROMPTS, "killed"))
    for path in (tmp_path / "killed").iterdir():
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([*lines[:5], lines[5][:30]]))  # the second batch has one row and a half
    everything(answering(PROMPTS, "killed"))
    assert_same(files_in(tmp_path / "killed"), files_in(tmp_path / "whole"))


def test_every_improver_rewrites_the_same_originals_and_pays_for_them(answering: Make, mesh: Any) -> None:
    asked = answering(PROMPTS)
    trail = asked.trail(1.0, 2)
    other = asked.improved_by(SFT_IMPROVER, 1.0, 1, asked.source(StageId("sft", "improver")))
    assert other[0] is trail[0] and other[1].reference is trail[0] and tokens(other[1]) != tokens(trail[1])
    assert [output.reference for output in trail] == [None, trail[0], trail[1]]
    for round, output in enumerate(trail):
        np.testing.assert_array_equal(output.drawn_N, sum(before.lengths_N for before in trail[: round + 1]))
        assert output.replies == round + 1


@pytest.mark.parametrize(("stop", "threshold"), [("best", 0.0), ("threshold", 0.05)])
def test_a_rule_chooses_among_the_same_drafts(
    answering: Make, mesh: Any, tmp_path: Path, stop: Any, threshold: float
) -> None:
    """By the gaps that are on disk; what a trail that is over would have drawn is not paid for."""
    knobs = replace(CONFIG.improve, stop=stop, stop_threshold=threshold)
    usual = answering(PROMPTS).trail(1.0, 2)
    ruled = answering(PROMPTS, config=replace(CONFIG, improve=knobs)).trail(1.0, 2)
    rows = read_jsonl(AnswerFile(tmp_path / "answers", pit(0).trail, 1.0).path)
    chosen = [[chosen_round(row["gaps"], stop, rounds=k, threshold=threshold) for row in rows] for k in range(3)]
    assert len({*chosen[2]}) > 1 and chosen[0] == [0] * len(PROMPTS)
    for round, output in enumerate(ruled):
        assert tokens(output) == [tokens(usual[k])[row] for row, k in enumerate(chosen[round])]
        assert output.keys == [usual[k].keys[row] for row, k in enumerate(chosen[round])]
    over = [stop == "threshold" and row["gaps"][0] < threshold for row in rows]
    saved_N = (usual[2].drawn_N - ruled[2].drawn_N).tolist()
    assert saved_N == [tokens_N * off for tokens_N, off in zip(usual[2].lengths_N, over, strict=True)]
    assert any(over) == (stop == "threshold") and ruled[2].replies == 3 - np.mean(over)


def test_temperatures_draw_apart_and_greedily_without_luck(answering: Make, mesh: Any) -> None:
    asked = answering(PROMPTS)
    assert len({tuple(tokens(asked.policy(temperature))) for temperature in (0.0, 0.5, 1.0)}) == 3
    other = answering(PROMPTS, "other", config=replace(CONFIG, seed=1))
    assert tokens(other.policy(0.0)) == tokens(asked.policy(0.0))
    assert tokens(other.policy(1.0)) != tokens(asked.policy(1.0))


def test_best_of_n_spends_about_what_its_rival_spends(answering: Make, mesh: Any) -> None:
    asked = answering(PROMPTS)
    trail = asked.trail(1.0, 2)
    budget, first = int(trail[2].drawn_N.sum()), int(trail[0].drawn_N.sum())
    n = n_for_budget(budget, first)
    best = asked.best_of_n(SystemId("best-of-n", n), 1.0)
    assert 2 <= n <= 6 and best.replies == n and (best.drawn_N > best.lengths_N).all()
    assert abs(int(best.drawn_N.sum()) - budget) <= 0.25 * budget


def test_a_word_model_counts_in_gaps_and_in_the_best_of_n(
    answering: Make, mesh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drafts stay; a gap has its weighted gap beside it, and the best of n the best sum. Other weights, other rows:
    answers that were chosen by one are not taken for those of the other."""
    words = WordModel.of([Triple("7 8", f"{word} {word + 1}", f"{word} 40") for word in range(9, 39)])
    config = replace(CONFIG, rm=replace(CONFIG.rm, word_model=2.0))
    monkeypatch.setattr(draw, "word_model_of", lambda context: words if context.config.rm.word_model else None)
    plain, asked = answering(PROMPTS), answering(PROMPTS, "words", config=config)
    rows, usual = (
        [row for row in each.trail_rows(pit(0), 1.0, 2, each.source(IMPROVER_RL), gaps=True)] for each in (asked, plain)
    )
    originals = plain.policy(1.0).answers
    for row, other, original in zip(rows, usual, originals, strict=True):
        assert row.drafts == other.drafts
        texts = [answer.text for answer in (original, *row.drafts)]
        gained_N = words.gaps([row.prompt] * 2, texts[1:], texts[:-1])
        np.testing.assert_allclose(np.array(row.gaps) - other.gaps, 2.0 * gained_N, rtol=1e-4, atol=1e-5)
    assert any(np.sign(row.gaps[0]) != np.sign(other.gaps[0]) for row, other in zip(rows, usual, strict=True))
    assert tokens(asked.best_of_n(BEST, 1.0)) != tokens(plain.best_of_n(BEST, 1.0))
    with pytest.raises(ValueError, match=r"pit@1.jsonl holds answers .*; delete it to draw them again"):
        answering(PROMPTS, config=config).trail(1.0, 2)
    with pytest.raises(ValueError, match=r"best-of-n-x3@1.jsonl holds answers"):
        answering(PROMPTS, config=config).best_of_n(BEST, 1.0)


def test_a_difference_of_scores_chooses_among_drafts_where_it_rewards_the_improver(answering: Make, mesh: Any) -> None:
    """The reward model's; of the gap model, which nothing else there needs, improving asks nothing."""
    config = replace(CONFIG, rl=replace(CONFIG.rl, reward="difference"))
    asked = answering(PROMPTS, config=config)
    rows, reward = asked.trail_rows(pit(0), 1.0, 2, asked.source(IMPROVER_RL), gaps=True), asked.source(draw.REWARD)
    for row, original in zip(rows, asked.policy(1.0).answers, strict=True):
        scores_N = asked.texts.scores(reward.params, [row.prompt] * 3, [original, *row.drafts])
        np.testing.assert_allclose(row.gaps, np.diff(scores_N), rtol=1e-4, atol=1e-5)
    assert np.std([row.gaps for row in rows]) > 0
    for reads, scorer in ((CONFIG, GAP), (config, draw.REWARD)):
        scorers = {GAP, draw.REWARD} & set(catalogue()[StageId("improve")].parents(reads))
        assert scorers == {scorer}


def test_given_answers_begin_the_trails(answering: Make, mesh: Any, tmp_path: Path) -> None:
    """Token for token as the tokenizer writes them, and no more; where none is given the policy answers as ever."""
    given = [None, "30 31", "", None, None, "32", None, None, None, "33 34 35 36 37 38 39"]
    asked, alone = answering(PROMPTS, "given", given), answering(PROMPTS, "alone")
    original, drawn = asked.policy(0.8), alone.policy(0.8)
    for text, mine, theirs in zip(given, original.answers, drawn.answers, strict=True):
        expected = theirs if text is None else Answer(text, (*map(int, text.split()), 1))
        assert mine == expected
    spent = [0 if text is not None else len(ids) for text, ids in zip(given, tokens(original), strict=True)]
    assert original.drawn_N.tolist() == spent and original.replies == 0.6
    rows = files_in(tmp_path / "given")["policy@0.8.jsonl"]
    assert [row["replies"] for row in rows] == [[int(text is None)] for text in given]
    improved, usual = (tokens(each.trail(0.8, 1)[1]) for each in (asked, alone))
    same = [mine == theirs for mine, theirs in zip(improved, usual, strict=True)]
    assert all(equal for equal, text in zip(same, given, strict=True) if text is None)
    assert not all(same), "the improver rewrites what it was given"


@pytest.mark.parametrize("change", ["prompts", "seed", "model", "sampling"])
def test_answers_to_something_else_are_refused(answering: Make, mesh: Any, change: str) -> None:
    first = answering(PROMPTS)
    first.policy(0.8)
    config, prompts = CONFIG, PROMPTS
    match change:
        case "prompts":
            prompts = ["30", *PROMPTS[1:]]
        case "seed":
            config = replace(CONFIG, seed=1)
        case "sampling":
            config = replace(CONFIG, improve=replace(CONFIG.improve, top_k=3))
    other = answering(prompts, config=config)
    if change == "model":
        finish(other.context.folder_of(draw.POLICY_RL), "another digest")
    with pytest.raises(ValueError, match=r"policy@0.8.jsonl holds answers to other prompts, or of other models or set"):
        other.policy(0.8)


def test_another_improver_is_refused_its_trails_alone(answering: Make, mesh: Any) -> None:
    answering(PROMPTS).trail(0.8, 1)
    other = answering(PROMPTS)
    finish(other.context.folder_of(IMPROVER_RL), "another digest")
    other.policy(0.8)
    with pytest.raises(ValueError, match=r"pit@0.8.jsonl holds answers .*; delete it to draw them again"):
        other.trail(0.8, 1)


def test_a_mesh_moves_neither_stops_nor_choices(answering: Make, tmp_path: Path) -> None:
    """One device, or eight with parameters and batch split: the same answers, decisions and tokens."""
    found = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        asked = answering(PROMPTS, f"on {shape}", config=CONFIG, mesh=shape)
        with jax.set_mesh(asked.context.mesh):
            improver = asked.source(IMPROVER_RL)
            rows = asked.trail_rows(pit(0), 0.8, 3, improver, gaps=True, threshold=0.0)
            found.append((rows, asked.best_of_n(BEST, 0.8)))
    (one, best), (eight, best_of_eight) = found
    assert [row.drafts for row in eight] == [row.drafts for row in one]
    for mine, other in zip(eight, one, strict=True):
        np.testing.assert_allclose(mine.gaps, other.gaps, atol=1e-5)
    assert len({len(row.drafts) for row in one}) > 1, "some stop and some go on"
    assert tokens(best_of_eight) == tokens(best)


def test_the_heldout_prompts_of_every_comparison(ready: MakeContext) -> None:
    context = ready()
    prompts = heldout_prompts(context)
    assert prompts.texts == [triple.prompt for triple in context.data.triples("heldout")[:6]]
    assert prompts.folder == context.run.workdir / "answers" and not prompts.given


def test_a_model_that_is_not_finished_is_not_asked(answering: Make) -> None:
    asked = answering(PROMPTS)
    (asked.context.folder_of(IMPROVER_RL).path / "done.json").unlink()
    with pytest.raises(AssertionError, match="rl-improver is not finished"):
        asked.source(IMPROVER_RL)


def test_the_engine_over_texts_is_that_of_the_run(ready: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    context = ready()
    texts = draw.text_engine(context)
    assert texts.engine.spec == replace(context.decode_spec, rows=4) and texts.scalar == context.scalar_model
    assert (texts.template, texts.mesh) == (context.data.template, context.mesh)
    assert (texts.prompt_length, texts.batch_size, texts.queue) == (context.config.data.prompt_length, 4, 1)
