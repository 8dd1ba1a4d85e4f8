"""A program that came with a file, such as a chat template, may never end: here it has so many seconds."""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
TRIES, PAUSE = 10, 0.1  # seconds: a program that is in one long step of its own is left behind after a second


class _Ended(BaseException):
    """What ends the thread; no Exception, which the program might catch."""


def bounded(run: Callable[[], T], seconds: float) -> T:
    """run(), in a thread of its own. TimeoutError where it takes longer: it is ended at its next step of Python."""
    result: Future[T] = Future()

    def work() -> None:
        with contextlib.suppress(_Ended):
            try:
                result.set_result(run())
            except Exception as error:
                result.set_exception(error)

    thread = threading.Thread(target=work, daemon=True, name="bounded")
    thread.start()
    try:
        return result.result(seconds)
    finally:
        if not result.done():
            _end(thread)


def _end(thread: threading.Thread) -> None:
    """Raise _Ended in the thread until it ends, or does not heed it: what reaches it in a callback of the garbage
    collector is lost, so that there is none meanwhile, and it is raised again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(TRIES):
            if thread.ident is not None and thread.is_alive():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Ended))
                thread.join(PAUSE)
    finally:
        if collecting:
            gc.enable()
