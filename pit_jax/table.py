"""Named values of one kind: what the package declares, and behind it what forks add, with the code they came from."""

import ast
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pit_jax.errors import UserError, did_you_mean
from pit_jax.files import digest_of, file_digest


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Source:
    """A fork's file, and its code: the digest and the files, which are that one and what it imports beside it."""

    file: Path
    digest: str
    files: tuple[Path, ...] = ()


_importing: list[Source] = []  # the fork whose file is being run, if any
_tables: list["Table[Any]"] = []


class Table(Generic[T]):
    """Values by name: the built-in ones, which belong to no fork whoever imports them first, then those of forks."""

    def __init__(self, kind: str, *built_in: T, key: Callable[[T], str] = lambda value: value.name):
        """`kind` is what an error calls one of them, `key` what a value is known by."""
        self.kind, self.key = kind, key
        self._values: dict[str, T] = {key(value): value for value in built_in}
        assert len(self._values) == len(built_in), f"a built-in {kind} is there twice"
        self._sources: dict[str, Source] = {}
        _tables.append(self)

    def add(self, value: T, source: Source) -> None:
        """Declare a value of a fork. UserError for a name that is taken: it names both files."""
        name = self.key(value)
        if name in self._values:
            owner = self._sources.get(name)
            raise UserError(
                f"{source.file}: the {self.kind} {name!r} is declared by {owner.file if owner else 'pit_jax'} already; "
                "give one of them another name"
            )
        self._values[name], self._sources[name] = value, source

    def __getitem__(self, name: str) -> T:
        """The value of a name. UserError for a name that nobody has declared."""
        if name not in self._values:
            known = ", ".join(self._values)
            raise UserError(f"no {self.kind} {name!r}{did_you_mean(name, self._values)}; known: {known}")
        return self._values[name]

    def get(self, name: str) -> T | None:
        """The value of a name, or None."""
        return self._values.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[T]:
        return iter(self._values.values())

    def names(self) -> list[str]:
        """Every name, built-in ones first."""
        return list(self._values)

    def source(self, name: str) -> Source | None:
        """The fork that declared a value; None for what is built in."""
        return self._sources.get(name)

    def code(self, *names: str) -> dict[str, str]:
        """{"code of kind name": digest of the fork's code} of those values that forks declared."""
        return {f"code of {self.kind} {name}": source.digest for name in names if (source := self.source(name))}

    def forget(self, source: Source) -> None:
        """Take back what a fork has declared."""
        for name in [name for name, owner in self._sources.items() if owner == source]:
            del self._values[name], self._sources[name]


def loading() -> Source | None:
    """The fork whose file is being run, if any."""
    return _importing[-1] if _importing else None


@contextlib.contextmanager
def importing(source: Source) -> Iterator[None]:
    """The file of this fork is run inside; where it raises, what it has declared is taken back."""
    _importing.append(source)
    try:
        yield
    except BaseException:
        forget(source)
        raise
    finally:
        _importing.pop()


def forget(source: Source) -> None:
    """Take back, from every table, what a fork has declared."""
    for table in _tables:
        table.forget(source)


def source_of(file: Path) -> Source:
    """The file with the digest of its code. UserError for a file that is not there or is no Python."""
    file = file.resolve()
    digests = sorted(_imported(file, {}).items())
    digest = digest_of(*(part for path, digest in digests for part in (path, digest)))
    return Source(file, digest, tuple(file.parent / path for path, _ in digests))


def _imported(file: Path, digests: dict[str, str]) -> dict[str, str]:
    """{path, relative to the file's folder: digest} of a file and of what lies beside it and is imported, anywhere."""
    root = file.parent

    def visit(path: Path) -> None:
        name = path.relative_to(root).as_posix()
        if name in digests:
            return
        digests[name] = file_digest(path)
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: not Python ({error.msg})") from error
        for node in ast.walk(tree):
            for module in _modules(node, path.parent, root):
                for candidate in (module.with_suffix(".py"), module / "__init__.py"):
                    ours = candidate.is_relative_to(PACKAGE)  # of a fork that lies beside the package
                    if candidate.is_file() and candidate.is_relative_to(root) and not ours:
                        visit(candidate)

    if not file.is_file():
        raise UserError(f"--fork={file}: no such file; pass a Python file that calls pit_jax.fork.fork(...)")
    visit(file)
    return digests


def _modules(node: ast.AST, here: Path, root: Path) -> list[Path]:
    """Where the modules that a node imports would lie, without suffix."""
    if isinstance(node, ast.Import):
        dotted = [alias.name.split(".") for alias in node.names]
        return [root.joinpath(*parts[:depth]) for parts in dotted for depth in range(1, len(parts) + 1)]
    if isinstance(node, ast.ImportFrom):
        start = root
        if node.level:
            start = here
            for _ in range(node.level - 1):
                start = start.parent
        parts = node.module.split(".") if node.module else []
        packages = [start.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
        return [*packages, *(start.joinpath(*parts, alias.name) for alias in node.names)]
    return []
