"""table.py: values by name, whose fork they are, and what of a fork's code its digest covers."""

import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pit_jax import table
from pit_jax.errors import UserError
from pit_jax.table import Source, Table, forget, importing, loading, source_of


@dataclass(frozen=True)
class Thing:
    name: str
    number: int = 0


MINE, YOURS = Source(Path("/forks/mine.py"), "0123456789ab"), Source(Path("/forks/yours.py"), "ba9876543210")


@pytest.fixture
def things() -> Iterator[Table[Thing]]:
    """Two built-in ones, and what a test adds, which is taken back."""
    yield Table("thing", Thing("first"), Thing("second"))
    for source in (MINE, YOURS):
        forget(source)


def test_values_keep_their_order_and_are_found_by_name(things: Table[Thing]) -> None:
    things.add(Thing("a", 7), MINE)
    assert things.names() == ["first", "second", "a"] == [thing.name for thing in things]
    assert things["a"] == Thing("a", 7) and "a" in things and "b" not in things and 3 not in things
    assert things.kind == "thing"


def test_a_value_may_be_known_by_something_else() -> None:
    numbered = Table("number", Thing("x", 3), key=lambda thing: str(thing.number))
    assert numbered.names() == ["3"] and numbered["3"].name == "x"
    with pytest.raises(UserError, match=r"/forks/mine\.py: the number '3' is declared by pit_jax already"):
        numbered.add(Thing("y", 3), MINE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frist", "no thing 'frist'; did you mean first?; known: first, second"),
        ("xyz", "no thing 'xyz'; known: first, second"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(things: Table[Thing], name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        things[name]
    assert str(error.value) == message


def test_a_name_that_is_taken_names_both_files(things: Table[Thing]) -> None:
    """By pit_jax, by another fork, or by the fork itself; the first one stays."""
    things.add(Thing("a"), MINE)
    for value, source, owner in (
        (Thing("first", 9), MINE, "pit_jax"),
        (Thing("a", 9), YOURS, "/forks/mine.py"),
        (Thing("a", 9), MINE, "/forks/mine.py"),
    ):
        with pytest.raises(UserError) as error:
            things.add(value, source)
        taken = f"{source.file}: the thing {value.name!r} is declared by {owner} already; give one of them another name"
        assert str(error.value) == taken
    assert [thing.number for thing in things] == [0, 0, 0]


def test_two_built_in_values_of_one_name_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="a built-in thing is there twice"):
        Table("thing", Thing("a"), Thing("a", 1))


def test_a_fork_s_code_is_that_of_its_values_alone(things: Table[Thing]) -> None:
    things.add(Thing("a"), MINE)
    things.add(Thing("b"), YOURS)
    assert [things.source(name) for name in things.names()] == [None, None, MINE, YOURS]
    assert things.code("first", "b", "nothing") == {"code of thing b": YOURS.digest}
    assert things.code(*things.names()) == {"code of thing a": MINE.digest, "code of thing b": YOURS.digest}
    assert things.code() == {}


def test_a_fork_is_forgotten_in_every_table_and_may_come_again(things: Table[Thing]) -> None:
    others = Table("other", Thing("first"))
    for each in (things, others):
        each.add(Thing("a"), MINE)
        each.add(Thing("b"), YOURS)
    forget(MINE)
    assert things.names() == ["first", "second", "b"] and others.names() == ["first", "b"]
    assert things.source("a") is None and things.code("a") == {}
    changed = Source(MINE.file, "another code")
    things.add(Thing("a", 2), changed)
    forget(MINE)
    assert things["a"].number == 2, "another code is another source"
    things.forget(changed)
    assert "a" not in things and "b" in things


def test_the_fork_that_is_being_run_is_known(things: Table[Thing]) -> None:
    """One may import another."""
    assert loading() is None
    with importing(MINE):
        assert loading() == MINE
        with importing(YOURS):
            assert loading() == YOURS
            things.add(Thing("b"), YOURS)
        assert loading() == MINE
        things.add(Thing("a"), MINE)
    assert loading() is None and things.names() == ["first", "second", "b", "a"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(2)])
def test_a_fork_that_raises_leaves_nothing_behind(things: Table[Thing], error: BaseException) -> None:
    others = Table[Thing]("other")
    things.add(Thing("b"), YOURS)
    with pytest.raises(type(error)), importing(MINE):
        things.add(Thing("a"), MINE)
        others.add(Thing("a"), MINE)
        raise error
    assert things.names() == ["first", "second", "b"] and others.names() == [] and loading() is None


TREE = {
    "mine.py": """
        import json
        import a_module as shorter
        import package.inner
        from several import one, two
        from everything import *
        from spread.part import value
        from folder import piece

        def later():
            from lazy import something
            if something:
                import conditional
            return shorter, json, package, one, two, value, piece, conditional
    """,
    "a_module.py": "import transitive",
    "transitive.py": "import a_module",
    "several.py": "one = two = 1",
    "everything.py": "",
    "lazy.py": "try:\n    import tried\nexcept ImportError:\n    tried = None\nsomething = tried",
    "tried.py": "",
    "conditional.py": "",
    "package/__init__.py": "from package import aside",
    "package/inner.py": "from . import beside\nfrom .sub.deep import x\nimport mine\nfrom .. import cousin",
    "package/aside.py": "",
    "package/beside.py": "",
    "package/sub/__init__.py": "",
    "package/sub/deep.py": "from ..uncle import x",
    "package/uncle.py": "x = 1",
    "cousin.py": "",
    "spread/part.py": "value = 1",
    "folder/__init__.py": "",
    "folder/piece.py": "",
}
UNUSED = {
    "neighbour.py": "import a_module",
    "package/stranger.py": "",
    "json/decoder.py": "",
    "notes.txt": "not code",
    "piece.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A fork with modules beside it, and files that nothing imports."""
    folder = tmp_path / "work"
    for name, text in (TREE | UNUSED).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def digest(folder: Path) -> str:
    return source_of(folder / "mine.py").digest


def test_a_source_names_its_file_and_all_that_it_imports(tree: Path) -> None:
    source = source_of(tree / "mine.py")
    assert source.file == tree / "mine.py" and len(source.digest) == 12
    assert set(source.files) == {tree / name for name in TREE}
    assert source_of(tree / "mine.py") == source


@pytest.mark.parametrize("name", TREE)
def test_one_byte_of_what_is_imported_is_another_digest(tree: Path, name: str) -> None:
    """Directly or not, inside a function, in a package or in its __init__: and back again."""
    before, text = digest(tree), (tree / name).read_text()
    (tree / name).write_text(text + "#")
    assert digest(tree) != before
    (tree / name).write_text(text)
    assert digest(tree) == before


def test_what_nothing_imports_is_not_the_fork_s(tree: Path) -> None:
    before = digest(tree)
    for name in UNUSED:
        (tree / name).write_text("changed = True")
    assert digest(tree) == before


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_another_place_is_the_same_code(tree: Path, tmp_path: Path, move: Callable[..., object]) -> None:
    before, elsewhere = digest(tree), tmp_path / "far" / "away"
    elsewhere.parent.mkdir()
    move(str(tree), str(elsewhere))
    assert digest(elsewhere) == before
    (elsewhere / "several.py").rename(elsewhere / "many.py")
    assert digest(elsewhere) != before


def test_a_link_is_the_file_that_it_names(tree: Path, tmp_path: Path) -> None:
    """So are the modules beside that file."""
    (tmp_path / "link.py").symlink_to(tree / "mine.py")
    assert source_of(tmp_path / "link.py") == source_of(tree / "mine.py")


def test_a_fork_beside_the_package_does_not_hold_the_package(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout `import pit_jax` finds a folder there; the package's code has a digest of its own."""
    monkeypatch.setattr(table, "PACKAGE", tree / "package")
    left = {tree / name for name in TREE if not name.startswith(("package", "cousin"))}
    assert set(source_of(tree / "mine.py").files) == left


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = rf"--fork={tmp_path}/none\.py: no such file; pass a Python file that calls pit_jax\.fork\.fork\(\.\.\.\)"
    with pytest.raises(UserError, match=message):
        source_of(tmp_path / "none.py")
    with pytest.raises(UserError, match="no such file"):
        source_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\ndef f(:\n", r"mine\.py, line 2: not Python \(invalid syntax\)"),
        (b"x = 1\n\xff\n", r"mine\.py, line 2: not Python \(\(unicode error\)"),
        (b"x = 1\n\0", r"mine\.py.*: not Python \(source code string cannot contain null bytes\)"),
    ],
)
def test_a_file_that_is_not_python_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(UserError, match=message):
        source_of(tmp_path / "mine.py")


def test_a_module_beside_that_is_not_python_is_named_too(tree: Path) -> None:
    (tree / "transitive.py").write_text("\n\nclass:\n")
    with pytest.raises(UserError, match=r"transitive\.py, line 3: not Python"):
        digest(tree)
