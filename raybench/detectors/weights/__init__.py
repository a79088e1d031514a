"""Pretrained weights: files with names and digests in a weights store, fetched to each node once and verified."""

from raybench.detectors.weights.files import (
    Stored,
    add,
    fetch,
    packaged_lite0,
    published,
    resolve,
    stored,
    unpacked,
    verified,
    verify,
)

__all__ = [
    "Stored",
    "add",
    "fetch",
    "packaged_lite0",
    "published",
    "resolve",
    "stored",
    "unpacked",
    "verified",
    "verify",
]
