"""The package's code has a name: another one with every byte of it."""

from pathlib import Path

import pytest

from pit_jax import __version__
from pit_jax.run import code


def test_one_byte_is_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a file below, and where a file moves; what is no source does not count."""
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "one.py").write_text("x = 1\n")
    (tmp_path / "below" / "two.py").write_text("y = 2\n")
    names = [code.package_code.__wrapped__()]
    (tmp_path / "notes.txt").write_text("nothing")
    assert code.package_code.__wrapped__() == names[0]
    (tmp_path / "below" / "two.py").write_text("y = 3\n")
    names.append(code.package_code.__wrapped__())
    (tmp_path / "below" / "two.py").rename(tmp_path / "two.py")
    names.append(code.package_code.__wrapped__())
    assert len(set(names)) == 3 and all(name.startswith(f"{__version__} ") for name in names)
