"""Verify a run or a packed line: read all its objects and report those that differ from what was written.

Memory does not grow with the amount of data: objects are hashed in pieces, rows are read one row group at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from raybench.config.experiment import read_experiment, split_line
from raybench.data.catalog import packed_lines
from raybench.data.manifest import ShardInfo, manifest_key, read_manifest
from raybench.data.shards import read_rows
from raybench.errors import InputError, IntegrityError, LineError, ObjectMissing
from raybench.runs.history import FOLDER, Batch
from raybench.runs.ledger import Ledger
from raybench.runs.plans import uses_of
from raybench.runs.records import (
    Blob,
    FitRecord,
    MeasureRecord,
    PerturbedScores,
    QualityRecord,
    ScoredShard,
    ScoreRecord,
    TrainRecord,
    UnitResult,
)
from raybench.runs.run import PREDICTIONS, RunStore, decode
from raybench.store import Store, open_store

PIECE = 8 * 2**20
READERS = 8  # most pieces in memory at a time
_KINDS: Mapping[str, type[Any]] = {
    "fit": FitRecord,
    "train": TrainRecord,
    "measure": MeasureRecord,
    "scored": ScoredShard,
    "score": ScoreRecord,
    "robustness": PerturbedScores,
    "quality": QualityRecord,
    "finished": UnitResult,
}
"""Types of commits by the first word of their names."""
_SCORES = ("scores", "shard")  # fields of the commits of a shard that name its scores


@dataclass(frozen=True)
class Problem:
    """A damaged or missing object."""

    uri: str
    """URI of the object."""
    what: str
    """Description, a clause without its subject."""


@dataclass
class ObjectCount:
    """Numbers of objects of one kind, of their bytes, and of problems."""

    objects: int = 0
    size: int = 0
    problems: int = 0


@dataclass
class Verified:
    """The result of a verification."""

    tallies: dict[str, ObjectCount] = field(default_factory=dict)
    """Counts by kind of object, in the order in which the kinds were first read."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, size: int, uri: str, problems: list[str]) -> None:
        """Count an object."""
        tally = self.tallies.setdefault(kind, ObjectCount())
        tally.objects += 1
        tally.size += size
        tally.problems += len(problems)
        self.problems += [Problem(uri, what) for what in problems]


def verify(name: str) -> Verified:
    """Verify a run with its predictions, or a packed line.

    Args:
        name: An experiment file, `<store>/runs/<run>`, `<store>/lines/<line>` or the URI of a line elsewhere.

    Raises:
        ExperimentError: The experiment file cannot be read.
        InputError: Nothing is stored there. The store's own errors are raised as well.
    """
    if not Path(name).is_file():
        for part, check in (("/lines/", _line_at), ("/runs/", _run_at)):
            root, separator, last = name.rstrip("/").rpartition(part)
            if separator:
                return check(open_store(root), last)
        folder, line, _ = split_line(name.rstrip("/"))
        if "://" in folder and manifest_key(line) in {item.key for item in open_store(folder).list(f"{line}/")}:
            return verify_line(open_store(folder), line)
    experiment = read_experiment(Path(name))
    return _run_at(open_store(experiment.store, **experiment.storage.model_dump()), experiment.name)


def _line_at(store: Store, line: str) -> Verified:
    return verify_line(store.sub("lines"), line)


def _run_at(store: Store, name: str) -> Verified:
    return verify_run(RunStore(store, name.partition(PREDICTIONS)[0]))


def verify_line(lines: Store, line: str) -> Verified:
    """Verify a packed line: shards against the digests in the manifest, images against their own digests.

    Raises:
        InputError: The line is not packed.
    """
    report = Verified()
    _check_line(lines, line, report)
    if not report.tallies:
        raise InputError(f"no line {line!r} is packed in {lines.uri()}")
    return report


