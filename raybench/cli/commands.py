"""The command line: parse, call, print; nothing else.

Exit codes: 0 done; 1 done, but some units failed or something is damaged; 2 the input or the store cannot be used as it
is; 3 stopped in good order by SIGTERM (`ray job stop`) or SIGINT (Ctrl-C): the same command does the rest.
"""

from __future__ import annotations

import fnmatch
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from raybench._api import copy_report, execute, pack_line, tell
from raybench.analysis.board import Board, board_json
from raybench.analysis.cost_report import format_estimate
from raybench.cli import annotate, inspect, predict, tables, weights
from raybench.cli import demo as demo_lines
from raybench.cli.terminal import err, out, print_json, print_rejects
from raybench.config.experiment import read_experiment
from raybench.config.plan import Plan, experiment_of, make_plan
from raybench.data.manifest import Manifest
from raybench.detectors.settings import PRESETS
from raybench.errors import RaybenchError, RunStopped, UnknownName
from raybench.report.console import console_board
from raybench.report.publish import publish_again
from raybench.runs import verify as verifying
from raybench.runs.ledger import Ledger
from raybench.runs.run import Run, encode
from raybench.scheduler.capacity import assumed_nodes
from raybench.scheduler.estimate import estimate_plan
from raybench.store import Store, open_store
from raybench.store.server import embedded_server

OK, UNITS_FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3
NOT_WHOLE = 1

app = typer.Typer(
    name="raybench",
    help="Which anomaly detector should each product line run, how sure are we, and which images to annotate next?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights.app, name="weights")
app.command()(inspect.inspect)
app.command()(annotate.annotate)

StoreUri = Annotated[str, typer.Option("--to", help="The store: s3://bucket/prefix, file:///folder or a path.")]
RunName = Annotated[str, typer.Argument(help="An experiment file, or the run's URI: STORE/runs/NAME.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Local folder for a copy of the report.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and all else on stderr.")]


def main() -> None:
    """Run the command line; errors that the user can mend are one message and exit code 2."""
    try:
        app()
    except RaybenchError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="Image folder: local, s3://, or any fsspec URI.")],
    line: Annotated[str, typer.Option("--line", help="Name of the product line.")],
    to: StoreUri,
    layout: Annotated[str, typer.Option(help="mvtec, folder, csv; auto looks for itself.")] = "auto",
) -> None:
    """Pack a folder of images into Parquet shards."""
    target = open_store(to)
    manifest = _pack(open_store(source), target, line, layout)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(manifest.counts.items()))
    size_mb = sum(shard.size for shard in manifest.shards) / 1e6
    out.print(f"{line}: {counts}; {len(manifest.shards)} shards, {size_mb:.1f} MB", highlight=False)
    out.print(target.sub("lines").uri(f"{line}/manifest.json"), soft_wrap=True, highlight=False)
    print_rejects(manifest)


@app.command()
def check(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster to predict for.")] = 1,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of each; default: this machine's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of each; default: 1 if resources.gpus > 0.")] = None,
    as_json: Json = False,
) -> None:
    """Validate an experiment, print its plan and predict what it will take; touch nothing."""
    plan = make_plan(read_experiment(experiment), str(experiment))
    units = tables.planned_units(plan)
    if as_json:
        print_json({"run": plan.experiment.name, "digest": plan.experiment.digest, "units": list(map(asdict, units))})
        return
    table = Table("line", "model", "seed", "input", "train OK", "scored", box=None, header_style="bold")
    for unit in units:
        size = f"{unit.input.height}×{unit.input.width} {unit.input.mode}"
        table.add_row(unit.line, unit.model, str(unit.seed), size, str(unit.train_ok), str(unit.scored))
    out.print(table)
    out.print(f"{len(units)} units; digest {plan.experiment.digest[:12]}", highlight=False)
    resources = plan.experiment.resources
    for text in format_estimate(
        estimate_plan(plan, assumed_nodes(resources, nodes, cpus, gpus)), resources.price_per_hour
    ):
        out.print(text, highlight=False)


