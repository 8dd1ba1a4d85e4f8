"""Who may import whom: the folder table, and the packages that must stay behind a function call."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pit_jax"

# The rooms from the ground up: what each imports of those above it, and not one more. docs/architecture.md draws it.
ROOMS: dict[str, str] = {
    "errors": "",
    "terminal": "",
    "signals": "terminal",
    "paths": "errors",
    "files": "errors paths",
    "digests": "paths files",
    "seal": "errors paths files",
    "table": "errors files",
    "masked": "",
    "batch": "",
    "ranges": "errors",
    "architecture": "ranges",
    "limits": "ranges",
    "cluster": "ranges",
    "preferences": "ranges",
    "config": "ranges architecture limits cluster preferences",
    "shipped": "errors config",
    "objectives": "errors masked",
    "parallel": "errors terminal signals paths files config",
    "model": "errors masked batch ranges architecture parallel",
    "data": "errors terminal paths files seal table batch config",
    "training": "errors signals paths files masked config parallel",
    "inference": "errors batch parallel model data",
    "run": "errors terminal paths files digests masked batch config parallel model data training",
    "rl": "errors files table masked batch config objectives parallel model data training inference run",
    "evaluation": "errors files table batch config objectives model data inference run",
    "report": "errors terminal paths files config data run evaluation",
    "recipes": "errors terminal paths files table masked batch ranges config objectives parallel model data training "
    "inference run rl evaluation report",
    "forks": "errors table config recipes",
    "api": "errors terminal paths batch config parallel model data inference run recipes forks",
    "flags": "errors ranges config shipped run recipes forks",
    "cli": "errors terminal signals paths config parallel recipes forks flags",
    "contract": "errors terminal paths files table batch config parallel data run rl evaluation recipes forks flags",
    "fork": "errors table masked batch config model data run rl evaluation recipes contract",
    "__init__": "api",
}
ALLOWED = {room: set(above.split()) for room, above in ROOMS.items()}

DATA_ONLY = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "datasets"}
NEVER = {"torch", "clu", "grain"}


@dataclass(frozen=True)
class Edge:
    """An import of `target` (dotted) by `path`; `lazy` = in a function, or for the type checker alone."""

    path: Path
    line: int
    target: str
    lazy: bool


def _targets(node: ast.AST, package: str) -> list[str]:
    """Dotted names that a node imports. `package` is the package that holds the module, for relative imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module or "") if part)
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def edges(source: str, path: Path, package: str) -> Iterator[Edge]:
    """Every import in a source text, lazy ones too."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Edge]:
        for target in _targets(node, package):
            yield Edge(path, getattr(node, "lineno", 0), target, lazy)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = lazy or typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


@functools.cache
def all_edges() -> tuple[Edge, ...]:
    found: list[Edge] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
        found.extend(edges(path.read_text(), path, package))
    return tuple(found)


def folder(path: Path) -> str:
    """The row of the table that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def offence(edge: Edge) -> str | None:
    """What is wrong with an edge, or None."""
    parts = edge.target.split(".")
    where = f"{edge.path.relative_to(PACKAGE.parent)}:{edge.line} imports {edge.target}"
    here = folder(edge.path)
    if parts[0] in NEVER:
        return f"{where}: {parts[0]} is no dependency of pit_jax"
    if edge.target.startswith("transformers.models"):
        return f"{where}: transformers.models needs torch"
    if parts[0] in DATA_ONLY and (here != "data" or not edge.lazy):
        return f"{where}: {parts[0]} is imported only inside functions under pit_jax/data"
    if parts[0] != "pit_jax" or len(parts) == 1 or edge.target == "pit_jax.__version__":
        return None
    inner = ".".join(parts[1:])
    allowed = ALLOWED.get(here)
    if allowed is None:
        return f"{where}: pit_jax/{here} has no row in the table of tests/test_imports.py"
    if any(inner == name or inner.startswith(f"{name}.") for name in {here, *allowed}):
        return None
    return f"{where}: {here} may import {', '.join(sorted(allowed)) or 'nothing'} inside pit_jax"


def test_every_import_follows_the_table() -> None:
    offences = [text for edge in all_edges() if (text := offence(edge))]
    assert not offences, "\n".join(offences)


def test_every_edge_of_the_table_is_used() -> None:
    used = {
        (folder(edge.path), edge.target.split(".")[1]) for edge in all_edges() if edge.target.startswith("pit_jax.")
    }
    unused = [(room, above) for room, rooms in ALLOWED.items() for above in sorted(rooms) if (room, above) not in used]
    assert not unused, f"edges that no import uses: {unused}"


