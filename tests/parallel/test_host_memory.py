"""Large buffers that are freed and asked for again cost no page faults."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys
from pit_jax.parallel.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def churn():
    for _ in range(20):
        block = libc.malloc(ctypes.c_size_t(64 << 20))
        ctypes.memset(block, 1, 64 << 20)
        libc.free(block)
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator's settings are glibc's")
def test_freed_memory_is_reused() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    kept, returned = faults("keep"), faults("leave")
    assert kept < 100 < returned