@app.command()
def models(
    preset: Annotated[str, typer.Option(help="Whose defaults to show: paper or cpu.")] = "paper",
    as_json: Json = False,
) -> None:
    """List the models and their settings."""
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    known = tables.known_models(preset)
    if as_json:
        print_json({"preset": preset, "models": list(map(asdict, known))})
        return
    table = Table("model", "what it does", "input sides", "settings (defaults)", box=None, header_style="bold")
    for model in known:
        settings = ", ".join(f"{key}={value}" for key, value in model.settings.items())
        table.add_row(model.name, model.summary, f"≥ {model.min_side}, ×{model.stride} px", settings)
    out.print(table)


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    out_folder: OutFolder = Path("out"),
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Train, score and measure every unit that is not done yet, then compare. Run it again to resume."""
    sys.exit(_run(make_plan(read_experiment(experiment), str(experiment)), out_folder, address, as_json))


app.command()(predict.predict)


@app.command()
def status(name: RunName, as_json: Json = False) -> None:
    """What is done, under way, failed and waiting."""
    plan = make_plan(experiment_of(name), name)
    ledger = Ledger.read(Run(plan.store, plan.experiment.name))
    units = tables.unit_statuses(plan, ledger.commits([unit.unit_id for unit in plan.units]))
    done = sum(unit.state == "done" for unit in units)
    if as_json:
        print_json({"run": plan.experiment.name, "done": done, "units": list(map(asdict, units))})
        return
    table = Table("line", "model", "seed", "state", "unit", box=None, header_style="bold")
    for unit in units:
        table.add_row(unit.line, unit.model, str(unit.seed), unit.text, unit.unit_id)
    out.print(table)
    out.print(f"{done} of {len(units)} units done", highlight=False)


@app.command()
def report(
    name: RunName,
    out_folder: OutFolder = Path("out"),
    lines: Annotated[list[str] | None, typer.Option("--line", help="Show this line only (name or pattern).")] = None,
    as_json: Json = False,
) -> None:
    """Build the comparison of everything done so far, and show it."""
    plan = make_plan(experiment_of(name), name)
    board = publish_again(plan)
    _print_board(board, as_json, _chosen(board, lines or ()))
    _print_copy(plan, out_folder, as_json)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="An experiment file, STORE/runs/NAME, or a line: STORE/lines/NAME.")],
    as_json: Json = False,
) -> None:
    """Read everything of a run or a line again, and list what is not as it was written."""
    found = verifying.verify(name)
    if as_json:
        print_json(encode(found))
        sys.exit(NOT_WHOLE if found.problems else OK)
    table = Table("what", "objects", "MB", "problems", box=None, header_style="bold")
    for kind, tally in found.tallies.items():
        table.add_row(kind, str(tally.objects), f"{tally.size / 1e6:.1f}", str(tally.problems))
    out.print(table)
    for problem in found.problems:
        out.print(f"{problem.uri}: {problem.what}", style="red", markup=False, soft_wrap=True, highlight=False)
    if found.problems:
        sys.exit(NOT_WHOLE)
    out.print("everything is as it was written", highlight=False)


@app.command()
def export(
    name: RunName,
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    folder: Annotated[Path, typer.Option("--to", help="Local folder for the files.")] = Path("out/export"),
) -> None:
    """Write a line's detector as ONNX (and OpenVINO), threshold included, checked against the original."""
    from raybench.report.onnx_export import export as write
    from raybench.worker.context import node_cache

    found = write(make_plan(experiment_of(name), name), line, model, folder, node_cache())
    for file in found.files:
        out.print(str(file), soft_wrap=True, highlight=False)
    out.print(
        f"{found.model} on {found.line}: largest difference to the detector {found.difference:.1e} of the value, over "
        f"{found.images} images",
        highlight=False,
    )


@app.command()
def store(
    folder: Annotated[Path, typer.Argument(help="Where the data lives.")] = Path("out/store"),
    bucket: Annotated[str, typer.Option(help="Bucket to create.")] = "raybench",
) -> None:
    """Run an S3 server on this machine, on loopback, until stopped."""
    with embedded_server(folder) as server:
        open_store(f"s3://{bucket}").create()
        out.print(f"S3 server at {server.endpoint_url}, bucket {bucket!r}, data in {server.folder}", highlight=False)
        out.print("In another shell:", highlight=False)
        out.print(
            f"  export AWS_SHARED_CREDENTIALS_FILE={server.write_credentials()}",
            soft_wrap=True,
            highlight=False,
        )
        out.print(f"  export AWS_ENDPOINT_URL={server.endpoint_url} AWS_DEFAULT_REGION=us-east-1", highlight=False)
        out.print(f"  raybench pack FOLDER --line NAME --to s3://{bucket}/bench", highlight=False)
        _wait_for_stop()


@app.command()
def demo(out_folder: OutFolder = Path("out")) -> None:
    """Compare all models on real solar cells and one generated line, on an embedded S3 server."""
    folder = out_folder / "demo"
    with embedded_server(folder / "server"):
        bucket = open_store("s3://raybench-demo")
        bucket.create()
        for line, images in demo_lines.write_lines(folder / "images").items():
            manifest = _pack(open_store(str(images)), bucket, line, "auto")
            print_rejects(manifest)
        plan = make_plan(demo_lines.experiment(bucket.uri()))
        code = _run(plan, out_folder, None, as_json=False)
    sys.exit(code)


def _pack(source: Store, target: Store, line: str, layout: str) -> Manifest:
    return pack_line(source, target.sub("lines"), line, layout, err)


def _run(plan: Plan, out_folder: Path, address: str | None, as_json: bool) -> int:
    try:
        summary = execute(plan, address, err)
    except RunStopped:
        return STOPPED
    _print_board(summary.board, as_json)
    tell(summary, err if as_json else out)
    _print_copy(plan, out_folder, as_json)
    return UNITS_FAILED if summary.failed else OK


def _print_board(board: Board, as_json: bool, lines: Sequence[str] = ()) -> None:
    """As JSON: byte for byte what the report's board.json holds. lines: those to show, of many."""
    if as_json:
        print_json(board_json(board))
    else:
        out.print(console_board(board, lines))


def _chosen(board: Board, patterns: Sequence[str]) -> list[str]:
    """Lines of the board, in its order, that a pattern fits. Raises UnknownName for one that fits none."""
    for pattern in patterns:
        if not fnmatch.filter(board.lines, pattern):
            raise UnknownName("line", pattern, board.lines)
    return [line for line in board.lines if any(fnmatch.fnmatchcase(line, pattern) for pattern in patterns)]


def _print_copy(plan: Plan, out_folder: Path, as_json: bool) -> None:
    told = err if as_json else out
    told.print(f"report: {copy_report(plan, out_folder)}", soft_wrap=True, highlight=False)


def _wait_for_stop() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
