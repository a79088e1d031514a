"""`raybench annotate`: flagged images with pre-annotations, for annotation tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import out

ALL = "coco,label-studio,cvat,yolo,masks"


def annotate(
    name: Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")],
    folder: Annotated[Path, typer.Option("--to", help="Local folder; each line becomes a folder in it.")],
    line: Annotated[str | None, typer.Option("--line", help="Product line; default: all of them.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Which, with commas between; FiftyOne reads coco.")] = ALL,
    images: Annotated[bool, typer.Option(help="Write the images beside the annotations.")] = True,
    picked: Annotated[bool, typer.Option("--picked", help="Only what the annotation budget picks.")] = False,
) -> None:
    """Write the flagged images, and the regions that the best model outlines on them, for annotation tools."""
    from raybench.config.plan import plan_of
    from raybench.report.annotations.export import Options
    from raybench.report.annotations.export import annotate as export

    options = Options(list(dict.fromkeys(part.strip() for part in formats.split(","))), images, picked)
    for done in export(plan_of(name), line, folder, options):
        out.print(str(done), soft_wrap=True, highlight=False, markup=False)
