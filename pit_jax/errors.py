"""The one error that a person can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked, what was found, what to change. The command line shows the text, without a traceback."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`; did you mean X?` with the known name that is nearest to `word`; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