def test_a_room_imports_only_what_stands_above_it() -> None:
    order = list(ROOMS)
    below = [
        (room, above) for room, rooms in ALLOWED.items() for above in rooms if above not in order[: order.index(room)]
    ]
    assert not below, f"edges downwards: {below}"


LONGEST_CHAIN = 5  # of files inside a folder, each importing the next
MOST_FILES = 17  # in a folder, with __init__.py
ROOM_FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def chains(room: Path) -> dict[str, int]:
    """The longest chain of imports inside a folder that begins with each of its files, by their names."""
    package = ".".join(room.relative_to(PACKAGE.parent).parts)
    graph: dict[str, set[str]] = {path.stem: set() for path in room.glob("*.py")}
    for edge in all_edges():
        target = edge.target.removeprefix(f"{package}.").split(".")[0]
        if edge.path.parent == room and edge.target.startswith(f"{package}.") and target in graph:
            graph[edge.path.stem].add(target)

    @functools.cache
    def length(name: str) -> int:
        return 1 + max((length(target) for target in graph[name] - {name}), default=0)

    return {name: length(name) for name in graph}


@pytest.mark.parametrize("room", ROOM_FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_neither_deep_nor_full(room: Path) -> None:
    assert {name: length for name, length in chains(room).items() if length > LONGEST_CHAIN} == {}
    assert len(list(room.glob("*.py"))) <= MOST_FILES


def test_a_chain_is_counted() -> None:
    """The engine imports sampling, which imports no file beside it."""
    assert chains(PACKAGE / "inference")["engine"] > chains(PACKAGE / "inference")["sampling"] == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("config.py", "import pit_jax.batch"),
        ("training/session.py", "from pit_jax.model import transformer"),
        ("training/session.py", "def f():\n    from pit_jax.data.stream import Stream"),
        ("training/session.py", "from ..model.transformer import Transformer"),
        ("objectives/ppo.py", "from pit_jax import config"),
        ("inference/improve.py", "from pit_jax.run.folders import Run"),
        ("report/page.py", "import importlib\nimportlib.import_module('pit_jax.recipes.sft')"),
        ("data/tasks.py", "import seqio"),
        ("recipes/sft.py", "def f():\n    import tensorflow as tf"),
        ("model/pretrained/weights.py", "def f():\n    import torch"),
        ("recipes/export.py", "def f():\n    from transformers.models.auto import modeling_auto"),
        ("novel/thing.py", "from pit_jax.config import Config"),
    ],
)
def test_a_planted_edge_is_named(file: str, source: str) -> None:
    path = PACKAGE / file
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    found = [text for edge in edges(source, path, package) if (text := offence(edge))]
    assert len(found) == 1
    assert f"pit_jax/{file}" in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("training/session.py", "from pit_jax.config import Config\nfrom .state import State"),
        ("data/tasks.py", "def build():\n    import seqio"),
        ("data/tasks.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import seqio"),
        ("rl/trainer.py", "from pit_jax.objectives import gap, ppo\nimport optax"),
    ],
)
def test_a_proper_edge_passes(file: str, source: str) -> None:
    path = PACKAGE / file
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    assert [offence(edge) for edge in edges(source, path, package) if offence(edge)] == []


def declared() -> set[str]:
    """Names of the distributions that setup.py installs for everyone."""
    tree = ast.parse((PACKAGE.parent / "setup.py").read_text())
    lists = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"]
    return {re.split(r"[\[<>=!~;]", requirement)[0] for requirement in ast.literal_eval(lists[0])}


def test_every_package_is_declared() -> None:
    roots = {edge.target.split(".")[0] for edge in all_edges()} - set(sys.stdlib_module_names) - {"pit_jax"}
    distributions = {"orbax": "orbax-checkpoint"}
    needed = {distributions.get(root, root.replace("_", "-")) for root in roots}
    assert len(needed) > 5
    assert needed - {name.replace("_", "-") for name in declared()} == set()


BLOCKED_IMPORT = """
import importlib, pkgutil, sys

BLOCKED = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "datasets", "torch", "clu"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, Block())
import pit_jax
names = [module.name for module in pkgutil.walk_packages(pit_jax.__path__, "pit_jax.")]
for name in names:
    importlib.import_module(name)
print("imported", len(names))
"""


def test_every_module_imports_without_tensorflow(repository: Path) -> None:
    command = [sys.executable, "-c", BLOCKED_IMPORT]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10
