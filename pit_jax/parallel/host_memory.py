"""The C library's allocator, told to keep what XLA's CPU backend frees between steps."""

import ctypes
import platform

# mallopt parameters of glibc (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
MEBIBYTE = 1 << 20


def keep_freed_memory() -> bool:
    """Reuse large buffers instead of returning them to the kernel after every step; True where it took effect.

    By default glibc maps and unmaps every large buffer, so a CPU step spends its time in page faults: with this, the
    gradients of the embedded run take two thirds of the time (docs/experiments.md). Freed memory above half a
    gibibyte still goes back. To be called before any other thread starts; does nothing outside Linux with glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena: buffers that one thread frees serve the others. No mapping of its own for any buffer.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TOP_PAD, 64 * MEBIBYTE), (M_TRIM_THRESHOLD, 512 * MEBIBYTE))
    return all([mallopt(name, value) == 1 for name, value in settings])
