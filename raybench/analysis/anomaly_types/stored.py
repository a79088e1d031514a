"""Classify the first flags of each line, and store what was learnt and answered.

Learning from a line takes seconds of CPU time. It is done once per line, by the task that inspects it, and stored
beside the inspection. Answers are stored beside the run, in `runs/<name>/signals/<line>.json`; only images without a
stored answer are classified. Both depend on nothing but the line.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from raybench.analysis.anomaly_types import AnomalyType, ReferenceBank, build_reference_bank, classify
from raybench.analysis.anomaly_types.classifier import VERSION, TrainingSamples, read_samples, write_samples
from raybench.analysis.anomaly_types.views import Image
from raybench.analysis.flags import Flag
from raybench.config.plan import Plan
from raybench.data.manifest import Manifest
from raybench.errors import IntegrityError, ObjectMissing, StoreDenied
from raybench.runs.run import RunStore, encode
from raybench.store import Store

TRAINING = "suspicious training image"  # it may be one of the references
THREADS = 8  # most lines at a time: each takes some fifty megabytes
_DIGITS = 3  # of a confidence


@dataclass(frozen=True)
class StoredTypes:
    """The answers for a line."""

    version: int
    """Version of the rules that gave them."""
    images_digest: str
    """Digest of the line's images, from its manifest."""
    signals: Mapping[str, AnomalyType]
    """Answer by image_id."""


_ADAPTER = TypeAdapter(StoredTypes)
TypeClassifier = Callable[[Image], AnomalyType | None]


def with_anomaly_types(plan: Plan, run: RunStore, flags: Sequence[Flag]) -> list[Flag]:
    """Classify the first flags of each line, up to `annotation.signals`.

    Args:
        plan: The run's plan.
        run: The run.
        flags: Flags grouped by line, in order of rank.

    Returns:
        All flags in the same order, the first of each line with the type of their anomaly.
    """
    by_line = [(line, list(group)) for line, group in itertools.groupby(flags, key=lambda flag: flag.line)]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        classified = pool.map(lambda item: _classify_flags(plan, run, *item), by_line)
        return [flag for line_flags in classified for flag in line_flags]


def _classify_flags(plan: Plan, run: RunStore, line: str, flags: Sequence[Flag]) -> list[Flag]:
    wanted = [flag.image_id for flag in flags if TRAINING not in flag.kinds][: plan.experiment.annotation.signals]
    types = _classify_images(plan, line, run, wanted)
    return [_with_type(flag, types.get(flag.image_id) if flag.image_id in wanted else None) for flag in flags]


def _with_type(flag: Flag, answer: AnomalyType | None) -> Flag:
    if answer is None:
        return flag
    return replace(flag, signal=answer.kind, signal_confidence=answer.confidence, signal_evidence=answer.evidence)


def learn_in_run(run: RunStore, lines: Store, manifest: Manifest, writable: bool) -> None:
    """Learn the anomaly types of a line unless that has been done.

    Args:
        run: The run.
        lines: Store that holds the line.
        manifest: Manifest of the line.
        writable: Whether results may be stored beside the line; True in the run's own store.

    Raises:
        IntegrityError: A shard is damaged. The store's own errors are raised as well.
    """
    if _stored_samples(run, lines, manifest) is None:
        _learn(run, lines, manifest, writable)


def make_classifier(plan: Plan, run: RunStore, line: str) -> TypeClassifier:
    """Return a function that classifies an image of a line; the first call learns what it takes.

    It returns None if classification is switched off or the line has too few OK images. If training images are missing
    or damaged, it returns "uncertain" with the reason: a prediction does not depend on them.
    """

    @functools.cache
    def references() -> ReferenceBank | AnomalyType | None:
        if not plan.experiment.annotation.signals:
            return None
        try:
            return _reference_bank(run, plan.lines_of(line), plan.manifests[line], plan.is_writable(line))
        except (ObjectMissing, IntegrityError) as error:
            return AnomalyType("uncertain", 0.0, f"not classified: {error}")

    def classify_image(image: Image) -> AnomalyType | None:
        bank = references()
        return classify(image, bank) if isinstance(bank, ReferenceBank) else bank

    return classify_image


def _stored_samples(run: RunStore, lines: Store, manifest: Manifest) -> TrainingSamples | None:
    return read_samples(lines, manifest) or read_samples(run.lines, manifest)


def _reference_bank(run: RunStore, lines: Store, manifest: Manifest, writable: bool) -> ReferenceBank | None:
    """Build the reference bank from stored samples; without any, learn now and store them."""
    samples = _stored_samples(run, lines, manifest)
    return build_reference_bank(lines, manifest, samples) if samples else _learn(run, lines, manifest, writable)


def _learn(run: RunStore, lines: Store, manifest: Manifest, writable: bool) -> ReferenceBank | None:
    references = build_reference_bank(lines, manifest)
    if references is not None:
        try:
            write_samples(lines if writable else run.lines, manifest, references.samples)
        except StoreDenied:
            write_samples(run.lines, manifest, references.samples)
    return references


def _classify_images(plan: Plan, line: str, run: RunStore, image_ids: Sequence[str]) -> Mapping[str, AnomalyType]:
    """Return the stored answers for a line, after classifying the images that have none."""
    lines, manifest = plan.lines_of(line), plan.manifests[line]
    key = f"{run.root}/signals/{manifest.line}.json"
    known = _read_types(run.store, key, manifest)
    unknown = set(image_ids) - set(known)
    references = _reference_bank(run, lines, manifest, line not in plan.elsewhere) if unknown else None
    if references is None:
        return known
    samples = plan.line(line).images(unknown, splits=("test", "unlabelled"))
    fresh = {sample.image_id: classify(sample.pixels_inside, references) for sample in samples}
    rounded = {
        image_id: replace(answer, confidence=round(answer.confidence, _DIGITS)) for image_id, answer in fresh.items()
    }
    types = dict(sorted({**known, **rounded}.items()))
    run.store.put(key, encode(StoredTypes(VERSION, manifest.images_digest, types)))
    return types


def _read_types(store: Store, key: str, manifest: Manifest) -> Mapping[str, AnomalyType]:
    """Return the stored answers by image_id; empty if none match the line's images and this version of the rules."""
    try:
        stored = _ADAPTER.validate_json(store.get(key))
    except (ObjectMissing, ValidationError):
        return {}
    return stored.signals if (stored.version, stored.images_digest) == (VERSION, manifest.images_digest) else {}
