"""A run in MLflow: a parent run for the experiment, and a child for each unit.

Runs of MLflow are found again by their tags, so publishing twice updates them. What people add to them there stays.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import math
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pandas as pd

from raybench.analysis.findings import Findings, FinishedUnit, squash_baselines
from raybench.analysis.line_summary import worst_first
from raybench.analysis.rows import BoardRow, merge_seeds
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.card import CARD, line_card
from raybench.errors import InputError, ModelError, TrackerError
from raybench.metrics.numbers import Estimate
from raybench.metrics.threshold import excess_of
from raybench.report.columns import INTERVAL, SUMMARY_COLUMNS, line_cells
from raybench.report.model_card import model_card
from raybench.report.publish import bring_up_to_date, download
from raybench.runs.at_work import working
from raybench.runs.records import FailedUnit
from raybench.runs.run import RunStore, versions
from raybench.store import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunData

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell MLflow's makers
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow asks whether a folder is meant, and the URI names one
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # that a server is not there is told after seconds, not minutes
}
"""Settings of MLflow, unless the environment has others."""
OWN = "raybench."
"""Start of the names of tags that raybench removes when they do not hold any more."""
DIGEST, OUTDATED = f"{OWN}digest", f"{OWN}outdated"
PARENT = "mlflow.parentRunId"
SCORES = "scores.json"
LENGTH = 5000
"""Characters of a tag or parameter, at most; MLflow refuses longer ones."""
BATCH = 100
"""Tags or parameters of a request, at most."""
METRICS = 1000
"""Metrics of a request, at most."""
SUFFIXES = (".onnx", ".xml", ".bin", ".check.npz", ".md", ".json")
"""Of the files of an exported detector."""
PUBLISHERS = 4
Item = TypeVar("Item")


@dataclass(frozen=True)
class Published:
    """What is in MLflow now."""

    experiment: str
    """MLflow's experiment."""
    run_id: str
    """MLflow's ID of the parent run."""
    created: int
    """Number of child runs that are new."""
    updated: int
    unchanged: int
    outdated: int
    """Number of child runs of units that the experiment has no more."""
    not_exported: Mapping[str, str]
    """Why a line has no ONNX file, by line."""


@dataclass(frozen=True)
class Entry:
    """What a run of MLflow shows."""

    name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)
    """Artefacts by path."""
    exported: tuple[Path, ...] = ()
    """Files of the exported detector, for the folder `onnx`."""
    status: str = "FINISHED"

    @functools.cached_property
    def digest(self) -> str:
        contents = {name: content.hex() for name, content in self.contents.items()}
        files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(self.exported)]
        return digest([dict(self.tags), dict(self.metrics), dict(self.params), contents, files, self.status])


def publish_to_mlflow(plan: Plan, onnx: Path | None, cache_dir: Path) -> Published:
    """Show a run in the MLflow that $MLFLOW_TRACKING_URI names; see docs/trackers.md.

    Args:
        plan: The experiment.
        onnx: Folder of exported detectors. The detectors that the verdicts name are published from it, and exported
            into it where it lacks them. None: no detector is published.
        cache_dir: Cache of the node.

    Raises:
        InputError: MLflow is not installed, no URI is given, no unit has ended, or another process publishes the run.
        TrackerError: MLflow fails.
    """
    uri = _tracking_uri()
    with working(RunStore.of(plan), "raybench publish", only_one=True):  # two would both create what is not there
        return _publish_to(uri, plan, onnx, cache_dir)


def _publish_to(uri: str, plan: Plan, onnx: Path | None, cache_dir: Path) -> Published:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    run, findings = bring_up_to_date(plan)
    exported, not_exported = _export(plan, findings, onnx, cache_dir) if onnx else ({}, {})
    children = list(_children(plan, run, findings, exported))
    try:
        return _publish(MlflowClient(), plan, _parent(plan, run, findings), children, not_exported)
    except (MlflowException, OSError) as error:  # OSError: of the store for artefacts
        userinfo = urlsplit(uri).netloc.rpartition("@")[0]
        text = str(error).replace(f"{userinfo}@", "") if userinfo else str(error)
        raise TrackerError(f"MLflow fails: {text}") from None


def _tracking_uri() -> str:
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("MLflow is not installed; install raybench[mlflow]")
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if uri := os.environ.get(URI):
        return uri
    raise InputError(
        f"{URI} does not say where MLflow is: set it to the URL of a server, or to sqlite:////folder/mlflow.db or "
        "file:///folder, which need none"
    )


def _export(
    plan: Plan, findings: Findings, folder: Path, cache_dir: Path
) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
    """Return the exported files of the detectors that verdicts name by unit_id, and by line why there are none."""
    exported, failed = {}, {}
    for verdict in findings.board.verdicts:
        named = (unit for unit in plan.compared if (unit.line, unit.model) == (verdict.line, verdict.run))
        first = next(named, None)
        found = next((each for each in findings.finished if first and each.unit.unit_id == first.unit_id), None)
        if found is None:
            failed[verdict.line] = verdict.sentence if first is None else f"{first} is not finished"
            continue
        try:
            exported[found.unit.unit_id] = _exported_files(folder, found) or _export_now(plan, found, folder, cache_dir)
        except (InputError, ModelError) as error:
            failed[verdict.line] = str(error)
    return exported, failed


