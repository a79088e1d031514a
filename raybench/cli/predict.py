"""`raybench predict`: new images, scored by the detector that a line should run."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from raybench.analysis.anomaly_types.stored import make_classifier
from raybench.analysis.predictions import PredictionSummary
from raybench.analysis.select import select_unit
from raybench.cli.terminal import err, out, pack_bar, print_json, print_rejects
from raybench.config.experiment import Resources
from raybench.config.plan import experiment_of, make_plan
from raybench.data.manifest import ShardInfo
from raybench.errors import RunStopped
from raybench.report.predictions import PAGE, TABLE, publish, summary_json, tables
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker.predict import Prediction, prepare, score_here

SHARDS_FAILED, STOPPED = 1, 3  # exit codes, as in `cli`
SHOWN = 10
NAME_CHARS = 100


def predict(
    name: Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")],
    source: Annotated[str, typer.Argument(help="The images: a local folder, s3://, or any fsspec URI.")],
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    prediction: Annotated[
        str | None, typer.Option("--name", help="The prediction's name; default: the last part of the source's.")
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
    plan = make_plan(experiment_of(name), name)
    unit = select_unit(plan, line, model)
    images = open_store(source, **plan.experiment.storage.model_dump())
    plan.store.check()
    run, called = RunStore(plan.store, plan.experiment.name), prediction or _named_after(images.uri())
    folder = out_folder / plan.experiment.name / "predictions" / called / _plain(unit.model)
    try:
        with _stdout_is_ours(as_json):
            with pack_bar(line) as show:
                found = prepare(run, unit, plan.manifests[line], images, called, show)
            print_rejects(found.manifest, err if as_json else out)
            failed = _score(found, plan.experiment.resources, address or os.environ.get("RAY_ADDRESS"))
            summary = publish(found, plan.manifests[line], failed, folder, make_classifier(plan, run, line))
    except (RunStopped, KeyboardInterrupt) as stopped:
        text = str(stopped) or "stopped: run the same command again to do the rest"
        err.print(text, style="yellow", markup=False, highlight=False)
        raise typer.Exit(STOPPED) from stopped
    _tell(summary, found, folder, as_json)
    if failed:
        raise typer.Exit(SHARDS_FAILED)


def _score(prediction: Prediction, resources: Resources, address: str | None) -> dict[str, Failure]:
    with _score_bar(prediction) as done:
        if address:
            from raybench.scheduler.cluster import connected
            from raybench.scheduler.predict import score_shards

            with connected(address):
                return score_shards(prediction, resources, done)
        from raybench.detectors import device
        from raybench.worker.context import WorkerContext, node_cache

        chosen, threads = device.available(resources.gpus), os.cpu_count() or 1
        site = WorkerContext(prediction.run, prediction.images, node_cache(), chosen, threads)
        return score_here(prediction, site, done)


@contextlib.contextmanager
def _score_bar(prediction: Prediction) -> Iterator[Callable[[ShardInfo], None]]:
    """What to call with each shard that is done: a live bar on a terminal."""
    shards, waiting = prediction.manifest.shards, prediction.waiting()
    columns = (TextColumn("score images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        total = sum(shard.rows for shard in shards)
        bar = bars.add_task("", total=total, completed=total - sum(shard.rows for shard in waiting))
        yield lambda shard: bars.advance(bar, shard.rows)


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
    if summary.odd_sizes:
        out.print(
            f"{summary.odd_sizes} images have a size or an aspect that no image of the line has: the threshold "
            "promises nothing for them",
            style="yellow",
        )


def _named_after(uri: str) -> str:
    """A prediction's name from the last part of its source's URI."""
    scheme, _, path = uri.partition("://")
    last = path.rstrip("/").rpartition("/")[2]
    return _plain(unquote(last) if scheme == "file" else last)


def _plain(text: str) -> str:
    """`text` as a name of letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:NAME_CHARS] or "images"