def _check_line(lines: Store, line: str, report: Verified) -> None:
    """Verify a line; a line without a manifest is not packed and adds nothing."""
    sizes = {item.key: item.size for item in lines.list(f"{line}/")}
    key = manifest_key(line)
    if key not in sizes:
        return
    try:
        manifest = read_manifest(lines, line)
    except (IntegrityError, LineError) as error:
        report.add("manifest", sizes[key], lines.uri(key), [str(error)])
        return
    report.add("manifest", sizes[key], lines.uri(key), [])
    for shard in manifest.shards:
        blob = Blob(shard.key, shard.size, shard.sha256)
        problems = _blob_problems(lines, blob, sizes)
        if labels := shard.labels:
            table = Blob(labels.key, labels.size, labels.sha256)
            report.add("labels", labels.size, lines.uri(labels.key), _blob_problems(lines, table, sizes))
        if shard.key in sizes:
            problems += _row_problems(lines, shard)
        report.add("shard", shard.size, lines.uri(shard.key), problems)


def _row_problems(lines: Store, shard: ShardInfo) -> list[str]:
    """Check page checksums, the number of rows and each image's digest."""
    try:
        return [
            f"the image {row.image_id} is not the one that was packed"
            for row in read_rows(lines, shard)
            if hashlib.sha256(row.image).hexdigest() != row.sha256
        ]
    except (IntegrityError, ObjectMissing) as error:
        return [str(error)]


def verify_run(run: RunStore) -> Verified:
    """Verify a run: every commit, every blob against the digest in its commit, and that finished units are complete.

    Verified are the units of all plans that the run has had, its predictions and their images, and the
    history of its lines. Reports and tables have no digest and are not checked.

    Raises:
        InputError: The run has no commit.
    """
    sizes = {item.key: item.size for item in run.store.list(f"{run.root}/")}
    with ThreadPoolExecutor(READERS) as pool:
        for items in pool.map(lambda folder: list(run.store.list(run.key(folder, ""))), sorted(uses_of(run).all)):
            sizes |= {item.key: item.size for item in items}
    report = Verified()
    _check_units(run, sizes, report)
    for unit_id in sorted(Ledger.read(run).done):
        key = run.key(unit_id, "finished.json")
        if key not in sizes and not run.store.exists(key):
            report.problems.append(Problem(run.store.uri(key), "is missing; the run's ledger has a copy"))
    _check_history(run, sizes, report)
    if not report.tallies:
        raise InputError(f"{run.store.uri(run.root)}: nothing is committed there")
    start = f"{run.root}{PREDICTIONS}"
    for name in sorted({key.removeprefix(start).partition("/")[0] for key in sizes if key.startswith(start)}):
        prediction = run.prediction(name)
        images = run.store.sub(f"{prediction.root}/images")
        for line in packed_lines(images):
            _check_line(images, line, report)
        _check_units(prediction, sizes, report)
    return report


def _check_history(run: RunStore, sizes: Mapping[str, int], report: Verified) -> None:
    for key in (key for key in sizes if key.startswith(f"{run.root}/{FOLDER}/")):
        problems = []
        try:
            decode(Batch, run.store.get(key), key)
        except (IntegrityError, ObjectMissing) as error:
            problems = [str(error)]
        report.add("batch", sizes[key], run.store.uri(key), problems)


def _check_units(run: RunStore, sizes: Mapping[str, int], report: Verified) -> None:
    """Verify the units of a run. sizes: of all objects that their commits may name."""
    prefix = f"{run.units_root}/"
    units: dict[str, set[str]] = {}
    for key in sizes:
        if not key.startswith(prefix):
            continue
        unit_id, _, name = key.removeprefix(prefix).partition("/")
        if name.endswith(".json") and "/" not in name:
            units.setdefault(unit_id, set()).add(name.removesuffix(".json"))
    checked: set[tuple[str, int | None]] = set()
    with ThreadPoolExecutor(READERS) as pool:
        for unit_id, names in units.items():
            records = _records(run, unit_id, names, sizes, report)
            named = (blob for record in records.values() for blob in _blobs(record))
            blobs = [(kind, blob) for kind, blob in named if (blob.key, blob.offset) not in checked]
            checked |= {(blob.key, blob.offset) for _, blob in blobs}
            checks = pool.map(lambda blob: _blob_problems(run.store, blob, sizes), [blob for _, blob in blobs])
            for (kind, blob), problems in zip(blobs, checks, strict=True):
                report.add(kind, blob.size, run.store.uri(blob.key), problems)
            for problem in _unit_problems(run, records, units):
                report.problems.append(Problem(run.store.uri(f"{prefix}{unit_id}"), problem))


