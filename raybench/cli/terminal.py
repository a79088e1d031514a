"""What several commands print: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from raybench.data.manifest import Manifest

SHOWN_REJECTS = 20
LOG_COLUMNS = 160

out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out.width = LOG_COLUMNS


def print_rejects(manifest: Manifest, console: Console = out) -> None:
    for reject in manifest.rejects[:SHOWN_REJECTS]:
        console.print(f"rejected {reject.path}: {reject.reason}: {reject.detail}", style="yellow", markup=False)
    if len(manifest.rejects) > SHOWN_REJECTS:
        console.print(
            f"and {len(manifest.rejects) - SHOWN_REJECTS} more; the manifest lists all of them",
            style="yellow",
        )


def print_json(value: Any) -> None:
    """One JSON document on stdout. value: JSON bytes that stand already, or plain data."""
    text = value.decode() if isinstance(value, bytes) else json.dumps(value, indent=1, allow_nan=False) + "\n"
    sys.stdout.write(text)
