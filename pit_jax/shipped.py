"""Config files: Python with `def get_config() -> Config`, by path, or by the name of a shipped one."""

import importlib.util
import os
import types
from pathlib import Path

from pit_jax.config import Config
from pit_jax.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
# In a checkout they stand beside the package, in an installed one inside it.
CONFIGS = next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())


def names() -> list[str]:
    """The configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


def shipped(name: str) -> Config:
    """The config of that name."""
    return load_config(name)


def load_config(path: Path | str) -> Config:
    """What `get_config()` of a file returns: of a path, or of the name of a shipped one.

    Raises UserError when there is no such file, function or value.
    """
    asked = Path(os.path.expanduser(path))
    file = asked if asked.is_file() else CONFIGS / f"{asked.stem}.py"
    by_name = asked.stem in names() and asked.suffix in ("", ".py") and asked.parent in (Path(), Path("configs"))
    if not asked.is_file() and not by_name:
        known = ", ".join(names())
        raise UserError(
            f"--config={path}: no such file{did_you_mean(asked.stem, names())}; pass a Python file, or one of {known}"
        )
    spec = importlib.util.spec_from_file_location(f"pit_jax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        functions = [name for name, value in vars(module).items() if isinstance(value, types.FunctionType)]
        raise UserError(
            f"--config={path}: asked for a function get_config(), found {', '.join(functions) or 'no function'}; "
            "define `def get_config() -> Config`"
        )
    config = get_config()
    if not isinstance(config, Config):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}; "
            "return a pit_jax.config.Config (copy configs/forkme.py)"
        )
    return config
