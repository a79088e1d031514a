"""`raybench predict`: new images, scored by the detector that a line should run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from raybench.analysis.predictions import PredictionSummary
from raybench.cli.terminal import err, out, print_json, print_packed
from raybench.config.plan import plan_of
from raybench.errors import RunStopped
from raybench.report.predictions import PAGE, TABLE, summary_json, tables
from raybench.scheduler.new_images import NewImages, predict_images
from raybench.worker.predict import Prediction

SHARDS_FAILED, STOPPED = 1, 3  # exit codes, as in `cli`
SHOWN = 10


def predict(
    name: Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")],
    source: Annotated[str, typer.Argument(help="The images: a local folder, s3://, or any fsspec URI.")],
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    prediction: Annotated[
        str | None, typer.Option("--name", help="The prediction's name; default: the last part of the source's.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="When the images were taken, for `raybench watch`; default: now.")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Local folder for a copy of the result.")] = Path("out"),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to score on; default RAY_ADDRESS, else in this process.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout, and all else on stderr.")
    ] = False,
) -> None:
    """Score new images with a line's chosen detector. Run it again to resume."""
    plan = plan_of(name)
    try:
        with _stdout_is_ours(as_json):
            scored = predict_images(plan, NewImages(source, line, model, prediction, at), out_folder, address, err)
    except (RunStopped, KeyboardInterrupt) as stopped:
        text = str(stopped) or "stopped: run the same command again to do the rest"
        err.print(text, style="yellow", markup=False, highlight=False)
        raise typer.Exit(STOPPED) from stopped
    print_packed(scored.prediction.manifest, err if as_json else out)
    _tell(scored.summary, scored.prediction, scored.folder, as_json)
    if scored.failed:
        raise typer.Exit(SHARDS_FAILED)


@contextlib.contextmanager
def _stdout_is_ours(as_json: bool) -> Iterator[None]:
    """For JSON nothing else may reach stdout, and a detector of somebody's own may print what it likes."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def _tell(summary: PredictionSummary, prediction: Prediction, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary_json(summary))
    else:
        _print(summary)
    told = err if as_json else out
    for shard, failure in summary.failed.items():
        text = f"failed {shard}: {failure.error_type}: {failure.message}"
        told.print(text, style="red", markup=False, highlight=False)
    store = prediction.run.store
    told.print(f"table: {store.uri(f'{tables(prediction)}/{TABLE}')}", soft_wrap=True, highlight=False)
    told.print(f"page: {folder / PAGE}", soft_wrap=True, highlight=False)


def _print(summary: PredictionSummary) -> None:
    table = Table("image", "excess", "score", box=None, header_style="bold")
    for row in summary.top[:SHOWN]:
        if row.is_anomalous is not False:
            excess = "–" if row.excess is None else f"{row.excess:.2f}"
            table.add_row(row.image_id, excess, f"{row.score:.4g}")
    if table.row_count:
        out.print(table, markup=False)
    out.print(f"{summary.line}, {summary.model}: {summary.sentence}", style="bold", markup=False, highlight=False)
    out.print(f"threshold: {summary.threshold.note}", highlight=False)
    if summary.shift:
        out.print(summary.shift, style="yellow", markup=False, highlight=False)
    if summary.odd_sizes:
        out.print(
            f"{summary.odd_sizes} images have a size or an aspect that no image of the line has: the threshold "
            "promises nothing for them",
            style="yellow",
        )
