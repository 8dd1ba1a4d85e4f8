"""Numbers as people read them, and a page that appears in one piece."""

from pathlib import Path

import jinja2
import pytest

from pit_jax.report.render import number, percent, render, scaled, signed

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.54, "+12.5"), (-3.0, "−3.0"), (0.0, "0.0"), (-0.04, "0.0"), (1234.0, "+1,234.0"), (NAN, "–"), (None, "–")],
)
def test_signed_numbers(value: float | None, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999.4, "999"),
        (999.6, "1 k"),
        (1e6, "1 M"),
        (1.234e9, "1.23 G"),
        (-2.5e12, "-2.5 T"),
        (5e22, "50000 E"),
        (None, "–"),
        (float("inf"), "–"),
    ],
)
def test_large_numbers(value: float | None, text: str) -> None:
    assert scaled(value) == text


def test_plain_numbers_and_shares() -> None:
    assert (number(1234.567), number(3, 0), number(NAN), number("x")) == ("1,234.57", "3", "–", "–")
    assert (percent(0.125), percent(1), percent(None), percent(NAN)) == ("12.5", "100.0", "–", "–")


def test_a_value_that_the_template_lacks_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    target.write_text("old")
    with pytest.raises(jinja2.UndefinedError):
        render("report.html.j2", target, name="x")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["index.html"]
