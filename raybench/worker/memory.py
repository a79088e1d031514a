"""What the C library does with memory that was freed.

By default glibc returns free memory at the heap's end to the kernel at once, and what is taken next comes page by page,
zeroed. A detector at work frees and takes blocks of megabytes at every layer: up to a quarter of its time goes there
(`benchmarks/heap.py`), and programs that do so beside each other slow each other down. So the end of the heap is kept,
up to two gigabytes of it, and given back when a task that took much has ended.

Blocks that glibc would never place in the heap are still mapped and returned one by one. In the heap they would save
more, but glibc before 2.38 does not find freed aligned blocks again: anomalib's PatchCore took 24 GB of such a heap.

Parameters: mallopt(3) of the Linux manual. Other C libraries are left as they are.
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
