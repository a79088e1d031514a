"""Options and exit codes that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

RunName = Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Local folder for a copy of the report.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and all else on stderr.")]
