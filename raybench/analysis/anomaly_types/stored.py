"""What kind of anomaly the first flags of each line look like.

To learn what a line's kinds look like takes seconds of CPU. It is done once per line, by the task that inspects it, and
kept beside the inspection; what was told is kept beside the run, in `runs/<name>/signals/<line>.json`, and only images
that were never looked at are. Both depend on nothing but the line.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from raybench.analysis.anomaly_types import AnomalyType, ReferenceBank, classify, references_of
from raybench.analysis.anomaly_types.training_samples import VERSION, TrainingSamples, read_samples, write_samples
from raybench.analysis.anomaly_types.views import Image
from raybench.analysis.flags import Flag
from raybench.config.plan import Plan
from raybench.data.decode import decode_image
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, ObjectMissing, StoreDenied
from raybench.runs.run import Run, encode
from raybench.store import Store

TRAINING = "suspicious training image"  # it may be one of those that images are compared with
THREADS = 8  # lines at a time, at most: each holds some fifty megabytes
_DIGITS = 3  # of a confidence


@dataclass(frozen=True)
class StoredTypes:
    """version: of the rules. line_digest: of the manifest. signals: by image id."""

    version: int
    line_digest: str
    signals: Mapping[str, AnomalyType]


_ADAPTER = TypeAdapter(StoredTypes)
Look = Callable[[Image], AnomalyType | None]


def with_anomaly_types(plan: Plan, run: Run, flags: Sequence[Flag]) -> list[Flag]:
    """The flags, the first of each line with what they look like. flags: grouped by line, by rank."""
    by_line = [(line, list(group)) for line, group in itertools.groupby(flags, key=lambda flag: flag.line)]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return [flag for found in pool.map(lambda one: _of_line(plan, run, *one), by_line) for flag in found]


def _of_line(plan: Plan, run: Run, line: str, flags: Sequence[Flag]) -> list[Flag]:
    wanted = [flag.image_id for flag in flags if TRAINING not in flag.kinds][: plan.experiment.annotation.signals]
    told = _tell(plan, line, run, wanted)
    found = {image_id: told[image_id] for image_id in wanted if image_id in told}
    return [_with(flag, found.get(flag.image_id)) for flag in flags]


def _with(flag: Flag, told: AnomalyType | None) -> Flag:
    if told is None:
        return flag
    return replace(flag, signal=told.kind, signal_confidence=told.confidence, signal_evidence=told.evidence)


def learn_in_run(run: Run, lines: Store, manifest: Manifest, own: bool) -> None:
    """Learn what the line's kinds look like unless that has been done. own: the line lies in the run's own store, and
    may be written to. Raises IntegrityError, and the store's own errors."""
    if _lessons(run, lines, manifest) is None:
        _learnt(run, lines, manifest, own)


def make_classifier(plan: Plan, run: Run, line: str) -> Look:
    """Says what an image of the line looks like; learns what that takes when it is first asked. Nothing where signals
    are off or there are too few OK images; why not, where the line's training images are no longer whole: a prediction
    does not need them."""

    @functools.cache
    def references() -> ReferenceBank | AnomalyType | None:
        if not plan.experiment.annotation.signals:
            return None
        try:
            return _references(run, plan.lines_of(line), plan.manifests[line], line not in plan.elsewhere)
        except (ObjectMissing, IntegrityError) as error:
            return AnomalyType("uncertain", 0.0, f"not looked at: {error}")

    def look(image: Image) -> AnomalyType | None:
        found = references()
        return classify(image, found) if isinstance(found, ReferenceBank) else found

    return look


def _lessons(run: Run, lines: Store, manifest: Manifest) -> TrainingSamples | None:
    return read_samples(lines, manifest) or read_samples(run.lines, manifest)


def _references(run: Run, lines: Store, manifest: Manifest, own: bool) -> ReferenceBank | None:
    """From what has been learnt; else learnt now, and kept."""
    kept = _lessons(run, lines, manifest)
    return references_of(lines, manifest, kept) if kept else _learnt(run, lines, manifest, own)


def _learnt(run: Run, lines: Store, manifest: Manifest, own: bool) -> ReferenceBank | None:
    references = references_of(lines, manifest)
    if references is not None:
        try:
            write_samples(lines if own else run.lines, manifest, references.lessons)
        except StoreDenied:
            write_samples(run.lines, manifest, references.lessons)
    return references


def _tell(plan: Plan, line: str, run: Run, image_ids: Sequence[str]) -> Mapping[str, AnomalyType]:
    lines, manifest = plan.lines_of(line), plan.manifests[line]
    key = f"{run.root}/signals/{manifest.line}.json"
    known = _read(run.store, key, manifest)
    unknown = set(image_ids) - set(known)
    references = _references(run, lines, manifest, line not in plan.elsewhere) if unknown else None
    if references is None:
        return known
    fresh = {row.image_id: classify(decode_image(row.image, manifest.white_level), references)
             for row in _rows(lines, manifest, unknown)}  # fmt: skip
    rounded = {image: replace(one, confidence=round(one.confidence, _DIGITS)) for image, one in fresh.items()}
    told = dict(sorted({**known, **rounded}.items()))
    run.store.put(key, encode(StoredTypes(VERSION, manifest.digest, told)))
    return told


def _read(store: Store, key: str, manifest: Manifest) -> Mapping[str, AnomalyType]:
    """What was told of these very images by these very rules."""
    try:
        found = _ADAPTER.validate_json(store.get(key))
    except (ObjectMissing, ValidationError):
        return {}
    return found.signals if (found.version, found.line_digest) == (VERSION, manifest.digest) else {}


def _rows(lines: Store, manifest: Manifest, image_ids: set[str]) -> Iterator[ImageRow]:
    """Of the few shards that hold them."""
    for shard in manifest.scored_shards:
        here = {row.image_id for row in read_rows(lines, shard, images=False, only=image_ids)}
        if here:
            yield from read_rows(lines, shard, only=here)
