"""A page from a template, and numbers as people read them."""

import math
from pathlib import Path
from typing import Any

import jinja2

from pit_jax.files import write_text

GIB = 2**30
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def render(template: str, target: Path, **values: Any) -> Path:
    """Write the page that a template makes of the values, in one piece, and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent, "scaled": scaled}
    write_text(target, environment.get_template(template).render(**values))
    return target


def number(value: Any, digits: int = 2) -> str:
    """A number for a table; an en dash for what is missing or not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def percent(share: Any) -> str:
    """A share as a percentage, or an en dash."""
    return number(100.0 * share, 1) if isinstance(share, int | float) else number(share)


def signed(value: Any, digits: int = 1) -> str:
    """+12.5, −3.0 (a real minus sign), 0.0, or an en dash."""
    text = number(value, digits)
    if text == "–" or round(value, digits) == 0:
        return text.removeprefix("-")
    return f"{value:+,.{digits}f}".replace("-", "−")


def scaled(value: Any) -> str:
    """Three digits and a prefix: 1.23 G for 1.23e9."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.3g}")
    thousands = min(int(math.log10(max(abs(rounded), 1.0)) // 3), len(PREFIXES) - 1)
    return f"{rounded / 1000**thousands:g} {PREFIXES[thousands]}".rstrip()
