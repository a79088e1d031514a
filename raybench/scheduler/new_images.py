"""Score new images with a detector that a run has trained: in this process, or on a cluster where one is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from raybench.analysis.anomaly_types.stored import make_classifier
from raybench.analysis.predictions import PredictionSummary
from raybench.analysis.select import select_unit
from raybench.config.experiment import Resources
from raybench.config.plan import Plan
from raybench.data.source import name_of, plain_name
from raybench.report.predictions import publish
from raybench.report.progress import pack_bar, score_bar
from raybench.runs.at_work import working
from raybench.runs.history import utc_time
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker.context import WorkerContext, node_cache
from raybench.worker.predict import Prediction, prepare, score_here


@dataclass(frozen=True)
class NewImages:
    """New images, and the detector that is to score them."""

    source: str
    """Folder of the images: a path, s3:// or any fsspec URI."""
    line: str
    """Product line whose detector is used."""
    model: str | None = None
    """Label of the model. None for the one that the verdict names."""
    name: str | None = None
    """Name of the prediction in the store. None for the last part of the folder's."""
    at: str | None = None
    """When they were taken, for the history of the line: ISO 8601, UTC without a zone. None for now."""


@dataclass(frozen=True)
class ScoredImages:
    """New images with their scores."""

    prediction: Prediction
    summary: PredictionSummary
    failed: Mapping[str, Failure]
    """Failures by shard that could not be scored."""
    folder: Path
    """Local folder of the table and the page."""


def predict_images(
    plan: Plan, new: NewImages, folder: Path, address: str | None, console: Console | None
) -> ScoredImages:
    """Pack new images, score them, and write a table and a page to the store and to a folder.

    Args:
        plan: Plan of the run that trained the detector.
        new: The images, and the detector.
        folder: Local folder; table and page are written below `<folder>/<run>/predictions`.
        address: Ray cluster. None for RAY_ADDRESS, else this process.
        console: Where bars are drawn. None for nowhere.

    Raises:
        UnknownName: The run has no such line or model.
        InputError: The images, the name or the run cannot be used.
        ClusterUnreachable: No cluster answers at the address; nothing is packed then.
        StoreError: The store fails.
        RunStopped: A signal ended the scoring on a cluster; the same call does the rest.
    """
    utc_time(new.at)  # a mistake is told before anything is scored
    unit = select_unit(plan, new.line, new.model)
    if address := address or os.environ.get("RAY_ADDRESS"):
        from raybench.scheduler.handshake import check_answers  # Ray is not imported to score in this process

        check_answers(address)
    images = open_store(new.source, **plan.experiment.storage.model_dump())
    plan.store.check()
    store, name = RunStore.of(plan), new.name or name_of(new.source)
    out = folder / plan.experiment.name / "predictions" / name / plain_name(unit.model)
    with working(store, "raybench predict", plan):
        with pack_bar(new.line, console) as show:
            choice = plan.experiment.on(new.line).threshold
            prediction = prepare(store, unit, plan.line(new.line), images, name, show, choice)
        failed = _score(prediction, plan.experiment.resources, address, console)
        classify = make_classifier(plan, store, new.line)
        summary = publish(prediction, plan.manifests[new.line], failed, out, classify, new.at)
    return ScoredImages(prediction, summary, failed, out)


def _score(
    prediction: Prediction, resources: Resources, address: str | None, console: Console | None
) -> dict[str, Failure]:
    with score_bar(prediction, console) as done:
        if address:
            from raybench.scheduler.predict import score_on_cluster

            return score_on_cluster(prediction, resources, address, done)
        from raybench.detectors import device

        chosen, threads = device.available(resources.gpus), os.cpu_count() or 1
        context = WorkerContext(prediction.run, prediction.images, node_cache(), chosen, threads)
        return score_here(prediction, context, done)
