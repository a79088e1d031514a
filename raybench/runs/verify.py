"""Read again everything that a run or a packed line has in the store, and say what is not as it was written.

Memory does not grow with what is read: objects are hashed in pieces, rows are read one row group at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from raybench.config.experiment import read_experiment, split_line
from raybench.data.catalog import packed_lines
from raybench.data.manifest import ShardInfo, manifest_key, read_manifest
from raybench.data.shards import read_rows
from raybench.errors import InputError, IntegrityError, LineError, ObjectMissing
from raybench.runs.records import Blob, Failure, MeasureRecord, QualityRecord, ScoreRecord, TrainRecord, UnitResult
from raybench.runs.run import PREDICTIONS, Run
from raybench.store import Store, open_store

PIECE = 8 * 2**20
READERS = 8  # pieces in memory at once
_KINDS: Mapping[str, type[Any]] = {
    "train": TrainRecord,
    "quality": QualityRecord,
    "measure": MeasureRecord,
    "result": UnitResult,
    "failure": Failure,
}
_NEEDED = ("train", "quality", "measure")  # beside a result


@dataclass(frozen=True)
class Problem:
    """uri: of the object. what: a half-sentence."""

    uri: str
    what: str


@dataclass
class ObjectCount:
    """What was read of one kind of object."""

    objects: int = 0
    size: int = 0
    problems: int = 0


@dataclass
class Verified:
    """tallies: by kind of object, in the order in which they were first met."""

    tallies: dict[str, ObjectCount] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, size: int, uri: str, problems: list[str]) -> None:
        tally = self.tallies.setdefault(kind, ObjectCount())
        tally.objects += 1
        tally.size += size
        tally.problems += len(problems)
        self.problems += [Problem(uri, what) for what in problems]


def verify(name: str) -> Verified:
    """name: an experiment file, `<store>/runs/<run>` (its predictions included), `<store>/lines/<line>` or the URI of a
    line elsewhere.

    Raises ExperimentError, InputError when nothing is stored there, and the store's own errors.
    """
    if not Path(name).is_file():
        for part, check in (("/lines/", _line_at), ("/runs/", _run_at)):
            root, found, last = name.rstrip("/").rpartition(part)
            if found:
                return check(open_store(root), last)
        folder, line = split_line(name.rstrip("/"))
        if "://" in folder and manifest_key(line) in {item.key for item in open_store(folder).list(f"{line}/")}:
            return verify_line(open_store(folder), line)
    experiment = read_experiment(Path(name))
    return _run_at(open_store(experiment.store, **experiment.storage.model_dump()), experiment.name)


def _line_at(store: Store, line: str) -> Verified:
    return verify_line(store.sub("lines"), line)


def _run_at(store: Store, name: str) -> Verified:
    return verify_run(Run(store, name.partition(PREDICTIONS)[0]))


def verify_line(lines: Store, line: str) -> Verified:
    """Shards against the manifest's digests, and every image of theirs against its own. Raises InputError."""
    found = Verified()
    _check_line(lines, line, found)
    if not found.tallies:
        raise InputError(f"no line {line!r} is packed in {lines.uri()}")
    return found


def _check_line(lines: Store, line: str, found: Verified) -> None:
    """Nothing is added where the line has no manifest: it is not packed, or not yet."""
    sizes = {item.key: item.size for item in lines.list(f"{line}/")}
    key = manifest_key(line)
    if key not in sizes:
        return
    try:
        manifest = read_manifest(lines, line)
    except (IntegrityError, LineError) as error:
        found.add("manifest", sizes[key], lines.uri(key), [str(error)])
        return
    found.add("manifest", sizes[key], lines.uri(key), [])
    for shard in manifest.shards:
        blob = Blob(shard.key, shard.size, shard.sha256)
        problems = _blob_problems(lines, blob, sizes)
        if shard.key in sizes:
            problems += _row_problems(lines, shard)
        found.add("shard", shard.size, lines.uri(shard.key), problems)


def _row_problems(lines: Store, shard: ShardInfo) -> list[str]:
    """Page checksums, the number of rows, and each image's digest."""
    try:
        return [
            f"the image {row.image_id} is not the one that was packed"
            for row in read_rows(lines, shard)
            if hashlib.sha256(row.image).hexdigest() != row.sha256
        ]
    except (IntegrityError, ObjectMissing) as error:
        return [str(error)]


