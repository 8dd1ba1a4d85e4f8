"""The few widths that rows are padded to: those that waste the least, given how long the rows are."""

import numpy as np

_FINE, _COARSE = 8, 128  # a width is a multiple of the second where rows are long: the lanes of a TPU
_LONG = 1024


def widths_of(lengths: np.ndarray, most: int) -> tuple[int, ...]:
    """At most `most` widths in rising order; the last holds the longest of `lengths` [rows], rounded up to 8.

    The others minimise the padded tokens of all rows, each padded to the smallest width that holds it (by dynamic
    programming over the distinct multiples).
    """
    longest = -(-int(lengths.max()) // _FINE) * _FINE
    step = _COARSE if longest >= _LONG else _FINE
    rounded = np.minimum(-(-np.asarray(lengths, np.int64) // step) * step, longest)
    candidates, counts = np.unique(rounded, return_counts=True)
    below = np.cumsum(counts)
    later = np.tri(len(candidates), k=-1, dtype=bool).T  # [i, j]: i < j
    cost = (candidates * below).astype(float)  # of the rows up to candidate j, if j is the last width; one more a turn
    choices = []
    for _ in range(min(most, len(candidates)) - 1):
        split = np.where(later, cost[:, None] + candidates * (below - below[:, None]), np.inf)
        choices.append(np.argmin(split, axis=0))
        cost = np.min(split, axis=0)
    widths, j = [longest], len(candidates) - 1
    for choice in reversed(choices):
        j = int(choice[j])
        widths.append(int(candidates[j]))
    return tuple(reversed(widths))
