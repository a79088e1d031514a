"""What several commands print: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from raybench.data.manifest import Manifest
from raybench.data.packing import EIGHT_BITS

SHOWN_REJECTS = 20
LOG_COLUMNS = 160

out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out.width = LOG_COLUMNS


def print_packed(manifest: Manifest, console: Console = out) -> None:
    """Print what was used and what was not, kind by kind."""
    if manifest.masks or manifest.masks_rejected:
        used = f"{manifest.masks} used, {manifest.masks_rejected} files not used"
        console.print(f"masks: {used}; {manifest.judged('ng')} NG images", highlight=False)
    if manifest.white_level > EIGHT_BITS:
        levels = f"black is {manifest.black_level}, white {manifest.white_level}"
        console.print(f"16 bit: {levels}, by the training images", highlight=False)
    for finding in manifest.findings[:SHOWN_REJECTS]:
        console.print(f"note {finding.path}: {finding.kind}: {finding.detail}", style="yellow", markup=False)
    _print_more(len(manifest.findings), console)
    for reject in manifest.rejects[:SHOWN_REJECTS]:
        console.print(f"rejected {reject.path}: {reject.reason}: {reject.detail}", style="yellow", markup=False)
    _print_more(len(manifest.rejects), console)


def _print_more(count: int, console: Console) -> None:
    if count > SHOWN_REJECTS:
        console.print(f"and {count - SHOWN_REJECTS} more; the manifest lists all of them", style="yellow")


def print_json(value: Any) -> None:
    """One JSON document on stdout. value: JSON bytes that stand already, or plain data."""
    text = value.decode() if isinstance(value, bytes) else json.dumps(value, indent=1, allow_nan=False) + "\n"
    sys.stdout.write(text)
