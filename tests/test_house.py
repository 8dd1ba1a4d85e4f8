"""The bars the sources are held to: sizes, no silenced checks, every knob documented and read."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from pit_jax.config import Config, flatten
from pit_jax.shipped import load_config

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pit_jax", "configs", "launch", "tests", "examples", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST_FILE = 350
LONGEST_FUNCTION = 80
SILENCING = re.compile(r"#\s*(type:\s*ignore|noqa|ruff:|mypy:|pyright:|pylint:|pragma:|fmt:\s*(off|skip)|flake8)", re.I)
UNFINISHED = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")


def long_functions(source: str) -> list[tuple[str, int]]:
    """(name, lines) of the functions over the bar."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(n.name, (n.end_lineno or n.lineno) - n.lineno + 1) for n in functions]
    return [(name, size) for name, size in sizes if size > LONGEST_FUNCTION]


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def undocumented(source: str) -> list[str]:
    """Leaf fields of the dataclasses in a source text that no docstring follows."""
    missing = []
    for cls in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)):
        for field, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or ast.unparse(field.annotation).endswith("Config"):
                continue
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if not isinstance(text, str):
                missing.append(f"{cls.name}.{ast.unparse(field.target)}")
    return missing


def attributes_read(source: str) -> set[str]:
    nodes = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))
    return {node.attr for node in nodes}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_keeps_the_bars(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    assert long_functions(source) == []
    found = comments(source)
    assert [text for text in found if SILENCING.search(text)] == []
    assert [text for text in found if UNFINISHED.search(text)] == []
    assert "NotImplementedError" not in attributes_or_names(source)
    assert path.name != "utils.py", "name the noun instead"


def attributes_or_names(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def test_the_bars_can_fail() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * 80) == [("f", 81)]
    assert long_functions("def f():\n" + "    x = 1\n" * 79) == []
    assert all(SILENCING.search(text) for text in comments("x = 1  # type: ignore[arg-type]\ny = 2  # noqa: E501\n"))
    assert undocumented("class A:\n    x: int = 0\n    y: int = 1\n    '''why'''\n    z: BConfig\n") == ["A.x"]


KNOBS = ("architecture.py", "cluster.py", "config.py", "limits.py")


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_has_help(name: str) -> None:
    assert undocumented((ROOT / "pit_jax" / name).read_text()) == []


def test_every_knob_is_read() -> None:
    read: set[str] = set()
    for path in (*(ROOT / "pit_jax").rglob("*.py"), *(ROOT / "launch").rglob("*.py")):
        if path.name not in KNOBS:
            read |= attributes_read(path.read_text())
    unread = [name for name in flatten(Config()) if name.split(".")[-1] not in read]
    assert unread == [], "knobs that nothing reads"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.name)
def test_a_config_file_returns_a_config_and_explains_itself(path: Path) -> None:
    assert isinstance(load_config(path), Config)
    note = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert len(note.split()) >= 10, "the docstring of a config is its lab note"


def test_the_top_level_is_complete() -> None:
    expected = ("setup.py", "pyproject.toml", "Makefile", "LICENSE", "CHANGELOG.md", "README.md", ".ci/run")
    locks = ("constraints-py311.txt", "constraints-py312.txt")
    assert [name for name in (*expected, *locks) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("name", ["constraints-py311.txt", "constraints-py312.txt"])
def test_a_lock_is_exact_and_names_no_host(name: str) -> None:
    lines = (ROOT / name).read_text().split("\n")
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 60
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    assert {"jax", "flax", "optax", "seqio", "pytest", "ruff", "mypy"} <= {line.split("==")[0] for line in pinned}
