"""The pages of docs agree with the sources; links lead somewhere. Their commands: end_to_end/test_howto.py."""

import re
from pathlib import Path

import pytest

from tests.test_imports import ROOMS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_rooms_are_those_of_the_import_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+? \|(.*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    drawn = {room: set(above.split()) for room, above in rows}
    assert drawn == {room: set(above.split()) for room, above in ROOMS.items() if room != "__init__"}
    assert list(drawn) == [room for room in ROOMS if room != "__init__"], "from the ground up"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_tests_that_the_cases_name_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "cases.md").read_text())
    assert len(named) > 40
    assert [name for name in named if f"\ndef {name[1]}(" not in (ROOT / "tests" / name[0]).read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """`benchmarks/x.py`, `tests/y.py`, `pit_jax/z.py`, `configs/*.py`, and files of rooms, such as `run/stage.py`."""
    named = re.findall(r"`((?:[\w*]+/)+[\w*]+\.py)`", page.read_text())
    missing = [name for name in named if not any([*ROOT.glob(name), *(ROOT / "pit_jax").glob(name)])]
    assert missing == []
