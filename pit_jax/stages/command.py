"""The command line: a config file, then typed flags over it; errors of the user in one sentence, exit code 2."""

import difflib
import errno
import importlib.util
import itertools
import linecache
import logging
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
from rich.console import Console
from rich.table import Table

from pit_jax.config import Config, config_hash, flatten
from pit_jax.parallel.host_memory import keep_freed_memory

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = REPOSITORY / "configs" / "tiny.py"
PACKAGE = str(Path(__file__).resolve().parents[1])
SWITCH = ("true", "false")
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

DESCRIPTION = """Train a language model to improve answers, from preference pairs alone (PIT).

Stages (--stage):
  data      prepare the pairs and show them: drops, lengths, duplicates, overlaps, rows with their loss mask
  sft       supervised fine-tuning of the policy (x -> y_w) or the improver (x, y_l -> y_w)
  rm        the policy's reward model (Bradley-Terry) or the improver's gap model (five terms)
  rl        PPO on that reward; the improver's references follow the curriculum
  dpo       the policy by direct preference optimisation, a baseline
  improve   answer prompts with the policy, then improve the answers K times
  evaluate  compare the systems at matched temperature and write report/index.html
  all       everything so far but dpo, for both models, skipping what is finished
  paper     on a finished run: the paper's tables and figures, with its ablations and baselines trained as branches
--model=policy|improver picks the pipeline for sft, rm and rl; --stage=rm --model=guard trains the gap model's guard.

--config=PATH names a Python file with `def get_config() -> Config` (default: configs/tiny.py); flags go on top of it.
Re-running a command resumes it."""