def _exported_files(folder: Path, finished: FinishedUnit) -> tuple[Path, ...]:
    """Return all files of exports of a unit, with the threshold of today, that lie in a folder."""
    threshold, files = finished.result.trained.threshold.value, list[Path]()
    for onnx in sorted(folder.glob(f"{finished.unit.line}-{finished.unit.model}*.onnx")):
        with contextlib.suppress(OSError, ValueError, KeyError):  # another program's
            about = json.loads(onnx.with_suffix(".json").read_text(encoding="utf-8"))
            if (about["unit_id"], about["threshold"]["value"]) == (finished.unit.unit_id, threshold):
                files += [path for suffix in SUFFIXES if (path := onnx.with_suffix(suffix)).is_file()]
    return tuple(files)


def _export_now(plan: Plan, finished: FinishedUnit, folder: Path, cache_dir: Path) -> tuple[Path, ...]:
    from raybench.report.onnx_export import export  # imports torch

    return export(plan, finished.unit.line, finished.unit.model, folder, cache_dir).files


def _parent(plan: Plan, run: RunStore, findings: Findings) -> Entry:
    board = findings.board
    tags = _identity(plan, run) | {f"{OWN}verdict.{verdict.line}": str(verdict) for verdict in board.verdicts}
    tags |= {f"{OWN}verdict": board.over_all.sentence} if board.over_all else {}
    metrics: dict[str, float] = {"units": len(plan.compared), "units_pending": board.context.pending}
    for summary in worst_first(board):
        for column in SUMMARY_COLUMNS:
            if isinstance(value := column.get(board, summary), Estimate):
                numbers = {f"_{part}" if part != "value" else "": getattr(value, part) for part in INTERVAL}
                metrics |= {
                    f"{summary.line}/{column.name}{end}": found for end, found in numbers.items() if found is not None
                }
    with tempfile.TemporaryDirectory() as folder:
        report = download(run, Path(folder))
        files = {
            f"report/{path.relative_to(report)}": path.read_bytes() for path in report.rglob("*") if path.is_file()
        }
    files["experiment.yaml"] = plan.experiment.to_yaml().encode()
    files |= {f"lines/{line}/{CARD}": line_card(manifest).encode() for line, manifest in plan.manifests.items()}
    status = "RUNNING" if board.context.pending else "FINISHED"
    return Entry(plan.experiment.name, tags, metrics, contents=files, status=status)


def _children(
    plan: Plan, run: RunStore, findings: Findings, exported: Mapping[str, tuple[Path, ...]]
) -> Iterator[Entry]:
    """Yield the units that have ended, each with its own numbers. Those of the squash baseline are none."""
    finished = {each.unit.unit_id: each for each in findings.finished}
    baselines = {each.chosen.unit_id: each for each in squash_baselines(plan, findings.finished)}
    failures = run.failures()
    identity = _identity(plan, run)
    for unit in plan.compared:
        if found := finished.get(unit.unit_id):
            row = merge_seeds([found.result], baselines.get(unit.unit_id))
            card = model_card(unit, row, findings.board)
            contents = {SCORES: _score_table(found), CARD: card.encode()}
            tags = {"mlflow.loggedArtifacts": json.dumps([{"path": SCORES, "type": "table"}])}
            yield _child(unit, row, findings, identity | tags, contents, exported.get(unit.unit_id, ()))
        elif unit.unit_id in failures and (failure := run.failure(unit.unit_id)):
            row = merge_seeds([FailedUnit(unit.unit_id, unit.line, unit.model, unit.seed, failure)])
            yield _child(unit, row, findings, identity)


