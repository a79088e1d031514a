"""`raybench export`: a line's detector as ONNX and OpenVINO, and its check on the machine that runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import DIFFERS, OK, out
from raybench.config.plan import plan_of
from raybench.errors import InputError


def export(
    name: Annotated[
        str | None, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME. None with --check.")
    ] = None,
    line: Annotated[str | None, typer.Option("--line", help="Product line.")] = None,
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    folder: Annotated[Path, typer.Option("--to", help="Local folder for the files.")] = Path("out/export"),
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the images that the file takes; for lines of several sizes.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Check an exported .onnx or .xml on this machine, instead of writing one.")
    ] = None,
    provider: Annotated[str, typer.Option(help="With --check: execution provider of onnxruntime.")] = (
        "CPUExecutionProvider"
    ),
) -> None:
    """Write a line's detector as ONNX (and OpenVINO) from source pixels to the decision, checked against the original.

    With --check, score the images beside an exported file with it, and compare with the original's results.
    """
    if check is not None:
        if name or line:
            raise InputError("with --check, give no run and no --line: all that is needed is beside the file")
        _check(check, provider)
    if name is None or line is None:
        raise InputError("export needs a run and --line, or --check FILE")
    from raybench.report.onnx_export import export as write
    from raybench.worker.context import node_cache

    wanted = _size(size)
    found = write(plan_of(name), line, model, folder, node_cache(), wanted)
    for file in found.files:
        out.print(str(file), soft_wrap=True, highlight=False)
    out.print(f"input: source pixels {found.shape} {found.dtype}", markup=False, highlight=False)
    out.print(
        f"{found.model} on {found.line}: largest difference to the detector {found.difference:.1e} of the value, over "
        f"{found.images} images",
        highlight=False,
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise InputError(f"--size {text}: write HEIGHTxWIDTH in pixels, as 480x640")
    return int(found[1]), int(found[2])


def _check(file: Path, provider: str) -> None:
    from raybench.report.export_check import check_export

    found = check_export(file, provider)
    out.print(
        f"{found.provider}: largest difference to the detector {found.difference:.1e} of the value, over "
        f"{found.images} images; {found.milliseconds:.1f} ms per image",
        highlight=False,
    )
    if found.decisions:
        out.print(f"{found.decisions} of {found.images} images are decided otherwise", style="red", highlight=False)
    out.print(
        "the file scores as the detector did" if found.passed else "the file does not score as the detector did",
        style="" if found.passed else "red",
        highlight=False,
    )
    sys.exit(OK if found.passed else DIFFERS)
