"""workdir/report/index.html: what every section shows, what is missing, and text that must not become markup."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.evaluation.gap_quality import FAILURES
from pit_jax.evaluation.results import Results, read_results, write_results
from pit_jax.evaluation.systems import SystemId, pit
from pit_jax.files import write_json, write_jsonl
from pit_jax.report import page
from pit_jax.run.provenance import StageId
from tests.report.pages import Page, built, compared, run_of

HOSTILE = "<script>alert(1)</script>"
TRAINED = [f"{stage}-{role}" for stage in ("sft", "rm", "rl") for role in ("policy", "improver")]


def drop(workdir: Path, *names: str) -> None:
    """Leave out what these stages wrote: a page without figures is quick to build."""
    for name in names or TRAINED:
        shutil.rmtree(workdir / name)


def results_of(workdir: Path) -> Results:
    found = read_results(workdir / "evaluate" / "results.json", Results)
    assert found is not None
    return found


def change_results(workdir: Path, **values: Any) -> None:
    write_results(workdir / "evaluate" / "results.json", replace(results_of(workdir), **values))


def test_a_finished_run_fills_every_section(finished: Path) -> None:
    page = built(finished)
    assert "Not there yet" not in page.text
    assert page.tags.count("svg") == 5
    assert "PIT x1 beats policy by 5.0 points" in page.text
    assert "95% interval +1.6 to +8.4" in page.text
    assert "judged by rubric on 1,024 held-out prompts" in page.text
    for word in (
        "proxy: the gap",
        "truth: the hidden score",
        "references: policy-rl",
        "beat their reference",
        "selected",
    ):
        assert word in page.text
    assert "wl: chosen over rejected, mean +2." in page.text
    places = [page.text.index(word) for word in ("Win, lose and delta", "RL of the improver", "Config and lineage")]
    assert places == sorted(places)


def test_what_was_kept_stands_below_the_deltas(finished: Path) -> None:
    drop(finished)
    words = built(finished).words
    shares = "90.0 89.0 to 91.0 12.5 11.0 to 14.0 40.0 38.0 to 42.0"
    for row in ("PIT x1 0.4", "SFT improver x1 1.0"):
        assert f"{row} {shares} 401 / 291 of 1,507 85.2 of 700 0.71 62.5: +30.0 +28.0 to +32.2" in words
    places = [words.index(title) for title in ("Win, lose and delta", "Kept and new", "Controls")]
    assert places == sorted(places)


def test_what_nobody_knows_of_rewrites_is_left_out(finished: Path) -> None:
    """Flaws and gaps without a truth, and the section in results from before it."""
    drop(finished)
    rewrites = [replace(row, flaws=None, gap=None) for row in results_of(finished).rewrites]
    change_results(finished, rewrites=rewrites)
    words = built(finished).words
    assert "PIT x1 0.4 90.0" in words and "mended" not in words and "gap judge" not in words
    change_results(finished, rewrites=[])
    assert "Kept and new" not in built(finished).words


def test_the_chosen_answer_of_a_trail_is_marked(finished: Path) -> None:
    """The three prompts of the set chose round 2; the last row comes from a run without a choice."""
    drop(finished)
    page = built(finished)
    assert page.pieces.count("chosen") == 3
    assert re.search(r"PIT x2\s*<div[^\n]*chosen</div>", page.text)


def test_monitors_are_marked_and_told(finished: Path) -> None:
    drop(finished, "rl-policy", "rm-policy", "rm-improver", "sft-policy", "sft-improver")
    before = built(finished).text
    assert "monitor" not in before.lower() and "second gap model" not in before
    over = {"name": "second-gap", "round": 50, "figure": 0.31, "limit": 0.1, "meaning": f"two models {HOSTILE} differ"}
    (finished / "rl-improver" / "done.json").write_text(
        json.dumps({"round": 45, "digest": "d", "monitors": [over], "ended": "no better score, after 45 of 60 rounds"})
    )
    path = finished / "rl-improver" / "metrics.jsonl"
    watched = '"second-gap/scores": 0.5, "objective/entropy": 0.2, "val/repetition": 0.1, "a"'
    path.write_text(path.read_text().replace('"val/eos_rate"', watched))
    page = built(finished)
    for words in (
        "monitor: second-gap",
        "second gap model",
        "entropy, nats a token",
        "n-grams that a response repeats",
    ):
        assert words in page.text
    assert "script" not in page.tags
    assert (
        f"Monitor second-gap at round 50: 0.31, limit 0.1 (two models {HOSTILE} differ). Ended early: no better score, "
        "after 45 of 60 rounds."
    ) in "".join(page.pieces)


def test_the_gates_of_the_gap_model_are_shown_with_what_a_failure_means(finished: Path) -> None:
    drop(finished, "rl-policy", "rm-policy", "sft-policy", "sft-improver")
    path = finished / "rm-improver" / "quality.json"
    content = json.loads(path.read_text())
    assert len(content["gates"]) == 14
    content["gates"][4] |= {"figure": 0.0213, "limit": 0.2, "passed": False}
    content["gates"][0] |= {"figure": None}
    path.write_text(json.dumps(content))
    words = built(finished).words
    assert f"reference 0.021 ≥ 0.200 failed: {FAILURES['reference']}" in words
    assert "length – ≤ 0.500 passed" in words and words.count("failed:") == 1
    assert "longest 0.700 ≥ -0.200 passed" in words and "empty – ≥ 0.500 passed" in words
    for group in ("by how sure it is", "by length", "by the true difference", "on outputs"):
        assert group in words
    by_length = content["quality"]["by_length"][0]
    assert f"{by_length['label']} {by_length['pairs']} {by_length['accuracy']:.3f} {by_length['expected']:.3f}" in words
    right = f"{content['quality']['accuracies']['wl_lw']:.3f}"
    agreement = f"(antisymmetry {content['quality']['agreement']['antisymmetry']:.2f})"
    assert f"PIT rewriting policy-rl {agreement} 800 {right}" in words
    assert f"policy against chosen {agreement} 256 – –" in words


def test_a_gap_model_without_measured_gates_still_has_its_section(finished: Path) -> None:
    (finished / "rm-improver" / "quality.json").unlink()
    (finished / "evaluate" / "gap_outputs.json").unlink()
    words = "".join(built(finished).pieces)
    assert "wl: chosen over rejected" in words and "as sure as it says" not in words


@pytest.mark.parametrize(
    ("id", "metric"), [(StageId("rm", "second-gap"), "gap/acc_wl_lw"), (StageId("dpo", "policy"), "accuracy")], ids=str
)
def test_a_stage_of_no_usual_run_has_a_section_once_it_has_begun(finished: Path, id: StageId, metric: str) -> None:
    """Before, nobody is told to run what a run does not need."""
    drop(finished)
    assert str(id) not in built(finished).words
    write_json(finished / str(id) / "config.json", {"seed": 0})
    assert f"{id.flags} writes {id}/metrics.jsonl" in built(finished).words
    rows = [{"step": step, "loss": 1.0 / (1 + step)} for step in range(8)]
    held_out = [row | {"phase": "eval", metric: 0.5} for row in rows]
    write_jsonl(finished / str(id) / "metrics.jsonl", [*(row | {"phase": "train"} for row in rows), *held_out])
    page = built(finished)
    assert page.tags.count("svg") == 1 and f"{id} writes" not in page.words
    for words in (str(id), f"held-out {metric}", f"{id}/config.json"):
        assert words in page.words


def test_a_word_model_is_told_beside_the_reward_models(finished: Path) -> None:
    assert "word model" not in built(finished).words
    (finished / "rm-word-model").mkdir()
    done = {"round": 0, "digest": "d", "read": 20_000, "heldout": 1_024, "right": 0.8857, "share": 0.25}
    write_json(finished / "rm-word-model" / "done.json", done)
    words = built(finished).words
    assert "Beside both counts a word model, fitted to 20,000 pairs: right on 88.6% of 1,024 held-out ones" in words
    assert "where 0.25 of its log-odds hold: so much of it counts." in words


def test_the_page_needs_nothing_from_outside(finished: Path) -> None:
    page = built(finished)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value and value.startswith("#") for value in links)
    assert set(re.findall(r"https?://[^\s\"'<]+", page.text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in page.text


def test_hostile_text_is_escaped(finished: Path) -> None:
    page = built(finished)
    assert "script" not in page.tags
    assert "<script>" not in page.text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page.text
    drop(finished)
    branch, found = SystemId("branch-improver", 1, HOSTILE), results_of(finished)
    rows = [replace(row, left=branch, judge=HOSTILE) for row in found.rows]
    systems = [replace(row, system=branch, name=str(branch)) for row in found.systems]
    controls = [replace(control, row=rows[0], expected=HOSTILE) for control in found.controls]
    rewrites = [replace(row, system=branch) for row in found.rewrites]
    change_results(finished, judges=[HOSTILE], rows=rows, systems=systems, controls=controls, rewrites=rewrites)
    page = built(finished)
    assert "script" not in page.tags and "<script>" not in page.text
    assert f"{HOSTILE} x1 cannot be told apart" in page.words or f"{HOSTILE} x1 beats policy" in page.words


def test_missing_files_name_the_stage(tmp_path: Path) -> None:
    page = built(tmp_path)
    assert "svg" not in page.tags
    words = " ".join("".join(page.pieces).split())
    for stage, file in (
        ("--stage=evaluate", "evaluate/results.json"),
        ("--stage=rl --model=improver", "rl-improver/metrics.jsonl"),
        ("--stage=rl --model=policy", "rl-policy/metrics.jsonl"),
        ("--stage=rm --model=improver", "rm-improver/gaps.json"),
        ("--stage=rm", "rm-policy/metrics.jsonl"),
        ("--stage=sft", "sft-policy/metrics.jsonl"),
        ("--stage=improve", "improve/trails.jsonl"),
    ):
        assert f"{stage} writes {file}" in words


def test_a_half_finished_run_shows_what_there_is(finished: Path) -> None:
    (finished / "evaluate" / "results.json").unlink()
    (finished / "rl-improver" / "metrics.jsonl").unlink()
    page = built(finished)
    assert page.tags.count("svg") == 4
    assert "Nothing is compared yet" in page.text


def test_not_a_number_breaks_nothing(finished: Path) -> None:
    path, nan = finished / "rl-improver" / "metrics.jsonl", float("nan")
    row = '{"step": 55, "phase": "eval", "objective/kl": NaN, "objective/scores": -Infinity}\n'
    path.write_text(path.read_text() + row)
    (finished / "rm-improver" / "gaps.json").write_text('{"wl": [NaN, 1.0], "ww": [], "ll": [NaN], "lw": [-1.0, -1.0]}')
    rows, systems = results_of(finished).rows, results_of(finished).systems
    rows[0] = replace(rows[0], delta=nan, low=nan, high=nan)
    systems[0] = replace(systems[0], score_mean=nan)
    systems[1] = replace(systems[1], score_mean=None, score_std=None, copy_rate=None)
    change_results(finished, rows=rows, systems=systems)
    page = built(finished)
    assert page.tags.count("svg") == 5
    assert "nan" not in "".join(page.pieces).lower()


def test_one_constant_gap_and_no_truth(finished: Path) -> None:
    (finished / "rm-improver" / "gaps.json").write_text('{"wl": [1.0], "ww": [1.0], "ll": [1.0], "lw": [1.0]}')
    path = finished / "rl-improver" / "metrics.jsonl"
    path.write_text(path.read_text().replace("truth/score", "other"))
    assert "This data has no known truth" in built(finished).text


def test_a_branch_shows_what_its_parent_run_trained(finished: Path, tmp_path: Path) -> None:
    """Where the parent has finished it from the same knobs, it looks as if it were the branch's own."""
    drop(finished, "rm-policy", "rl-policy")
    own, parent = run_of(finished), tmp_path / "parent"
    folders = [own.folder(StageId(*names)) for names in (("sft", "policy"), ("sft", "improver"), ("rm", "improver"))]
    for folder in folders:
        write_json(folder.path / "config.json", folder.stage.depends_on(own.config))
        write_json(folder.path / "done.json", {"round": 1, "digest": "0123456789ab"})
    whole = page.build(own).read_text()
    for folder in folders:
        shutil.move(folder.path, parent / folder.name)
    assert page.build(own).read_text() != whole
    assert page.build(run_of(finished, parent_run=str(parent))).read_text() == whole


