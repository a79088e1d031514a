"""What several commands share: exit codes, options, and printing, results on stdout and all else on stderr."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from raybench.data.line import Line
from raybench.data.manifest import Manifest
from raybench.data.packing import EIGHT_BITS
from raybench.errors import RejectedImage, UnknownName
from raybench.report.contact_sheet import write_contact_sheet

OK = 0
UNITS_FAILED = 1
"""The command is done, but some units failed."""
DAMAGED = 1
"""The command is done, and something that it has read is damaged."""
FAULTS = 1
"""The command is done, and something that it has looked at does not work."""
DIFFERS = 1
"""The command is done, and an exported file does not score as the detector did."""
WORSE = 1
"""The command is done, and a condition of `--fail-if` holds."""
BAD_INPUT = 2
"""The input, the store or the cluster cannot be used."""
STOPPED = 3
"""Stopped cleanly by SIGTERM (`ray job stop`) or SIGINT (Ctrl-C): the same command does the rest."""
CHANGED = 4
"""The command is done, and a line that is watched has changed, or its threshold does not hold."""

RunName = Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Local folder for a copy of the report.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and all else on stderr.")]
Lines = Annotated[list[str] | None, typer.Option("--line", help="Show this line only (name or pattern).")]

SHOWN_REJECTS = 20
LOG_COLUMNS = 160

out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out.width = LOG_COLUMNS


def labels_of(text: str) -> list[str]:
    """Split an option with labels of models, with commas between."""
    return [label.strip() for label in text.split(",") if label.strip()]


def matching(lines: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the lines that a pattern matches. Raises UnknownName for a pattern that matches none."""
    for pattern in patterns or ():
        if not fnmatch.filter(lines, pattern):
            raise UnknownName("line", pattern, lines)
    return [line for line in lines if any(fnmatch.fnmatchcase(line, pattern) for pattern in patterns or ())]


def print_packed(manifest: Manifest, console: Console = out) -> None:
    """Print what was used and what was not, kind by kind."""
    if manifest.masks or manifest.masks_rejected:
        used = f"{manifest.masks} used, {manifest.masks_rejected} files not used"
        console.print(f"masks: {used}; {manifest.judged('ng')} NG images", highlight=False)
    if roi := manifest.roi:
        images = "all images" if roi.shared else f"{roi.images} of {sum(manifest.counts.values())} images"
        console.print(f"region of interest: {images}, {roi.kept:.0%} of their pixels are looked at", highlight=False)
    if manifest.white_level > EIGHT_BITS:
        levels = f"black is {manifest.black_level}, white {manifest.white_level}"
        console.print(f"16 bit: {levels}, by the training images", highlight=False)
    for finding in manifest.findings[:SHOWN_REJECTS]:
        console.print(f"note {finding.path}: {finding.kind}: {finding.detail}", style="yellow", markup=False)
    _print_more(len(manifest.findings), console)
    for reject in manifest.rejects[:SHOWN_REJECTS]:
        console.print(f"rejected {reject.path}: {reject.reason}: {reject.detail}", style="yellow", markup=False)
    _print_more(len(manifest.rejects), console)


def print_contact_sheet(line: Line, folder: Path) -> None:
    """Write the contact sheet of a line into `<folder>/<line>`, and say where it is. Without one, the rest is done."""
    try:
        sheet = write_contact_sheet(line, folder / line.name)
    except (OSError, RejectedImage) as error:
        err.print(f"no contact sheet: {error}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    else:
        out.print(f"contact sheet: {sheet}", soft_wrap=True, highlight=False, markup=False)


def _print_more(count: int, console: Console) -> None:
    if count > SHOWN_REJECTS:
        console.print(f"and {count - SHOWN_REJECTS} more; the manifest lists all of them", style="yellow")


def print_json(value: Any) -> None:
    """One JSON document on stdout. value: JSON bytes that stand already, or plain data."""
    text = value.decode() if isinstance(value, bytes) else json.dumps(value, indent=1, allow_nan=False) + "\n"
    sys.stdout.write(text)
