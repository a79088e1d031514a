"""In processes of their own: what is set once stays."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BLOCK_MB, BLOCKS, TIMES = 24, 8, 10
PAGES = BLOCKS * BLOCK_MB * 2**20 // 4096
FAULTS = f"""
import resource, sys

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1])

if "keep" in sys.argv:
    from raybench.worker import memory
    assert memory.tune_malloc() is memory.tune_malloc() is True
def blocks():
    return [b"x" * ({BLOCK_MB} << 20) for _ in range({BLOCKS})]

blocks()
before, kept = faults(), resident()
for _ in range({TIMES}):
    blocks()
taken = faults() - before
if "keep" in sys.argv:
    memory.trim()
print(taken, kept - resident())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def pages(*arguments: str) -> tuple[int, int]:
    """Page faults of taking a block again and again, and pages that are fewer after giving back."""
    ended = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True)
    taken, returned = map(int, ended.stdout.split())
    return taken, returned


def test_freed_blocks_are_taken_again_without_new_pages() -> None:
    taken, returned = pages("keep")
    assert taken < 0.1 * PAGES
    assert returned > 0.9 * PAGES


def test_by_default_they_are_new() -> None:
    taken, _ = pages()
    assert taken > 0.5 * TIMES * PAGES
