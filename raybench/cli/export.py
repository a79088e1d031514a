"""`raybench export`: a line's detector as ONNX and OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.options import RunName
from raybench.cli.terminal import out
from raybench.config.plan import plan_of


def export(
    name: RunName,
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    folder: Annotated[Path, typer.Option("--to", help="Local folder for the files.")] = Path("out/export"),
) -> None:
    """Write a line's detector as ONNX (and OpenVINO), threshold included, checked against the original."""
    from raybench.report.onnx_export import export as write
    from raybench.worker.context import node_cache

    found = write(plan_of(name), line, model, folder, node_cache())
    for file in found.files:
        out.print(str(file), soft_wrap=True, highlight=False)
    out.print(
        f"{found.model} on {found.line}: largest difference to the detector {found.difference:.1e} of the value, over "
        f"{found.images} images",
        highlight=False,
    )
