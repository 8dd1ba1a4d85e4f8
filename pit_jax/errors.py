"""How a run ends early: by what a person can mend, or by a notice that its machine is about to be taken away."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked, what was found, what to change. The command line shows the text, without a traceback."""


class Preempted(BaseException):
    """The run has ended early, at a point where everything is saved: the same command goes on. No Exception, as Ctrl-C
    is none: it may come anywhere, and what handles errors must not take it for one."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`; did you mean X?` with the known name that is nearest to `word`; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
