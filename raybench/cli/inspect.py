"""`raybench inspect`: whether a line's data are fit to train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from raybench.cli.terminal import err, out, print_contact_sheet, print_json
from raybench.data.inspection.inspection import Inspection, inspection_json
from raybench.data.line import Line
from raybench.data.manifest import Manifest, read_manifest
from raybench.errors import InputError
from raybench.report.inspection import section, table
from raybench.store import Store, open_store
from raybench.worker.inspect import inspect_line


def inspect(
    line: Annotated[str, typer.Argument(help="A packed line: STORE/lines/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Local folder for the contact sheet.")] = Path("out"),
) -> None:
    """Look for bad images, duplicates, leaks and drift in a line. Reports show the findings, kept beside the line."""
    root, found, name = line.rstrip("/").rpartition("/lines/")
    if not (found and root and name):
        raise InputError(f"{line!r} is not a packed line; give STORE/lines/NAME, as `raybench pack` prints it")
    lines = open_store(root).sub("lines")
    manifest = read_manifest(lines, name)
    inspection = _inspect(lines, manifest)
    if as_json:
        print_json(inspection_json(inspection))
        return
    out.print(table(section(inspection, manifest)))
    print_contact_sheet(Line(lines, manifest), out_folder)


def _inspect(lines: Store, manifest: Manifest) -> Inspection:
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bars:
        bar = bars.add_task(f"inspect {manifest.line}", total=sum(manifest.counts.values()))
        return inspect_line(lines, manifest, os.cpu_count() or 1, lambda images: bars.advance(bar, images))