def test_building_again_replaces_the_page(finished: Path) -> None:
    drop(finished)
    first = built(finished).text
    assert built(finished).text == first
    change_results(finished, rows=[], systems=[], judges=[])
    assert "Nothing is compared yet" in built(finished).text


@pytest.mark.parametrize(
    ("low", "high", "delta", "tone", "words"),
    [
        (1.0, 9.0, 5.0, "good", "PIT x1 beats policy by 5.0 points"),
        (-9.0, -1.0, -5.0, "bad", "PIT x1 loses to policy by 5.0 points"),
        (-1.0, 3.0, 1.0, "even", "PIT x1 and policy cannot be told apart (+1.0 points)"),
        (0.0, 3.0, 1.5, "even", "cannot be told apart"),
    ],
)
def test_the_headline_follows_the_interval(low: float, high: float, delta: float, tone: str, words: str) -> None:
    row = compared(delta=delta, low=low, high=high)
    decoys = [replace(row, judge="gap"), replace(row, temperature=0.4), replace(row, left=pit(2))]
    found = page.headline(Results(["rubric", "gap"], 0.8, None, [*decoys, row], [], []))
    assert found is not None
    assert words in found.text
    assert found.tone == tone
    assert "temperature 0.8" in found.detail
    assert page.headline(Results(["rubric"], 0.8, None, [], [], [])) is None


