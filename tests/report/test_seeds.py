"""report/seeds.py: several seeds on one page and in one table."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pit_jax.evaluation.results import Results, by_name, read_results
from pit_jax.evaluation.stats.seeds import aggregate
from pit_jax.report import seeds as seeds_report
from pit_jax.report.figures import COLORS

HOSTILE = "<script>alert(1)</script> $x & \\"
Tables = dict[str, dict[str, list[dict]]]


@pytest.fixture
def folders(finished: Path) -> dict[int, Path]:
    """Two seeds of one analysis beside each other: the second has every delta 4 higher, and no report yet."""
    found = {seed: finished.parent / f"seed-{seed}" for seed in (0, 7)}
    for seed, folder in found.items():
        for stage in ("evaluate", "rl-improver"):
            shutil.copytree(finished / stage, folder / stage)
        content = results(folder)
        for row in content["rows"]:
            row["delta"] += 4.0 * (seed == 7)
        (folder / "evaluate" / "results.json").write_text(json.dumps(content))
    (found[0] / "report").mkdir()
    (found[0] / "report" / "index.html").write_text("a report")
    return found


def results(folder: Path) -> dict:
    found: dict = json.loads((folder / "evaluate" / "results.json").read_text())
    return found


def lists_of(folder: Path) -> dict[str, list[dict]]:
    """As the run over seeds reads them."""
    found = read_results(folder / "evaluate" / "results.json", Results)
    assert found is not None
    return by_name(found)


def tables_of(folders: dict[int, Path]) -> Tables:
    return {"evaluate": aggregate({seed: lists_of(folder) for seed, folder in folders.items()}, file="f")}


def words(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")).split())


def printed(tables: Tables, seeds: list[int], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(seeds_report.summary_table(tables, seeds))
    return console.export_text()


def test_the_page_shows_every_list_with_its_numbers(tmp_path: Path, folders: dict[int, Path]) -> None:
    """PIT x2 at 0.8 by the rubric: 8 and 12, mean 10, sd 2.828, interval 10 -+ 12.706 * 2."""
    page = seeds_report.build(tmp_path, tables_of(folders), folders)
    assert page == tmp_path / "report" / "index.html" and [p.name for p in page.parent.iterdir()] == ["index.html"]
    text = words(page)
    assert "PIT x2 vs policy rubric 0.8 +10.0 2.8 −15.4 to +35.4 +8.0 to +12.0 2 of 2 1,024 +8.0, +12.0" in text
    assert "policy 0.8 4.90 0.00 4.90 to 4.90 4.90 to 4.90 4.90, 4.90" in text  # a system: 5.2 - 0.3 in both
    for heading in ("2 seeds", "evaluate: rows", "evaluate: controls", "evaluate: systems", "RL of the improver"):
        assert heading in text
    assert page.read_text().count("<svg") == 5  # rows and controls by two judges, and the curves
    for drawn in ("PIT x2 vs policy, T 0.8", "proxy: the gap", "truth: the hidden score", "KL to the SFT model"):
        assert f">{drawn}" in page.read_text()


def test_every_seed_that_has_a_report_is_linked_by_a_relative_path(tmp_path: Path, folders: dict[int, Path]) -> None:
    page = seeds_report.build(tmp_path, tables_of(folders), folders)
    links = re.findall(r'<a href="([^"]*)"', page.read_text())
    assert links == ["../seed-0/report/index.html"]
    assert (page.parent / links[0]).resolve().read_text() == "a report"
    assert "seed 7: no report yet" in words(page)


def test_nothing_compared_and_no_curves(tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    page = seeds_report.build(tmp_path, {}, {0: tmp_path / "seed-0", 1: tmp_path / "seed-1"})
    assert "<svg" not in page.read_text()
    for missing in ("evaluate/results.json", "rl-improver/metrics.jsonl"):
        assert f"writes {missing} of every seed" in words(page)


def test_curves_that_only_some_seeds_have_are_left_out(tmp_path: Path, folders: dict[int, Path]) -> None:
    path = folders[7] / "rl-improver" / "metrics.jsonl"
    path.write_text(path.read_text().replace("truth/score", "other"))
    text = seeds_report.build(tmp_path, {}, folders).read_text()
    assert ">proxy: the gap" in text and "truth: the hidden score" not in text


def test_the_curves_have_a_band_of_one_standard_deviation(tmp_path: Path, folders: dict[int, Path]) -> None:
    """One panel, rounds 0 and 1: values 1, 3 (sd sqrt 2) and 5, 5 (sd 0). The band is a triangle whose left side is
    2 sqrt 2 tall where the mean climbs from 2 to 5: 0.943 times as far."""
    for folder, values in zip(folders.values(), ((1.0, 5.0), (3.0, 5.0)), strict=True):
        rows = [{"step": step, "phase": "eval", "objective/kl": value} for step, value in enumerate(values)]
        (folder / "rl-improver" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = seeds_report.build(tmp_path, {}, folders).read_text()
    shade = f'style="fill: {COLORS[2]}; fill-opacity: 0.2'
    assert text.count(shade) == 1
    numbers = r"[ML] ([-\d.]+) ([-\d.]+)"
    line = re.findall(numbers, text[: text.index(f"stroke: {COLORS[2]}; stroke-width: 1.6")].rpartition('d="')[2])
    band = re.findall(numbers, text[: text.index(shade)].rpartition('d="')[2])
    left = [float(y) for x, y in band if x == line[0][0]]
    climb = float(line[0][1]) - float(line[1][1])
    assert max(left) - min(left) == pytest.approx(2 * 2**0.5 / 3 * climb, rel=1e-3)


def test_an_interval_far_beyond_any_delta_does_not_squeeze_the_figure(tmp_path: Path, folders: dict[int, Path]) -> None:
    """Deltas of -50 and 87.5 in two seeds: 18.75 -+ 12.706 * 68.75 in the table, and an axis to 100 in the figure."""
    row = {"judge": "gap", "left": "a", "right": "b"}
    found = {seed: {"rows": [row | {"delta": delta, "low": delta - 9}]} for seed, delta in ((0, -50.0), (7, 87.5))}
    text = seeds_report.build(
        tmp_path, {"evaluate": aggregate(found, file="f")}, {0: tmp_path, 7: tmp_path}
    ).read_text()
    assert "−854.8 to +892.3" in text
    ticks = [float(tick.replace("−", "-")) for tick in re.findall(r">(−?\d+)</text>", text)]
    assert max(map(abs, ticks)) == 100


def test_hostile_names_are_escaped(tmp_path: Path, folders: dict[int, Path]) -> None:
    tables = tables_of(folders)
    for lists in tables.values():
        for rows in lists.values():
            for row in rows:
                row |= {name: HOSTILE for name in ("judge", "left", "name") if name in row}
    text = seeds_report.build(tmp_path, {HOSTILE: tables["evaluate"]}, folders).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; $x &amp; \\ vs policy") > 18  # table cells and figures


def test_the_terminal_table_by_hand(folders: dict[int, Path]) -> None:
    text = printed(tables_of(folders), [0, 7], width=120)
    (line,) = [line for line in text.splitlines() if "PIT x2 vs policy" in line and "0.8 rubric" in line]
    assert " ".join(line.split("policy")[1].split()) == "+10.0 2.8 −15.4 to +35.4 2 of 2 +8.0 +12.0"
    assert "seeds 0, 7" in text and "evaluate: rows" in text and "evaluate: systems" not in text


def test_the_terminal_prints_hostile_names_as_they_are(folders: dict[int, Path]) -> None:
    tables, name = tables_of(folders), "[red]x[/] [/b]"
    rows = [row | {"judge": name, "left": name} for row in tables["evaluate"]["rows"]]
    text = printed({name: {"rows": rows}}, [0, 7], width=200)
    assert text.count(f"{name} vs policy") == len(rows) and f"{name}: rows" in text


def test_a_narrow_terminal_loses_no_number(folders: dict[int, Path]) -> None:
    tables = {"evaluate": {"rows": tables_of(folders)["evaluate"]["rows"][:1]}}
    text = printed(tables, [0, 7], width=60)
    assert all(number in text for number in ("+1.0", "2.8", "−24.4", "+26.4", "−1.0", "+3.0"))  # -1 and 3
