"""What does not end in its time is stopped, and the thread that it ran in too."""

import gc
import threading
import time

import pytest

from pit_jax.data.text.bounded import bounded


def test_what_ends_gives_its_result_or_its_error() -> None:
    assert bounded(lambda: 7, 10.0) == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 10.0)


def forever() -> None:
    while True:
        pass


def test_what_never_ends_is_stopped() -> None:
    with pytest.raises(TimeoutError):
        bounded(forever, 0.05)
    deadline = time.monotonic() + 10
    while any(thread.name == "bounded" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "it goes on in its thread"
        time.sleep(0.01)


def test_what_loses_the_first_word_is_stopped_too() -> None:
    """As where it reaches the thread in a callback of the garbage collector, which goes on as if nothing had been."""

    def stubborn() -> None:
        try:
            forever()
        except BaseException:
            forever()

    with pytest.raises(TimeoutError):
        bounded(stubborn, 0.05)
    assert not any(thread.name == "bounded" for thread in threading.enumerate()) and gc.isenabled()