def _child(
    unit: Unit,
    row: BoardRow,
    findings: Findings,
    identity: Mapping[str, str],
    contents: Mapping[str, bytes] | None = None,
    exported: tuple[Path, ...] = (),
) -> Entry:
    verdict = findings.board.verdict_on(unit.line)
    decision = "run" if unit.model == verdict.run else verdict.grades.get(unit.model, "")
    named = {"line": unit.line, "model": unit.model, "seed": str(unit.seed), "unit_id": unit.unit_id}
    cells = {name: value for name, value in line_cells(findings.board, row).items() if name not in named}
    numbers = {
        name: value for name, value in cells.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    words = {
        f"{OWN}{name}": str(value) for name, value in cells.items() if name not in numbers and value not in (None, "")
    }
    params = {"detector": unit.detector, "seed": unit.seed, "line_digest": unit.line_digest}
    params |= {f"config.{name}": value for name, value in unit.config.items()}
    params |= {f"input.{name}": value for name, value in asdict(unit.input).items()}
    params |= {f"protocol.{name}": value for name, value in asdict(unit.protocol).items()}
    params |= {f"weights.{name}": value for name, value in unit.weights.items()}
    if unit.together:
        params["together"] = [line.line for line in unit.together]
    return Entry(
        name=f"{unit.line} {unit.model} {unit.seed}",
        tags={**identity, **named, "decision": decision, **words},
        metrics=numbers,
        params={re.sub(r"[^\w. /-]", "_", name): _text(value) for name, value in params.items()},
        contents=contents or {},
        exported=exported,
        status="FINISHED" if row.finished else "FAILED",
    )


def _identity(plan: Plan, run: RunStore) -> dict[str, str]:
    return {
        "experiment": plan.experiment.name,
        "run": run.store.uri(run.root),
        "mlflow.source.name": "raybench publish",
        f"{OWN}version": versions()["raybench"],
    }


def _score_table(finished: FinishedUnit) -> bytes:
    """Return a row for each scored image as MLflow stores tables."""
    images, threshold = finished.images, finished.result.trained.threshold
    frame = pd.DataFrame({"image_id": images.image_ids, "label": images.labels, "score": images.scores})
    if threshold.value is not None:
        frame["is_anomalous"] = frame["score"] > threshold.value
        frame["excess"] = [excess_of(score, threshold) for score in images.scores.tolist()]
    return json.dumps(frame.to_dict("split", index=False)).encode()  # to_json would round scores


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _publish(
    client: MlflowClient, plan: Plan, parent: Entry, children: Sequence[Entry], not_exported: Mapping[str, str]
) -> Published:
    name = os.environ.get(EXPERIMENT) or "raybench"
    known = client.get_experiment_by_name(name)
    experiment_id = known.experiment_id if known else client.create_experiment(name)
    same_name = _search(client, experiment_id, f"tags.experiment = '{plan.experiment.name}'")
    parents = [run for run in same_name if run.data.tags["run"] == parent.tags["run"] and PARENT not in run.data.tags]
    parent_id, _ = _write(client, experiment_id, parent, parents[-1] if parents else None)
    found = {
        run.data.tags.get("unit_id", ""): run
        for run in _search(client, experiment_id, f"tags.`{PARENT}` = '{parent_id}'")
    }

    def write(child: Entry) -> str:
        entry = replace(child, tags={**child.tags, PARENT: parent_id})
        return _write(client, experiment_id, entry, found.get(child.tags["unit_id"]))[1]

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        done = Counter(pool.map(write, children))
    outdated = found.keys() - {unit.unit_id for unit in plan.compared}
    for unit_id in outdated:
        if OUTDATED not in found[unit_id].data.tags:
            client.set_tag(found[unit_id].info.run_id, OUTDATED, "true")
            client.delete_tag(found[unit_id].info.run_id, DIGEST)
    return Published(name, parent_id, done["created"], done["updated"], done["unchanged"], len(outdated), not_exported)


def _search(client: MlflowClient, experiment_id: str, wanted: str) -> list[Run]:
    """Return all runs that fit, the newest first."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=1000, page_token=token)
        runs += page
        if not (token := page.token):
            return runs


def _write(client: MlflowClient, experiment_id: str, entry: Entry, found: Run | None) -> tuple[str, str]:
    """Write an entry into its run, and return the run's ID and what was done: created, updated or unchanged."""
    if found and found.data.tags.get(DIGEST) == entry.digest:
        return found.info.run_id, "unchanged"
    tags = {name: text[:LENGTH] for name, text in entry.tags.items()}
    run = found or client.create_run(experiment_id, run_name=entry.name, tags=tags)
    run_id, old = run.info.run_id, run.data
    _log_batches(client, run_id, entry, old, tags)
    for name in old.tags:
        if name.startswith(OWN) and name not in entry.tags and name != DIGEST:
            client.delete_tag(run_id, name)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in entry.contents.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run_id, folder)
    for path in entry.exported:
        client.log_artifact(run_id, str(path), "onnx")
    if run.info.status != entry.status:
        if entry.status == "RUNNING":
            client.update_run(run_id, status=entry.status)
        else:
            client.set_terminated(run_id, entry.status)
    client.set_tag(run_id, DIGEST, entry.digest)  # last: a run that lacks it is written again
    return run_id, "updated" if found else "created"


def _log_batches(client: MlflowClient, run_id: str, entry: Entry, old: RunData, tags: Mapping[str, str]) -> None:
    """Log what a run has otherwise or not at all. A metric that is not defined any more becomes NaN."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    gone = {
        name: math.nan for name, value in old.metrics.items() if name not in entry.metrics and not math.isnan(value)
    }
    changed = {name: value for name, value in entry.metrics.items() if old.metrics.get(name) != value} | gone
    metrics = [Metric(name, value, now, 0) for name, value in changed.items()]
    params = [Param(name, text[:LENGTH]) for name, text in entry.params.items() if name not in old.params]
    other_tags = [RunTag(name, text) for name, text in tags.items() if old.tags.get(name) != text]
    for part in _parts(metrics, METRICS):
        client.log_batch(run_id, metrics=part)
    for part in _parts(params, BATCH):
        client.log_batch(run_id, params=part)
    for part in _parts(other_tags, BATCH):
        client.log_batch(run_id, tags=part)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
