"""Ctrl-C and SIGTERM end a command whose main thread hears of neither."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEAF = """
import signal, sys, time, weakref
from pit_jax import signals

class Thing: pass

def slow(reference):  # what is raised in it is printed and forgotten
    print("begun", flush=True)
    time.sleep(60)

signals.GRACE = 0.3
signal.signal(signal.SIGINT, signal.SIG_IGN if "nohup" in sys.argv else signal.default_int_handler)
signals.guard()
if "starting" not in sys.argv:
    signals.start()
    signal.signal(signal.SIGTERM, lambda number, frame: None)
thing = Thing()
reference = weakref.ref(thing, slow)
del thing
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "word", "code", "said"),
    [
        ([signal.SIGINT], "", 130, "stopped; the same command resumes"),
        ([signal.SIGINT], "starting", 130, "stopped; the same command resumes"),
        ([signal.SIGTERM], "starting", os.EX_TEMPFAIL, "about to be taken away; the same command goes on"),
        ([signal.SIGINT, signal.SIGTERM], "nohup", os.EX_TEMPFAIL, "about to be taken away; the same command goes on"),
    ],
)
def test_a_swallowed_signal_ends_the_process(
    sent: list[signal.Signals], word: str, code: int, said: str, repository: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, word], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for number in sent:
        process.send_signal(number)
    try:
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, said in error) == (code, True), error
    assert ("Exception ignored" in error) == (word == ""), "while it starts, no exception falls into what is imported"
