"""What the C library does with memory that was freed.

By default glibc returns freed blocks of tens of megabytes to the kernel at once, and the next ones come page by page,
zeroed. A detector at work frees and takes such blocks at every layer: a tenth to a half of its time goes there, and
programs that do so beside each other slow each other down (`benchmarks/heap.py`). So freed memory is kept for the next
block, up to two gigabytes of it at the heap's end, and given back when a task that took much has ended.

Parameters: mallopt(3) of the Linux manual. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import functools
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_KEPT, _STEP, _LARGEST = 2**31 - 1, 64 * 2**20, 2**30  # bytes; _LARGEST: blocks from here on are returned all the same


@functools.cache
def keep_freed() -> bool:
    """From now on, in this process. Whether it can be done here."""
    if not _is_glibc():
        return False
    libc, wanted = ctypes.CDLL(None), {_TRIM_THRESHOLD: _KEPT, _TOP_PAD: _STEP, _MMAP_THRESHOLD: _LARGEST}
    taken: list[int] = [libc.mallopt(name, value) for name, value in wanted.items()]
    return all(taken)


def give_back() -> None:
    """Return to the kernel what is free now."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
