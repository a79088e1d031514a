"""The report of a prediction: a table of all images, a summary, and a page of the most anomalous with heat maps.

Images are read shard by shard: memory holds one shard's scores and the few images of the page, however many images
there are.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from raybench.analysis.anomaly_types import AnomalyType
from raybench.analysis.anomaly_types.stored import TypeClassifier
from raybench.analysis.anomaly_types.views import Image
from raybench.analysis.predictions import (
    PredictionCounts,
    PredictionSummary,
    predict_image,
    reasons,
    score_shift,
    sentence,
)
from raybench.data.geometry import to_source
from raybench.data.inspection.properties import join, measure_shard
from raybench.data.line import decode_row
from raybench.data.manifest import Manifest
from raybench.data.roi import fill_outside, heat_inside, roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import InputError, IntegrityError
from raybench.metrics.image import ImageScores
from raybench.report.gallery import image_uri, overlay_uri
from raybench.report.html import part, template
from raybench.runs.history import QUANTILES, SAMPLE, Batch, add_batch, utc_time
from raybench.runs.records import Failure, ScoreRecord
from raybench.runs.run import PREDICTIONS, RunStore, encode, score_name
from raybench.runs.scores import PREDICTIONS_SCHEMA, Predicted, ScoreRow, read_scores, write_predictions
from raybench.runs.thresholds import TEST_OK
from raybench.worker.context import fit_of
from raybench.worker.predict import Prediction

PROPERTIES = ("brightness", "contrast", "sharpness")
"""Properties of images that the history of a line has, beside their scores."""
TABLE, SHEET, SUMMARY, PAGE = "predictions.parquet", "predictions.csv", "summary.json", "index.html"


@dataclass(frozen=True)
class PredictionCard:
    """One image of the page."""

    row: Predicted
    image: str
    """Data URI."""
    heat: str
    """Data URI; empty for a model without heat maps."""
    signal: AnomalyType | None = None
    """Type of the anomaly. None if the image was not classified."""
    has_roi: bool = False
    """Whether it has a region of interest, outside of which it is hatched."""


def publish(
    prediction: Prediction,
    line: Manifest,
    failed: Mapping[str, Failure],
    folder: Path,
    classify: TypeClassifier = lambda image: None,
    at: str | None = None,
) -> PredictionSummary:
    """Write the table, the summary and the page of all scored images to a folder and to the store.

    If all images are scored, the batch is added to the history of the line as well, see `runs.history`.

    Args:
        prediction: The prediction.
        line: Manifest of the line that the unit was trained on.
        failed: Why shards could not be scored, by their keys.
        folder: Local folder for the files.
        classify: Classifies the anomalous images of the page.
        at: When the images were taken, see `history.utc_time`. None for now.

    Raises:
        IntegrityError: A shard holds an image that was not scored.
        InputError: The history has these images at another time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tally = PredictionCounts()
    with (folder / SHEET).open("w", newline="", encoding="utf-8") as sheet:
        write_predictions(_noted(prediction, line, tally, sheet), folder / TABLE)
    summary = _summary(prediction, tally, failed)
    (folder / SUMMARY).write_bytes(summary_json(summary))
    cards = _cards(prediction, tally.top, classify)
    (folder / PAGE).write_text(render(summary, cards), encoding="utf-8")
    for name in (TABLE, SHEET, SUMMARY, PAGE):
        prediction.run.store.put(f"{tables(prediction)}/{name}", (folder / name).read_bytes())
    if summary.images and not summary.not_scored:
        types = Counter(str(card.signal.kind) for card in cards if card.signal)
        _remember(prediction, summary, tally, types, at)
    return summary


def _remember(
    prediction: Prediction,
    summary: PredictionSummary,
    tally: PredictionCounts,
    types: Mapping[str, int],
    at: str | None,
) -> None:
    """Add the batch to the history of its line."""
    run = RunStore(prediction.run.store, summary.run)
    measured = _measured(prediction, tally)
    values = {"scores": list(tally.scores)} | {name: measured[name].tolist() for name in PROPERTIES if name in measured}
    batch = Batch(
        at=utc_time(at),
        prediction=summary.prediction,
        line=summary.line,
        model=summary.model,
        detector_id=prediction.detector_id,
        unit_id=summary.unit_id,
        images=summary.images,
        threshold=summary.threshold,
        flagged=summary.anomalous,
        odd_sizes=summary.odd_sizes,
        rejected=sum(summary.rejected.values()),
        quantiles={name: tuple(np.quantile(found, QUANTILES).tolist()) for name, found in values.items()},
        measured=len(measured),
        types=types,
        sample=tuple(digest for digest, _, _ in tally.sample[:SAMPLE]),
    )
    there = add_batch(run, batch)
    if at and there.at != batch.at:
        raise InputError(f"the history of {batch.line} has these images already, at {there.at}: that does not change")


