"""Tune how glibc's malloc handles freed memory.

By default glibc returns free memory at the end of the heap to the kernel at once, and the next allocation gets it back
page by page, zeroed. A detector frees and allocates blocks of megabytes in every layer and spends up to a quarter of
its time on this (`benchmarks/heap.py`); concurrent processes also slow each other down. Tuned, malloc keeps up to two
gigabytes at the end of the heap. `trim` returns them when a task that used much memory has ended.

Blocks that glibc never places in the heap are still mapped and returned one by one. Placing them in the heap would save
more time, but glibc before 2.38 does not reuse freed aligned blocks: anomalib's PatchCore grew a heap of 24 GB.

The parameters are described in mallopt(3) of the Linux manual. Other C libraries are not changed.
"""

from __future__ import annotations

import ctypes
import functools
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_KEPT, _STEP, _MAPPED = 2**31 - 1, 64 * 2**20, 32 * 2**20  # bytes; _MAPPED: as far as glibc itself goes, in time


@functools.cache
def tune_malloc() -> bool:
    """Keep freed memory in this process from now on; return whether the C library does so.

    For processes that raybench owns: each Ray task calls it first. `import raybench` leaves malloc alone.
    """
    if not _is_glibc():
        return False
    libc, wanted = ctypes.CDLL(None), {_TRIM_THRESHOLD: _KEPT, _TOP_PAD: _STEP, _MMAP_THRESHOLD: _MAPPED}
    taken: list[int] = [libc.mallopt(name, value) for name, value in wanted.items()]
    return all(taken)


def trim() -> None:
    """Return to the kernel what is free now."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