def _records(
    run: RunStore, unit_id: str, names: set[str], sizes: Mapping[str, int], report: Verified
) -> dict[str, Any]:  # fmt: skip
    """Read a unit's commits by name, and report those that cannot be read."""
    records = {}
    for name in sorted(names):
        kind = _KINDS.get(_first_word(name))
        key = run.key(unit_id, f"{name}.json")
        problems = [] if kind else ["is not a commit that this raybench knows"]
        try:
            records[name] = run.read(unit_id, name, kind) if kind else None
        except IntegrityError as error:
            problems = [str(error)]
        report.add("commit", sizes[key], run.store.uri(key), problems)
    return {name: record for name, record in records.items() if record is not None}


def _blobs(record: Any) -> Iterator[tuple[str, Blob]]:
    """Yield the blobs that a commit names, each with its kind."""
    for record_field in fields(record):
        value = getattr(record, record_field.name)
        if isinstance(value, Blob):
            yield ("scores shard" if record_field.name in _SCORES else "partial metrics"), value
        elif isinstance(value, Mapping):
            yield from (("model file", blob) for blob in value.values() if isinstance(blob, Blob))


def _blob_problems(store: Store, blob: Blob, sizes: Mapping[str, int]) -> list[str]:
    size = sizes.get(blob.key)
    if size is None:  # of a detector that the run has no plan of any more, as a prediction names it
        size = next((item.size for item in store.list(blob.key) if item.key == blob.key), None)
    if size is None:
        return ["is missing"]
    begin = blob.offset or 0
    end = begin + blob.size
    if size < end or (blob.offset is None and size > end):
        return [f"has {size} bytes, {end} were written"]
    sha256 = hashlib.sha256()
    for start in range(begin, end, PIECE):
        sha256.update(store.get_range(blob.key, start, min(PIECE, end - start)))
    return [] if sha256.hexdigest() == blob.sha256 else ["its bytes are not those that were written"]


def _unit_problems(run: RunStore, records: Mapping[str, Any], units: Mapping[str, set[str]]) -> list[str]:
    """Check that a finished unit has the commits its result is based on, and that every image was scored once.

    Args:
        run: The run.
        records: The unit's commits by name.
        units: Names of all commits of the run, by unit and detector.
    """
    result = records.get("finished")
    if not isinstance(result, UnitResult):
        return []
    detector_id = result.trained.detector_id
    names = units.get(detector_id, set())
    problems = ["its result is committed, train of its detector is not"] * ("train" not in names)
    if not _has_times(run, detector_id, names, result.measured):
        problems.append("its result is committed, the times of its detector that it has are not")
    problems += ["its result is committed, quality is not"] * ("quality" not in records)
    quality = records.get("quality")
    scores = [record for record in records.values() if isinstance(record, ScoreRecord)]
    rows = sum(record.rows for record in scores)
    if isinstance(quality, QualityRecord) and rows != quality.scored:
        problems.append(f"its scored shards have {rows} images, its quality is of {quality.scored}")
    return problems


def _has_times(run: RunStore, detector_id: str, names: set[str], measured: MeasureRecord) -> bool:
    """Whether a detector's commits, these, include what was measured."""
    times = [name for name in names if _first_word(name) == "measure"]
    try:
        return any(run.read(detector_id, name, MeasureRecord) == measured for name in times)
    except IntegrityError:  # which is a problem of that commit
        return True


def _first_word(name: str) -> str:
    return name.partition("-")[0]
