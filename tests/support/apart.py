"""A script in a process of its own, for what the session's cluster, one node without a GPU, does not have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def answer(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object that `script` prints last."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    # Ray's messages may come after it.
    found: dict[str, Any] = json.loads([line for line in ended.stdout.splitlines() if line.startswith(("{", "["))][-1])
    return found
