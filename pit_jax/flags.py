"""Flags: a config file, then typed flags over it; a wrong word is answered with the nearest known one."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from pit_jax.config import Config
from pit_jax.errors import UserError, did_you_mean
from pit_jax.forks import load_forks, with_sections
from pit_jax.ranges import check_ranges
from pit_jax.recipes.catalogue import STAGES, stage_names
from pit_jax.shipped import load_config

SWITCH = ("true", "false")
DEFAULT_CONFIG = "tiny"
DESCRIPTION = """Train a language model to improve answers, from preference pairs alone (PIT).

Stages (--stage), in order:
{stages}
  all          what stands above, for both models, but for the stages marked by *; skips what is finished
--model=policy|improver picks one of two models where a stage has both.

--config=PATH names a Python file with `def get_config() -> Config`, or a shipped one (default: tiny); flags go on top.
--fork=FILE adds what a Python file declares: stages, RL algorithms, references, rewards, judges, layouts.
Re-running a command resumes it."""


def description() -> str:
    """What --help begins with; the stages are those of the catalogue."""
    lines, told = [], Config()
    for stage in STAGES:
        mark = " " if stage.in_all(told) else "*"
        role = f" ({stage.role})" if stage.role else ""
        lines.append(f"  {stage.name:<11}{mark} {stage.help}{role}")
    return DESCRIPTION.format(stages="\n".join(lines))


def parse(argv: Sequence[str]) -> Config:
    """The config file named by --config with the other flags on top; forks named by --fork are loaded before.

    UserError names an unknown flag, choice or stray word and the nearest known one, or a value out of its range.
    --help, and a value that has the wrong type, end the process as tyro does (codes 0 and 2). --base sets the knobs of
    the transformer.
    """
    paths, rest = _take("config", argv)
    named, rest = _take("fork", rest)
    seeds, rest = _take_seeds(rest)
    if any(word.partition("=")[0] == "--forks" for word in rest):
        raise UserError("--forks: a fork is imported before flags are read; write --fork=FILE for each of them")
    base = load_config((paths or [DEFAULT_CONFIG])[-1])
    forks = tuple(dict.fromkeys([*base.forks, *named]))
    load_forks(forks)
    default = replace(with_sections(base), forks=forks)
    flags = _flags(default)
    following = [*rest, ""][1:]
    arguments = [_checked(argument, after, flags) for argument, after in zip(rest, following, strict=False)]
    config, unknown = tyro.cli(
        type(default),
        prog="pit-jax",
        description=description(),
        default=default,
        args=arguments,
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(f"did not expect {' '.join(unknown)!r}; write --flag=value, and see --help for every flag")
    config = config if seeds is None else replace(config, seeds=seeds)
    if seeds is not None or config.seeds:
        _check_seeds(config.seeds)
        if any(word.partition("=")[0] == "--seed" for word in rest):
            raise UserError(f"--seed={config.seed} beside the seeds {_listed(config.seeds)}: drop one of the two flags")
    check_ranges(config)
    if config.base:
        from pit_jax.run.base import OURS, with_base

        given = {_positive(argument.partition("=")[0]) for argument in arguments if argument.startswith("--")}
        theirs = {flag for flag in flags if flag.startswith("--transformer.")} | {"--tokenizer.vocab-size"}
        ours = {f"--transformer.{name.replace('_', '-')}" for name in OURS}
        if beside := sorted(given & theirs - ours):
            raise UserError(f"{', '.join(beside)} beside --base={config.base}: a base sets this itself; leave it out")
        if not paths and "--transformer.pooled-head" not in given:  # of the default config's own model: not exported
            config = replace(config, transformer=replace(config.transformer, pooled_head=False))
        config = with_base(config)
    return config


def _take(name: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the values of a flag that tyro does not see, the other arguments)."""
    values, rest, words = [], [], iter(argv)
    for word in words:
        if word == f"--{name}":
            following = next(words, "")
            if not following or following.startswith("--"):
                raise UserError(f"--{name}: asked for a path, found {following or 'nothing'}; write --{name}=PATH")
            values.append(following)
        elif word.startswith(f"--{name}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    return values, rest


def _take_seeds(argv: Sequence[str]) -> tuple[tuple[int, ...] | None, list[str]]:
    """(the numbers after --seeds, with commas or spaces between them, None without the flag; the other arguments)."""
    seeds, rest, words = None, [], list(argv)
    while words:
        name, _, value = words[0].partition("=")
        following = list(itertools.takewhile(lambda word: not word.startswith("--"), words[1:]))
        if name == "--seeds":
            numbers = ",".join([value, *following]).replace(",", " ").split()
            if bad := [word for word in numbers if not re.fullmatch("-?[0-9]+", word)]:
                raise UserError(f"--seeds: asked for whole numbers, found {bad[0]!r}; write --seeds=0,1,2")
            seeds, words = tuple(map(int, numbers)), words[1 + len(following) :]
        else:
            rest.append(words.pop(0))
    return seeds, rest


def _check_seeds(seeds: tuple[int, ...]) -> None:
    """UserError for seeds that cannot be compared: one alone, or one twice."""
    if len(seeds) < 2:
        raise UserError(f"--seeds: asked for two or more, found {_listed(seeds) or 'none'}; write --seeds=0,1,2")
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"--seeds={_listed(seeds)}: {twice[0]} is there twice; name every seed once")


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def _flags(config: Any, prefix: str = "--") -> dict[str, tuple[str, ...]]:
    """Every flag with its choices: a Literal's values, SWITCH for a yes or no, () where values are free."""
    flags: dict[str, tuple[str, ...]] = {}
    for name, annotation in get_type_hints(type(config)).items():
        flag = prefix + name.replace("_", "-")
        if flag == "--stage":
            flags[flag] = tuple(stage_names())
        elif get_origin(annotation) is Literal:
            flags[flag] = get_args(annotation)
        elif annotation is bool:
            flags[flag] = SWITCH
        elif hasattr(annotation, "__dataclass_fields__"):
            flags |= _flags(getattr(config, name), f"{flag}.")
        else:
            flags[flag] = ()
    return flags