def verify_run(run: Run) -> Verified:
    """Every commit, every blob against the digest in its commit, and whether finished units are whole; and the same of
    the run's predictions, with their images.

    Reports and tables carry no digest and are not looked at. Raises InputError when the run has no commit.
    """
    sizes = {item.key: item.size for item in run.store.list(f"{run.root}/")}
    found = Verified()
    _check_units(run, sizes, found)
    if not found.tallies:
        raise InputError(f"{run.store.uri(run.root)}: nothing is committed there")
    start = f"{run.root}{PREDICTIONS}"
    for name in sorted({key.removeprefix(start).partition("/")[0] for key in sizes if key.startswith(start)}):
        prediction = run.prediction(name)
        images = run.store.sub(f"{prediction.root}/images")
        for line in packed_lines(images):
            _check_line(images, line, found)
        _check_units(prediction, sizes, found)
    return found


def _check_units(run: Run, sizes: Mapping[str, int], found: Verified) -> None:
    """sizes: of all objects that the units' commits may name."""
    prefix = f"{run.root}/units/"
    units: dict[str, set[str]] = {}
    for key in sizes:
        if not key.startswith(prefix):
            continue
        unit_id, _, name = key.removeprefix(prefix).partition("/")
        if name.endswith(".json") and "/" not in name:
            units.setdefault(unit_id, set()).add(name.removesuffix(".json"))
    with ThreadPoolExecutor(READERS) as pool:
        for unit_id, names in units.items():
            records = _records(run, unit_id, names, sizes, found)
            blobs = [(kind, blob) for record in records.values() for kind, blob in _blobs(record)]
            checks = pool.map(_against(run.store, sizes), [blob for _, blob in blobs])
            for (kind, blob), problems in zip(blobs, checks, strict=True):
                found.add(kind, blob.size, run.store.uri(blob.key), problems)
            for problem in _unit_problems(records, names):
                found.problems.append(Problem(run.store.uri(f"{prefix}{unit_id}"), problem))


def _against(store: Store, sizes: Mapping[str, int]) -> Callable[[Blob], list[str]]:
    return lambda blob: _blob_problems(store, blob, sizes)


def _records(
    run: Run, unit_id: str, names: set[str], sizes: Mapping[str, int], found: Verified
) -> dict[str, Any]:  # fmt: skip
    """The unit's commits by name; those that cannot be read are problems."""
    records = {}
    for name in sorted(names):
        kind = ScoreRecord if name.startswith("score-") else _KINDS.get(name)
        key = run.key(unit_id, f"{name}.json")
        problems = [] if kind else ["is not a commit that this raybench knows"]
        try:
            records[name] = run.read(unit_id, name, kind) if kind else None
        except IntegrityError as error:
            problems = [str(error)]
        found.add("commit", sizes[key], run.store.uri(key), problems)
    return {name: record for name, record in records.items() if record is not None}


def _blobs(record: Any) -> Iterator[tuple[str, Blob]]:
    """The blobs that a commit vouches for, with the kind of each."""
    for part in fields(record):
        value = getattr(record, part.name)
        if isinstance(value, Blob):
            yield ("scores shard" if part.name == "shard" else "partial metrics"), value
        elif isinstance(value, Mapping):
            yield from (("model file", blob) for blob in value.values() if isinstance(blob, Blob))


def _blob_problems(store: Store, blob: Blob, sizes: Mapping[str, int]) -> list[str]:
    size = sizes.get(blob.key)
    if size is None:
        return ["is missing"]
    if size != blob.size:
        return [f"has {size} bytes, {blob.size} were written"]
    sha256 = hashlib.sha256()
    for start in range(0, size, PIECE):
        sha256.update(store.get_range(blob.key, start, min(PIECE, size - start)))
    return [] if sha256.hexdigest() == blob.sha256 else ["its bytes are not those that were written"]


def _unit_problems(records: Mapping[str, Any], names: set[str]) -> list[str]:
    """What a finished unit must have: the commits its result rests on, and every image scored once."""
    if "result" not in names:
        return []
    missing = [f"its result is committed, {name} is not" for name in _NEEDED if name not in names]
    quality = records.get("quality")
    scores = [record for record in records.values() if isinstance(record, ScoreRecord)]
    rows = sum(record.rows for record in scores)
    if isinstance(quality, QualityRecord) and rows != quality.scored:
        missing.append(f"its scored shards have {rows} images, its quality is of {quality.scored}")
    return missing
