"""`raybench labels`: labels come back to a line, and what has been done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from raybench.cli.terminal import BAD_INPUT, out
from raybench.data.manifest import STATE_DIGITS

app = typer.Typer(help="Labels that people gave to images of a packed line.", no_args_is_help=True)

LineUri = Annotated[str, typer.Argument(metavar="LINE", help="A packed line: STORE/lines/NAME.")]


@app.command("import")
def import_(
    line: LineUri,
    file: Annotated[Path, typer.Argument(help="COCO, CVAT, Label Studio, CSV; or a folder of YOLO or PNG masks.")],
    empty: Annotated[
        str, typer.Option(help="Images without region and label: leave them, or label them ok.")
    ] = "leave",
    by: Annotated[str, typer.Option(help="Who labelled them; default: the tool's word, else you.")] = "",
    representative: Annotated[
        bool | None,
        typer.Option(
            "--representative/--chosen",
            help="Whether nobody chose the images for their looks or scores, so they count.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Give images the labels and masks that an annotation tool holds; no image is written again."""
    from raybench._api.lines import import_labels

    if empty not in ("leave", "ok"):
        out.print("--empty is leave or ok", style="red")
        raise typer.Exit(BAD_INPUT)
    found = import_labels(line, file, empty=empty, by=by, representative=representative, rehearse=dry_run)  # type: ignore[arg-type]
    verb = "would change" if dry_run else "changed"
    steps = ", ".join(f"{count} {step}" for step, count in sorted(found.steps.items())) or "nothing"
    out.print(f"{found.line.name}: {verb} {steps}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{found.unchanged} were labelled so already; {found.left} are left as they are", highlight=False)
    if found.changes and found.trains:
        out.print("labels of training images change: the next run trains this line's models again", highlight=False)
    elif found.changes:
        out.print("the next run judges what is scored by the new labels, and trains nothing", highlight=False)
    if any(change.row.split == "unlabelled" for change in found.changes) and not dry_run:
        reach = found.line.manifest.sampled.values()
        sample = f"{min(reach):.0%} of a pool of images" if reach else "no pool of images yet"
        out.print(
            f"random checks represent {sample}; other labels that came back do not count in metrics", highlight=False
        )


@app.command()
def log(line: LineUri) -> None:
    """Show what has been done to a line since it was packed."""
    from raybench._api.lines import open_line

    manifest = open_line(line).manifest
    changes = manifest.changes
    table = Table("when", "who", "what", "state before", box=None, header_style="bold")
    for change in changes:
        table.add_row(change.at, change.by, change.what, change.before[:STATE_DIGITS])
    if changes:
        table.add_row("now", "", "", manifest.digest[:STATE_DIGITS])
    out.print(table if changes else "nothing since it was packed", highlight=False)
