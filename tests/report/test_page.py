import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from pit_jax.evaluation.gap_quality import FAILURES
from pit_jax.report import page

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def built(workdir: Path) -> tuple[Page, str]:
    path = page.build(workdir)
    assert path == workdir / "report" / "index.html"
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def drop_training(workdir: Path) -> None:
    """Leaves what the last two stages wrote: a page without figures is quick to build."""
    for stage in page.STAGES:
        shutil.rmtree(workdir / stage)


def change_results(workdir: Path, **values: object) -> dict:
    path = workdir / "evaluate" / "results.json"
    results = json.loads(path.read_text()) | values
    path.write_text(json.dumps(results))
    return results


def test_a_finished_run_fills_every_section(finished: Path) -> None:
    page, text = built(finished)
    assert "Not there yet" not in text
    assert page.tags.count("svg") == 5
    assert "PIT x1 beats policy by 5.0 points" in text
    assert "95% interval +1.6 to +8.4" in text
    assert "judged by rubric on 1,024 held-out prompts" in text
    for word in (
        "proxy: the gap",
        "truth: the hidden score",
        "references: policy-rl",
        "beat their reference",
        "selected",
    ):
        assert word in text
    assert "wl: chosen over rejected, mean +2." in text
    assert text.index("Win, lose and delta") < text.index("RL of the improver") < text.index("Config and lineage")


def test_the_chosen_answer_of_a_trail_is_marked(finished: Path) -> None:
    """The three prompts of the set chose round 2; the last row comes from a run without a choice."""
    drop_training(finished)
    page, text = built(finished)
    assert page.words.count("chosen") == 3
    assert re.search(r"PIT x2\s*<div[^\n]*chosen</div>", text)


def test_alarms_are_marked_and_told(finished: Path) -> None:
    for stage in ("rl-policy", "rm-policy", "rm-improver", "sft-policy", "sft-improver"):
        shutil.rmtree(finished / stage)
    text = built(finished)[1]
    assert "alarm" not in text.lower() and "a second gap model" not in text
    alarm = {"name": "guard", "round": 50, "figure": 0.31, "limit": 0.1, "meaning": f"two models {HOSTILE} disagree"}
    (finished / "rl-improver" / "done.json").write_text(json.dumps({"round": 45, "digest": "d", "alarms": [alarm]}))
    path = finished / "rl-improver" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val/eos_rate"', '"guard/scores": 0.5, "objective/entropy": 0.2, "a"'))
    page, text = built(finished)
    assert "alarm: guard" in text and "guard: a second gap model" in text and "entropy, nats a token" in text
    assert "script" not in page.tags
    assert f"Alarm guard at round 50: 0.31, limit 0.1 (two models {HOSTILE} disagree)." in "".join(page.words)


def test_the_gates_of_the_gap_model_are_shown_with_what_a_failure_means(finished: Path) -> None:
    for stage in ("rl-policy", "rm-policy", "sft-policy", "sft-improver"):
        shutil.rmtree(finished / stage)
    path = finished / "rm-improver" / "quality.json"
    content = json.loads(path.read_text())
    assert len(content["gates"]) == 10
    content["gates"][4] |= {"figure": 0.0213, "limit": 0.2, "passed": False}
    content["gates"][0] |= {"figure": None}
    path.write_text(json.dumps(content))
    words = " ".join(" ".join(built(finished)[0].words).split())
    assert f"reference 0.021 ≥ 0.200 failed: {FAILURES['reference']}" in words
    assert "length – ≤ 0.500 passed" in words and words.count("failed:") == 1
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
    words = "".join(built(finished)[0].words)
    assert "wl: chosen over rejected" in words and "as sure as it says" not in words


def test_the_page_needs_nothing_from_outside(finished: Path) -> None:
    page, text = built(finished)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value and value.startswith("#") for value in links)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in text


def test_hostile_text_is_escaped(finished: Path) -> None:
    page, text = built(finished)
    assert "script" not in page.tags
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    drop_training(finished)
    rows = json.loads((finished / "evaluate" / "results.json").read_text())["rows"]
    change_results(finished, rows=[row | {"left": HOSTILE, "judge": HOSTILE} for row in rows])
    assert "script" not in built(finished)[0].tags


def test_missing_files_name_the_stage(tmp_path: Path) -> None:
    page, text = built(tmp_path)
    assert "svg" not in page.tags
    words = " ".join("".join(page.words).split())
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
    page, text = built(finished)
    assert page.tags.count("svg") == 4
    assert "Nothing is compared yet" in text