def _measured(prediction: Prediction, tally: PredictionCounts) -> pd.DataFrame:
    """Measure the light and the sharpness of the sampled images. What cannot be decoded has no row."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for _, image_id, shard_key in tally.sample:
        wanted[shard_key].add(image_id)
    manifest, threads = prediction.manifest, os.cpu_count() or 1
    shards = [shard for shard in manifest.shards if shard.key in wanted]
    return join(
        [measure_shard(prediction.images, manifest, shard, threads, only=wanted[shard.key]) for shard in shards]
    ).table


def tables(prediction: Prediction) -> str:
    """Return the prefix of the keys that `publish` writes."""
    return f"{prediction.run.root}/tables/{prediction.unit.unit_id}"


def summary_json(summary: PredictionSummary) -> bytes:
    """Return the summary as JSON: `summary.json`."""
    return encode(summary)


def render(summary: PredictionSummary, cards: Sequence[PredictionCard]) -> str:
    """Return the page as HTML, without scripts or outside addresses. Everything from the data is escaped."""
    return template("predictions.html.j2").render(summary=summary, cards=cards, style=part("base.css"))


def _noted(prediction: Prediction, line: Manifest, tally: PredictionCounts, sheet: TextIO) -> Iterator[Predicted]:
    """The rows, added to `tally` and written to `sheet` as they pass."""
    columns = PREDICTIONS_SCHEMA.names
    writer = csv.DictWriter(sheet, columns)
    writer.writeheader()
    for row, shard_key, sha256 in _rows(prediction, line):
        tally.add(row, shard_key, sha256)
        writer.writerow(vars(row))
        yield row


def _rows(prediction: Prediction, line: Manifest) -> Iterator[tuple[Predicted, str, str]]:
    """Every scored image, the key of its shard and the digest of its file, in the order of the shards."""
    unit, threshold = prediction.unit, prediction.trained.threshold
    for shard in prediction.manifest.shards:
        record = _record(prediction, shard.key)
        if record is None:
            continue
        found = ImageScores.from_bytes(prediction.run.get_blob(record.images))
        scores = dict(zip(found.image_ids.tolist(), found.scores.tolist(), strict=True))
        for row in read_rows(prediction.images, shard, images=False):
            if row.image_id not in scores:
                raise IntegrityError(f"{row.image_id} of {shard.key} was not scored with its shard")
            yield predict_image(row, scores[row.image_id], unit, threshold, line), shard.key, row.sha256


def _record(prediction: Prediction, shard_key: str) -> ScoreRecord | None:
    return prediction.run.read(prediction.unit.unit_id, score_name(shard_key), ScoreRecord)


def _summary(prediction: Prediction, tally: PredictionCounts, failed: Mapping[str, Failure]) -> PredictionSummary:
    threshold = prediction.trained.threshold
    return PredictionSummary(
        run=prediction.run.name.partition(PREDICTIONS)[0],
        prediction=prediction.name,
        source=prediction.source.uri,
        line=prediction.unit.line,
        model=prediction.unit.model,
        unit_id=prediction.unit.unit_id,
        images=tally.images,
        anomalous=None if threshold.value is None else tally.anomalous,
        threshold=threshold,
        odd_sizes=tally.odd_sizes,
        rejected=reasons(prediction.manifest),
        failed=failed,
        not_scored=sum(shard.rows for shard in prediction.manifest.shards) - tally.images,
        top=tuple(row for row, _ in tally.top),
        sentence=sentence(tally.images, tally.anomalous, prediction.used),
        shift=_shift(prediction, tally),
    )


def _shift(prediction: Prediction, tally: PredictionCounts) -> str:
    """Return how the new scores differ from those of held-back OK images, if they do."""
    if prediction.choice.source == TEST_OK:
        return ""
    held_out = ImageScores.from_bytes(prediction.run.get_blob(prediction.trained.held_out))
    return score_shift(tally.scores, held_out.scores.tolist())


def _cards(
    prediction: Prediction, top: Sequence[tuple[Predicted, str]], classify: TypeClassifier
) -> list[PredictionCard]:
    """Cards in the order of `top`. Only the shards that hold them are read; images are made small one by one."""
    found: dict[str, PredictionCard] = {}
    for shard in prediction.manifest.shards:
        wanted = {row.image_id: row for row, shard_key in top if shard_key == shard.key}
        record = _record(prediction, shard.key) if wanted else None
        if record is None:
            continue
        scored = {row.image_id: row for row in read_scores(prediction.run.get_blob(record.shard), only=wanted)}
        for image in read_rows(prediction.images, shard, only=wanted):
            row = wanted[image.image_id]
            pixels, roi = decode_row(image, prediction.manifest), roi_of(image)
            signal = classify(fill_outside(pixels, roi)) if row.is_anomalous else None
            heat = _heat_uri(prediction, image, pixels, scored[image.image_id])
            found[image.image_id] = PredictionCard(row, image_uri(pixels, roi), heat, signal, roi is not None)
    return [found[row.image_id] for row, _ in top]


def _heat_uri(prediction: Prediction, row: ImageRow, pixels: Image, scored: ScoreRow) -> str:
    """Return the heat map over the image, empty without one. Pixels no hotter than OK images stay clear."""
    low, high = prediction.trained.heat_low, prediction.trained.heat_high
    if scored.heatmap is None or low is None or high is None:
        return ""
    heat = to_source(scored.heatmap, fit_of(prediction.unit), row.height, row.width)
    return overlay_uri(pixels, heat_inside(heat, row), low, high, roi_of(row))
