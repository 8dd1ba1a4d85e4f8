"""How Ctrl-C and SIGTERM end the command, whatever its main thread does.

Python runs a handler in the main thread, between two of its own steps: while that waits for a compiler, none runs, and
what one raises inside a callback of C code is printed and forgotten. So a thread beside it hears of every signal too,
and ends the process where it has not ended by itself: what is on disk is whole at any time.
"""

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

from pit_jax.terminal import show_cursor, tell

GRACE = 6.0  # seconds to end in order: other hosts are told, a checkpoint that is being written is finished
STOPPED = "\nstopped; the same command resumes"
TAKEN = "\nthis machine is about to be taken away; the same command goes on"


class _State:
    started = interrupted = deferring = False


def guard() -> None:
    """Until `start` a signal ends this process at once; then Ctrl-C does in GRACE seconds, a second one at once.

    SIGTERM is as Ctrl-C is, but for its code, and for work that is `deferring`. A command that ignores Ctrl-C, as under
    nohup, goes on to. To be called by the main thread.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=[heard], daemon=True, name="signals").start()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda number, frame: _end(os.EX_TEMPFAIL, TAKEN))


def start() -> None:
    """What is imported is imported, in which an exception may crash C code; now there is something to clear up."""
    _State.started = True


def defer(on: bool) -> None:
    """Whether what runs now saves and ends by itself after SIGTERM (on), or must be ended where it is."""
    _State.deferring = on


def deferring() -> bool:
    return _State.deferring


def interrupt(error: BaseException) -> None:
    """Raise what ends the command; a second one would fall into what the first has begun to clear up."""
    if not _State.interrupted:
        _State.interrupted = True
        raise error


def leave(code: int) -> NoReturn:
    """End with an exit code. Where that is by `interrupt`, threads of C code may be at work, which Python's own end
    would take their ground from: all is cleared up, so it is left out."""
    if _State.interrupted:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _State.started:
        _end(130, STOPPED)
    interrupt(KeyboardInterrupt())


def _listen(heard: socket.socket) -> None:
    interrupts = 0
    while number := heard.recv(1):
        if number[0] == signal.SIGINT:
            interrupts += 1
            if interrupts > 1:
                _end(130, STOPPED)
            _end_later(130, STOPPED)
        elif number[0] == signal.SIGTERM and not _State.deferring:
            _end_later(os.EX_TEMPFAIL, TAKEN)


def _end_later(code: int, message: str) -> None:
    timer = threading.Timer(GRACE, _end, [code, message])
    timer.daemon = True
    timer.start()


def _end(code: int, message: str) -> None:
    show_cursor()
    tell(message, error=True)
    os._exit(code)