def test_not_a_number_breaks_nothing(finished: Path) -> None:
    path = finished / "rl-improver" / "metrics.jsonl"
    row = '{"step": 55, "phase": "eval", "objective/kl": NaN, "objective/scores": -Infinity}\n'
    path.write_text(path.read_text() + row)
    (finished / "rm-improver" / "gaps.json").write_text('{"wl": [NaN, 1.0], "ww": [], "ll": [NaN], "lw": [-1.0, -1.0]}')
    results = json.loads((finished / "evaluate" / "results.json").read_text())
    results["rows"][0] |= {"delta": float("nan"), "low": float("nan"), "high": float("nan")}
    results["systems"][0]["score_mean"] = float("nan")
    results["systems"][1] |= {"score_mean": None, "score_std": None, "copy_rate": None}
    change_results(finished, **results)
    page, _ = built(finished)
    assert page.tags.count("svg") == 5
    assert "nan" not in "".join(page.words).lower()


def test_one_constant_gap_and_no_truth(finished: Path) -> None:
    (finished / "rm-improver" / "gaps.json").write_text('{"wl": [1.0], "ww": [1.0], "ll": [1.0], "lw": [1.0]}')
    path = finished / "rl-improver" / "metrics.jsonl"
    path.write_text(path.read_text().replace("truth/score", "other"))
    _, text = built(finished)
    assert "This data has no known truth" in text


def test_stages_that_lie_elsewhere_are_shown_too(finished: Path, tmp_path: Path) -> None:
    """The page of a branch: what its trunk trained looks as if it were its own."""
    whole = page.build(finished).read_text()
    names = ("data", "sft-policy", "rm-improver", "rl-policy")
    trunk = {name: tmp_path / "trunk" / name for name in names if (finished / name).exists()}
    for name, path in trunk.items():
        shutil.move(finished / name, path)
    assert page.build(finished).read_text() != whole
    assert page.build(finished, trunk).read_text() == whole


def test_building_again_replaces_the_page(finished: Path) -> None:
    drop_training(finished)
    first = page.build(finished).read_text()
    assert page.build(finished).read_text() == first
    change_results(finished, rows=[], systems=[], judge_names=[])
    assert "Nothing is compared yet" in page.build(finished).read_text()


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
    row = {"temperature": 0.8, "judge": "rubric", "left": "PIT x1", "right": "policy"}
    numbers = {"win": 30.0, "lose": 25.0, "tie": 45.0, "delta": delta, "low": low, "high": high, "n": 1000}
    decoys = [
        row | numbers | {"judge": "gap"},
        row | numbers | {"temperature": 0.4},
        row | numbers | {"left": "PIT x2"},
    ]
    results = {"judge_names": ["rubric", "gap"], "headline_temperature": 0.8, "rows": [*decoys, row | numbers]}
    found = page.headline(results)
    assert found is not None
    assert words in found.text
    assert found.tone == tone
    assert "temperature 0.8" in found.detail


def test_controls_and_lengths_are_on_the_page(finished: Path) -> None:
    drop_training(finished)
    page, text = built(finished)
    words = " ".join(" ".join(page.words).split())
    assert "gap longest it does not win" in words and words.count("does not hold") == 1
    assert "temperature 0.8, n = 1,024 prompts" in words
    assert "+8.0 +4.6 to +11.4 +2.0 52.7 50.7 to 54.7" in words  # PIT x2 at 0.8: 2 tokens longer, 50 + 8 / 3
    assert "PIT x3 0.8 5.20 0.80 24.1 60.0 1.0 99.8" in words  # copies, edits, ended
    assert "flipped" not in text
    rows = json.loads((finished / "evaluate" / "results.json").read_text())["rows"]
    change_results(finished, rows=[row | {"flipped": 0.125} for row in rows])
    assert "(12.5% flipped)" in built(finished)[1]


def test_results_that_lack_a_part_are_named(finished: Path) -> None:
    results = json.loads((finished / "evaluate" / "results.json").read_text())
    del results["controls"]
    (finished / "evaluate" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"found nothing under controls; delete .*evaluate and run that stage again"):
        page.build(finished)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no such folder"):
        page.build(tmp_path / "nowhere")


def test_the_terminal_table_holds_the_deltas(finished: Path) -> None:
    results = json.loads((finished / "evaluate" / "results.json").read_text())
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(page.summary_table(results))
    text = console.export_text()
    lines = [line for line in text.splitlines() if "PIT x2 vs policy" in line and "rubric" in line]
    assert len(lines) == 3
    assert "+8.0" in lines[1] and "+4.6 to +11.4" in lines[1] and "n = 1,024" in text


def test_the_terminal_names_what_does_not_hold(finished: Path) -> None:
    results = json.loads((finished / "evaluate" / "results.json").read_text())
    assert page.control_lines(results).splitlines() == [
        "controls at T 0.8, rubric: longest −60.0, copy 0.0, empty −100.0",
        "controls at T 0.8, gap: longest +12.5 (does not hold), copy 0.0, empty −100.0",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.54, "+12.5"),
        (-3.0, "−3.0"),
        (0.0, "0.0"),
        (-0.04, "0.0"),
        (1234.0, "+1,234.0"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_signed_numbers(value: float | None, text: str) -> None:
    assert page.signed(value) == text
