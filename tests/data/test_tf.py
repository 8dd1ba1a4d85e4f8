"""What native code prints while TensorFlow starts is held back, and shown where the start fails. Imports none of it."""

import os

import pytest

from pit_jax.data.tf import _native_stderr_held_back


def test_noise_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with _native_stderr_held_back():
        os.write(2, b"noise of a library\n")
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


def test_noise_is_shown_where_the_start_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason may stand there."""
    with pytest.raises(KeyboardInterrupt), _native_stderr_held_back():
        os.write(2, b"no such symbol\n")
        raise KeyboardInterrupt
    assert capfd.readouterr().err == "no such symbol\n"
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