def load_config(path: Path) -> Config:
    """What `get_config()` of a Python file returns. Raises ValueError when there is no such file, function or value."""
    if not path.is_file():
        known = sorted(str(found.relative_to(REPOSITORY)) for found in DEFAULT_CONFIG.parent.glob("*.py"))
        raise ValueError(f"--config={path}: no such file; pass a Python file, for example {', '.join(known) or 'none'}")
    spec = importlib.util.spec_from_file_location(f"pit_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        functions = [name for name, value in vars(module).items() if isinstance(value, types.FunctionType)]
        raise ValueError(
            f"--config={path}: asked for a function get_config(), found {', '.join(functions) or 'no function'}; "
            "define `def get_config() -> Config`"
        )
    config = get_config()
    if not isinstance(config, Config):
        raise ValueError(
            f"--config={path}: get_config() returned {type(config).__name__}; "
            "return a pit_jax.config.Config (copy configs/forkme.py)"
        )
    return config


def parse(argv: Sequence[str]) -> Config:
    """The config file named by --config with the other flags on top.

    ValueError names an unknown flag, choice or stray word and the nearest known one. --help, and a value that has the
    wrong type, end the process as tyro does (codes 0 and 2). --base sets the knobs of the transformer.
    """
    path, rest = _take_config(argv)
    seeds, rest = _take_seeds(rest)
    default = load_config(path)
    flags = _flags(default)
    following = [*rest, ""][1:]
    arguments = [_checked(argument, after, flags) for argument, after in zip(rest, following, strict=False)]
    config, unknown = tyro.cli(
        Config,
        prog="tpu_run.py",
        description=DESCRIPTION,
        default=default,
        args=arguments,
        return_unknown_args=True,
    )
    if unknown:
        raise ValueError(f"did not expect {' '.join(unknown)!r}; write --flag=value, and see --help for every flag")
    config = config if seeds is None else replace(config, seeds=seeds)
    if seeds is not None or config.seeds:
        _check_seeds(config.seeds)
        if any(word.partition("=")[0] == "--seed" for word in rest):
            raise ValueError(
                f"--seed={config.seed} beside the seeds {_listed(config.seeds)}: drop one of the two flags"
            )
    if config.base:
        from pit_jax.stages.base import with_base

        config = with_base(config)
    return config


def _take_config(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """(config file, the other arguments)."""
    path, rest, words = DEFAULT_CONFIG, [], iter(argv)
    for word in words:
        if word == "--config":
            following = next(words, "")
            if not following or following.startswith("--"):
                raise ValueError(f"--config: asked for a path, found {following or 'nothing'}; write --config=PATH")
            path = Path(following)
        elif word.startswith("--config="):
            path = Path(word.removeprefix("--config="))
        else:
            rest.append(word)
    return path, rest


def _take_seeds(argv: Sequence[str]) -> tuple[tuple[int, ...] | None, list[str]]:
    """(the numbers after --seeds, with commas or spaces between them, None without the flag; the other arguments)."""
    seeds, rest, words = None, [], list(argv)
    while words:
        name, _, value = words[0].partition("=")
        following = list(itertools.takewhile(lambda word: not word.startswith("--"), words[1:]))
        if name == "--seeds":
            found = ",".join([value, *following]).replace(",", " ").split()
            if bad := [word for word in found if not re.fullmatch("-?[0-9]+", word)]:
                raise ValueError(f"--seeds: asked for whole numbers, found {bad[0]!r}; write --seeds=0,1,2")
            seeds, words = tuple(map(int, found)), words[1 + len(following) :]
        else:
            rest.append(words.pop(0))
    return seeds, rest


def _check_seeds(seeds: tuple[int, ...]) -> None:
    """ValueError for seeds that cannot be compared: one alone, one twice, or one that JAX would cut to another."""
    if len(seeds) < 2:
        raise ValueError(f"--seeds: asked for two or more, found {_listed(seeds) or 'none'}; write --seeds=0,1,2")
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ValueError(f"--seeds={_listed(seeds)}: {twice[0]} is there twice; name every seed once")
    if beyond := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise ValueError(f"--seeds={_listed(seeds)}: {beyond[0]} is no seed; pass whole numbers from 0 to {2**32 - 1}")


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _flags(config: Any, prefix: str = "--") -> dict[str, tuple[str, ...]]:
    """Every flag with its choices: a Literal's values, SWITCH for a yes or no, () where values are free."""
    flags: dict[str, tuple[str, ...]] = {}
    for name, annotation in get_type_hints(type(config)).items():
        flag = prefix + name.replace("_", "-")
        if get_origin(annotation) is Literal:
            flags[flag] = get_args(annotation)
        elif annotation is bool:
            flags[flag] = SWITCH
        elif hasattr(annotation, "__dataclass_fields__"):
            flags |= _flags(getattr(config, name), f"{flag}.")
        else:
            flags[flag] = ()
    return flags


def _checked(argument: str, following: str, flags: dict[str, tuple[str, ...]]) -> str:
    """The argument in the spelling of the parser; ValueError for an unknown flag or a value that is no choice."""
    if not argument.startswith("--") or argument == "--help":
        return argument
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-")
    positive = _positive(name) if flags.get(_positive(name)) == SWITCH else name
    if positive not in flags:
        raise ValueError(f"unknown flag {name}{_nearest(name, flags)}; see --help for every flag")
    choices = flags[positive]
    if choices == SWITCH:
        if not equals:
            return name
        if value.lower() not in choices or name != positive:
            raise ValueError(f"{argument}: a switch is written {positive}, {positive}=false or {_negative(positive)}")
        return positive if value.lower() == "true" else _negative(positive)
    value = value if equals else following
    if choices and value not in choices:
        raise ValueError(f"{name}: unknown {value!r}{_nearest(value, choices)}; known: {', '.join(choices)}")
    return f"{name}{equals}{value}" if equals else name


def _positive(flag: str) -> str:
    """--rl.no-center-gap -> --rl.center-gap."""
    head, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}{last.removeprefix('no-')}"


def _negative(flag: str) -> str:
    """--rl.center-gap -> --rl.no-center-gap."""
    head, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{last}"


def _nearest(word: str, known: Sequence[str] | dict[str, tuple[str, ...]]) -> str:
    """`; did you mean X?` with the nearest known name, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not near:
        near = [flag for flag in known if flag.rpartition(".")[2] == word.removeprefix("--").rpartition(".")[2]][:1]
    return f"; did you mean {near[0]}?" if near else ""


def resolved(config: Config) -> Table:
    """The hash of a config and the fields in which it differs from the defaults of pit_jax.config."""
    flat, usual = flatten(config), flatten(Config())
    title = f"{config.stage} · config {config_hash(flat)} · {config.workdir}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("knob", "value", "default"):
        table.add_column(column, style="dim" if column == "default" else "")
    for name, value in flat.items():
        if value != usual[name]:
            table.add_row(name, str(value), str(usual[name]))
    return table


def simulate_devices(count: int) -> None:
    """Make JAX see `count` CPU devices; to be called before the first use of a device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def explain(error: Exception) -> str | None:
    """One sentence for an error that the user can cure; None for a bug, whose traceback is worth reading.

    Curable are a folder that cannot be written and a ValueError from a `raise` statement inside pit_jax: one that
    comes out of a library, or of an expression of ours, was not written for the user.
    """
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = error.filename or "the working folder"
        return f"cannot write {where}: {error.strerror}; free space there, change its rights or pass another --workdir"
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, ValueError):
        return None
    file = last.tb_frame.f_code.co_filename
    written_for_the_user = linecache.getline(file, last.tb_lineno).lstrip().startswith("raise ")
    return str(error) if file.startswith(PACKAGE + os.sep) and written_for_the_user else None


def main(argv: Sequence[str]) -> int:
    """Parse, show the resolved config, run. Returns the exit code: 0, 2 for what the user can cure, 130 if stopped."""
    try:
        config = parse(argv)
        keep_freed_memory()
        if config.mesh.simulate < 0:
            raise ValueError(
                f"--mesh.simulate={config.mesh.simulate}: pass a number of devices, or 0 for the real ones"
            )
        if config.mesh.simulate:
            simulate_devices(config.mesh.simulate)
        Console().print(resolved(config))
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what is meant, such as reading only
        if config.seeds:
            from pit_jax.stages import seeds

            seeds.run(config)
        else:
            from pit_jax.stages import pipeline

            pipeline.run(config)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0
