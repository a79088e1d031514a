"""Score new images of a line with a detector that a run has trained, with its input size and its threshold.

runs/<run>/predictions/<name>/images/<line>/    the images, packed like a line, all of them unlabelled
runs/<run>/predictions/<name>/source.json       the source that they were packed from; written last
runs/<run>/predictions/<name>/units/<id>/       a copy of the detector's commit, and the scores, as in a run
runs/<run>/predictions/<name>/tables/<unit_id>/ tables for people; see `report.predictions`

A prediction has a unit_id of its own: it hashes the images in addition to everything that the detector depends on. The
same command therefore resumes an interrupted prediction, new images are never mixed with the scores of other images,
and several models may score the same images.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from raybench.config.experiment import NAME, ThresholdChoice
from raybench.config.unit import Unit
from raybench.data import layouts, pack
from raybench.data.line import Line
from raybench.data.manifest import Manifest, ShardInfo, read_manifest
from raybench.data.roi import shared_roi
from raybench.data.roi_files import RoiFile
from raybench.data.source import listing_digest
from raybench.errors import InputError, ObjectMissing, StoreError
from raybench.runs.records import Failure, TrainRecord
from raybench.runs.run import RunStore, decode, encode, score_name
from raybench.runs.thresholds import UsedThreshold, read_threshold
from raybench.store import Store, digest
from raybench.worker.context import WorkerContext
from raybench.worker.score import score

Progress = Callable[[pack.Progress], None]


@dataclass(frozen=True)
class PredictionSource:
    """The source that images were packed from."""

    uri: str
    """URI of the folder or store."""
    line: str
    """Name of the line that the images belong to."""
    line_white_level: int
    """White level of that line; see `Manifest`."""
    listing: str
    """SHA-256 (hex) of the files' names, sizes and stamps. Empty if the store has no stamps; whether the images have
    changed is then unknown."""
    line_black_level: int = 0
    """Black level of that line."""
    line_roi: str = ""
    """SHA-256 (hex) of that line's region of interest, `RoiSummary.shared`. Empty without one."""


@dataclass(frozen=True)
class Prediction:
    """Packed images, and the unit that scores them."""

    name: str
    """Name of the prediction in its run."""
    source: PredictionSource
    """The source that the images were packed from."""
    run: RunStore
    """Holds the commits of the unit."""
    images: Store
    """Store of the packed images, laid out like a store of lines."""
    manifest: Manifest
    """Manifest of the packed images."""
    unit: Unit
    """The trained unit with an identity that includes the images."""
    trained: TrainRecord
    """The detector and its thresholds."""
    choice: ThresholdChoice
    """What set the threshold."""
    used: UsedThreshold
    """The threshold, and what the run knows of it."""
    detector_id: str
    """The detector as the run names it, whatever the threshold."""

    def scored(self) -> set[str]:
        """Return the names of the unit's commits."""
        return self.run.commits([self.unit.unit_id]).get(self.unit.unit_id, set())

    def waiting(self) -> list[ShardInfo]:
        """Return the shards that are not scored yet."""
        done = self.scored()
        return [shard for shard in self.manifest.shards if score_name(shard.key) not in done]


def prepare(
    run: RunStore,
    unit: Unit,
    line: Line,
    source: Store,
    name: str,
    progress: Progress = lambda now: None,
    choice: ThresholdChoice | None = None,
) -> Prediction:
    """Pack new images for a unit to score, unless they are packed already. They get the line's region of interest.

    Args:
        run: The run that trained the unit.
        unit: The unit whose detector scores the images.
        line: The unit's line.
        source: The images.
        name: Name of the prediction.
        progress: Called during packing.
        choice: What sets the threshold. None for the held-back images.

    Raises:
        InputError: The name is invalid or used for other images, the unit is not trained, or the line has no region of
            interest that new images could have, but several.
        LineError: No image could be packed.
        StoreError: The store fails.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name!r} is not a prediction's name: letters, digits, `.`, `_` and `-`, at most 100")
    trained = run.read(unit.detector_id, "train", TrainRecord)
    if trained is None:
        raise InputError(f"{unit} is not trained yet; run the experiment first")
    prediction = run.prediction(name)
    images = prediction.store.sub(f"{prediction.root}/images")
    known, roi = line.manifest, _roi_of(line)
    origin = PredictionSource(
        uri=source.uri(),
        line=known.line,
        line_white_level=known.white_level,
        listing=listing_digest(source),
        line_black_level=known.black_level,
        line_roi=known.roi.shared if known.roi else "",
    )
    manifest = _packed(prediction, images, origin, source, roi, progress)
    choice = choice or ThresholdChoice()
    used = read_threshold(run, unit.unit_id, trained, choice)
    detector_id = unit.detector_id
    unit = replace(unit, line_digest=digest([unit.line_digest, manifest.digest]))
    if choice != ThresholdChoice():
        unit = replace(unit, training_digest=digest([unit.training_digest, asdict(used.threshold)]))
    copy = replace(trained, detector_id=unit.detector_id, threshold=used.threshold)
    trained = prediction.commit(unit.detector_id, "train", copy)
    return Prediction(name, origin, prediction, images, manifest, unit, trained, choice, used, detector_id)


def score_here(prediction: Prediction, context: WorkerContext, done: Callable[[ShardInfo], None]) -> dict[str, Failure]:
    """Score the remaining shards one after the other in this process and commit each.

    Args:
        prediction: The prediction to score.
        context: Worker context whose run is the prediction's.
        done: Called after each shard, also after one that failed.

    Returns:
        Failures by shard key.

    Raises:
        StoreError, OSError: The store or the disk fails, and would fail for the remaining shards as well.
    """
    failed: dict[str, Failure] = {}
    for shard in prediction.waiting():
        try:
            score(prediction.unit, prediction.manifest, shard, context)
        except (StoreError, OSError):
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            failed[shard.key] = Failure("score", type(error).__name__, str(error), text, 1)
        done(shard)
    return failed


def _roi_of(line: Line) -> RoiFile | None:
    """Return the region of interest of new images of a line."""
    roi = shared_roi(line.store, line.manifest)
    if line.manifest.roi and roi is None:
        raise InputError(
            f"images of {line.name} have regions of interest of their own, and nobody knows those of new images; "
            "pack the images of each region as a line"
        )
    return None if roi is None else RoiFile(f"that of {line.name}", roi, is_upright=True)


def _packed(
    here: RunStore, images: Store, found: PredictionSource, source: Store, roi: RoiFile | None, progress: Progress
) -> Manifest:
    key = f"{here.root}/source.json"
    before = _source(here, key)
    if before and (before.uri, before.line) != (found.uri, found.line):
        raise InputError(
            f"{here.store.uri(here.root)} is of {before.uri} as {before.line!r}; choose another name with --name"
        )
    if before == found and found.listing:
        return read_manifest(images, found.line)
    here.store.delete(key)
    levels = found.line_black_level, found.line_white_level
    options = pack.PackOptions(layout=layouts.IMAGES, levels=levels, roi=roi)
    manifest = pack.pack(source, images, found.line, options, progress)
    here.store.put(key, encode(found))
    return manifest


def _source(here: RunStore, key: str) -> PredictionSource | None:
    try:
        return decode(PredictionSource, here.store.get(key), here.store.uri(key))
    except ObjectMissing:
        return None