def _checked(argument: str, following: str, flags: dict[str, tuple[str, ...]]) -> str:
    """The argument in the spelling of the parser; UserError for an unknown flag or a value that is no choice."""
    if not argument.startswith("--") or argument == "--help":
        return argument
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-")
    positive = _positive(name) if flags.get(_positive(name)) == SWITCH else name
    if positive not in flags:
        raise UserError(f"unknown flag {name}{_nearest(name, flags)}; see --help for every flag")
    choices = flags[positive]
    if choices == SWITCH:
        if not equals:
            return name
        if value.lower() not in choices or name != positive:
            raise UserError(f"{argument}: a switch is written {positive}, {positive}=false or {_negative(positive)}")
        return positive if value.lower() == "true" else _negative(positive)
    value = value if equals else following
    if choices and value not in choices:
        raise UserError(f"{name}: unknown {value!r}{_nearest(value, choices)}; known: {', '.join(choices)}")
    return f"{name}{equals}{value}" if equals else name


def _positive(flag: str) -> str:
    """--transformer.no-tied -> --transformer.tied."""
    head, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}{last.removeprefix('no-')}"


def _negative(flag: str) -> str:
    """--transformer.tied -> --transformer.no-tied."""
    head, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{last}"


def _nearest(word: str, known: Sequence[str] | dict[str, tuple[str, ...]]) -> str:
    """`; did you mean X?` with the nearest known name, or one that ends alike; nothing when none is near."""
    alike = [flag for flag in known if flag.rpartition(".")[2] == word.removeprefix("--").rpartition(".")[2]][:1]
    return did_you_mean(word, known) or "".join(f"; did you mean {flag}?" for flag in alike)
