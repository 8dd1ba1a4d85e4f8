"""What the tests of pages share: a page read back, the run of a folder, and rows of comparisons."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pit_jax.config import Config
from pit_jax.evaluation.results import ComparisonRow
from pit_jax.evaluation.rewrites import FlawCounts, GapCheck, RewriteRow
from pit_jax.evaluation.stats.comparison import Comparison
from pit_jax.evaluation.stats.means import Estimate
from pit_jax.evaluation.systems import POLICY, SystemId, SystemRow, pit
from pit_jax.recipes.catalogue import catalogue
from pit_jax.report import page
from pit_jax.run.folders import Run

PIT = pit(1)
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """The text, the tags and the words of a page; a tag that is not closed in its turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(text)
        assert self.open == []
        self.words = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def run_of(workdir: Path, **changes: Any) -> Run:
    """The run in a folder."""
    return Run(Config(workdir=str(workdir), **changes), catalogue())


def built(workdir: Path) -> Page:
    """The report of a folder, which is all that building it leaves."""
    path = page.build(run_of(workdir))
    assert path == workdir / "report" / "index.html"
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]
    return Page(path.read_text(encoding="utf-8"))


def compared(
    left: SystemId = PIT,
    right: SystemId = POLICY,
    judge: str = "rubric",
    temperature: float = 0.8,
    delta: float = 5.0,
    width: float = 3.5,
    **changes: Any,
) -> ComparisonRow:
    """A row: win 30 + delta, lose 30, the interval delta +- width, one token longer."""
    row = ComparisonRow(
        temperature=temperature,
        judge=judge,
        left=left,
        right=right,
        win=30 + delta,
        lose=30.0,
        tie=40 - delta,
        delta=delta,
        low=delta - width,
        high=delta + width,
        n=1024,
        left_tokens=25.0,
        right_tokens=24.0,
        win_tokens=1.5,
        lose_tokens=None,
        lc_win_rate=50 + delta / 3,
        lc_low=48 + delta / 3,
        lc_high=52 + delta / 3,
        flipped=None,
    )
    return dataclasses.replace(row, **changes)


def measured(system: SystemId, temperature: float, **changes: Any) -> SystemRow:
    """A system's measures."""
    row = SystemRow(
        system=system,
        name=str(system),
        temperature=temperature,
        length_mean=24.1,
        tokens_mean=24.1,
        eos_rate=0.998,
        copy_rate=None,
        edit_distance=None,
        score_mean=5.2,
        score_std=0.8,
    )
    return dataclasses.replace(row, **changes)


def rewritten(system: SystemId, temperature: float, **changes: Any) -> RewriteRow:
    """A row: nine of ten words kept, one of eight new, two of five copies."""
    row = RewriteRow(
        system=system,
        temperature=temperature,
        kept=Estimate(0.9, 0.89, 0.91),
        new=Estimate(0.125, 0.11, 0.14),
        copied=Estimate(0.4, 0.38, 0.42),
        flaws=FlawCounts(of=1507, mended=401, made=291),
        gap=GapCheck(700, 0.8525, 0.714, 0.625, Comparison(40.0, 10.0, 50.0, 30.0, 28.0, 32.25, 1024)),
    )
    return dataclasses.replace(row, **changes)
