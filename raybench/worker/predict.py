"""New images of a line, scored by a detector that a run has trained, with its input fit and its threshold.

runs/<run>/predictions/<name>/images/<line>/    the images, packed as a line is: all of them unlabelled
runs/<run>/predictions/<name>/source.json       what they were packed from: written last
runs/<run>/predictions/<name>/units/<unit_id>/  a copy of the detector's commit, and the scores: as in a run
runs/<run>/predictions/<name>/tables/<unit_id>/ for people: see `report.predictions`

The unit_id is one of its own: it hashes the images besides all that made the detector. So the same command goes on
where it ended, other images never meet scores of earlier ones, and several models may score the same images.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from raybench.config.experiment import NAME
from raybench.config.unit import Unit
from raybench.data import layouts, pack
from raybench.data.manifest import Manifest, ShardInfo, read_manifest
from raybench.data.source import listing_digest
from raybench.errors import InputError, ObjectMissing, StoreError
from raybench.runs.records import Failure, TrainRecord
from raybench.runs.run import Run, decode, encode, score_name
from raybench.store import Store
from raybench.store.digest import digest
from raybench.worker.context import WorkerContext
from raybench.worker.score import score

Progress = Callable[[pack.Progress], None]


@dataclass(frozen=True)
class PredictionSource:
    """What images were packed from. line_white_level: see `Manifest`. listing: SHA-256 (hex) of names, sizes and
    stamps; empty where the store gives no stamps, so that nobody can say whether the images are still the same."""

    uri: str
    line: str
    line_white_level: int
    listing: str


@dataclass(frozen=True)
class Prediction:
    """Images that lie packed in `images`, and the unit that scores them; its commits are in `run`."""

    name: str
    source: PredictionSource
    run: Run
    images: Store
    manifest: Manifest
    unit: Unit
    trained: TrainRecord

    def scored(self) -> set[str]:
        """Names of the unit's commits."""
        return self.run.commits(self.unit.unit_id).get(self.unit.unit_id, set())

    def waiting(self) -> list[ShardInfo]:
        """Shards that are not scored yet."""
        done = self.scored()
        return [shard for shard in self.manifest.shards if score_name(shard.key) not in done]


def prepare(
    run: Run, unit: Unit, line: Manifest, source: Store, name: str, progress: Progress = lambda now: None
) -> Prediction:
    """Pack the images of `source`, unless they are packed, as the prediction `name` of `run`, for `unit` to score.

    Raises InputError (a bad name, a name taken by other images, the unit is not trained), LineError when no image is
    left, and the store's own errors.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name!r} is not a prediction's name: letters, digits, `.`, `_` and `-`, at most 100")
    trained = run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise InputError(f"{unit} is not trained yet; run the experiment first")
    here = run.prediction(name)
    images = here.store.sub(f"{here.root}/images")
    found = PredictionSource(source.uri(), line.line, line.white_level, listing_digest(source))
    manifest = _packed(here, images, found, source, progress)
    own = replace(unit, line_digest=digest([unit.line_digest, manifest.digest]))
    trained = here.commit(own.unit_id, "train", replace(trained, unit_id=own.unit_id))
    return Prediction(name, found, here, images, manifest, own, trained)


def score_here(prediction: Prediction, site: WorkerContext, done: Callable[[ShardInfo], None]) -> dict[str, Failure]:
    """Score what is not scored yet, shard by shard in this process. Returns failures by shard; the rest is committed.

    Raises StoreError and OSError: with a store or a disk in trouble no shard would go better than the last.
    """
    failed: dict[str, Failure] = {}
    for shard in prediction.waiting():
        try:
            score(prediction.unit, prediction.manifest, shard, site)
        except (StoreError, OSError):
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            failed[shard.key] = Failure("score", type(error).__name__, str(error), text, 1)
        done(shard)
    return failed


def _packed(here: Run, images: Store, found: PredictionSource, source: Store, progress: Progress) -> Manifest:
    key = f"{here.root}/source.json"
    before = _source(here, key)
    if before and (before.uri, before.line) != (found.uri, found.line):
        raise InputError(
            f"{here.store.uri(here.root)} is of {before.uri} as {before.line!r}; choose another name with --name"
        )
    if before == found and found.listing:
        return read_manifest(images, found.line)
    here.store.delete(key)
    options = pack.PackOptions(layout=layouts.IMAGES, white_level=found.line_white_level)
    manifest = pack.pack(source, images, found.line, options, progress)
    here.store.put(key, encode(found))
    return manifest


def _source(here: Run, key: str) -> PredictionSource | None:
    try:
        return decode(PredictionSource, here.store.get(key), here.store.uri(key))
    except ObjectMissing:
        return None
