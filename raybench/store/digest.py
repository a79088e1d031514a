"""Digest of a JSON value, which identifies it."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
