"""`raybench pack`: a folder of images becomes a packed line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raybench._api.lines import pack_line as pack_with_progress
from raybench._api.lines import read_roi
from raybench.cli.terminal import err, out, print_contact_sheet, print_packed
from raybench.data.line import Line
from raybench.data.manifest import Manifest, read_manifest
from raybench.data.roi_files import RoiFile
from raybench.store import Store, open_store


def pack(
    source: Annotated[str, typer.Argument(help="Image folder: local, s3://, or any fsspec URI.")],
    line: Annotated[str, typer.Option("--line", help="Name of the product line.")],
    to: Annotated[str, typer.Option("--to", help="The store: s3://bucket/prefix, file:///folder or a path.")],
    layout: Annotated[
        str, typer.Option(help="mvtec, folder, csv, kolektor, kolektor2, visa, real-iad; auto looks for itself.")
    ] = "auto",
    roi: Annotated[
        str | None, typer.Option("--roi", help="Region of interest of all images: an image, white where to look.")
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Append the images that the packed line lacks.")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Local folder for the contact sheet.")] = Path("out"),
) -> None:
    """Pack a folder of images into Parquet shards."""
    target = open_store(to)
    before = read_manifest(target.sub("lines"), line).counts if add else {}
    manifest = pack_line(open_store(source), target, line, layout, add, read_roi(roi))
    if add:
        new = sum(manifest.counts.values()) - sum(before.values())
        out.print(f"{new or 'no new'} image{'' if new == 1 else 's'} added", highlight=False)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(manifest.counts.items()))
    size_mb = sum(shard.size for shard in manifest.shards) / 1e6
    out.print(f"{line}: {counts}; {len(manifest.shards)} shards, {size_mb:.1f} MB", highlight=False)
    out.print(target.sub("lines").uri(f"{line}/manifest.json"), soft_wrap=True, highlight=False)
    print_packed(manifest)
    print_contact_sheet(Line(target.sub("lines"), manifest), out_folder)


def pack_line(
    source: Store, target: Store, line: str, layout: str, add: bool = False, roi: RoiFile | None = None
) -> Manifest:
    """Pack a line, with a progress bar."""
    return pack_with_progress(source, target.sub("lines"), line, layout, err, add, roi)
