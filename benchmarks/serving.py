"""A peer's side of the turns of benchmarks/peers.py, in whichever environment it runs: the standard library alone."""

import json
import sys
import time
from collections.abc import Callable, Mapping


def serve(said: Mapping[str, str], work: Callable[[], object]) -> None:
    """Print what is said of the peer, and for every line that comes in the seconds of doing the work once."""
    print(json.dumps(dict(said)), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
