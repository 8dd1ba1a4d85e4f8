"""A row of a source, as it is read: its columns, or the reason why it cannot be a pair."""

from typing import Any

Row = dict[str, Any]


class Unusable(Exception):
    """Why a row gives no pair: rows are counted by `reason`, `found` tells about this one.

    `known`: a public data set is known to hold such rows. They are left out; any other makes its source bad.
    """

    def __init__(self, reason: str, found: str = "", *, known: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.found, self.known = reason, found, known