def test_controls_and_lengths_are_on_the_page(finished: Path) -> None:
    drop(finished)
    page = built(finished)
    assert "gap longest it does not win" in page.words and page.words.count("does not hold") == 1
    assert "temperature 0.8, n = 1,024 prompts" in page.words
    assert "+8.0 +4.6 to +11.4 +2.0 52.7 50.7 to 54.7" in page.words  # PIT x2 at 0.8: 2 tokens longer, 50 + 8 / 3
    assert "PIT x3 0.8 5.20 0.80 24.1 60.0 1.0 99.8" in page.words  # copies, edits, ended
    assert "flipped" not in page.text
    change_results(finished, rows=[replace(row, flipped=0.125) for row in results_of(finished).rows])
    assert "(12.5% flipped)" in built(finished).text


def test_results_that_lack_a_part_are_named(finished: Path) -> None:
    path = finished / "evaluate" / "results.json"
    content = json.loads(path.read_text())
    del content["controls"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"missing required field `controls`.*; delete it and the done.json beside it"):
        page.build(run_of(finished))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no such folder"):
        page.build(run_of(tmp_path / "nowhere"))


def test_a_page_that_is_read_is_whole(finished: Path) -> None:
    """Whatever stood there before is replaced in one piece."""
    drop(finished)
    (finished / "report").mkdir()
    (finished / "report" / "index.html").write_text("old")
    assert Page(page.build(run_of(finished)).read_text()).text.startswith("<!doctype html>")
