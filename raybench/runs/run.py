"""A run in the store: the layout of its objects, and how commits are made.

units/<id>/<blobs>-<sha256>                     content-addressed bytes: model files, score shards, sketches
units/<fit_id>/fit.json                         a detector for several lines, whose `train.json` name its files
units/<detector_id>/train.json                  ┐ commits: written last, put-if-absent, naming their blobs
units/<detector_id>/measure.json                │ with size and SHA-256. A blob without a commit does not exist.
units/<detector_id>/scored-<images>.json        │ scores and heat maps of a shard, whatever its labels
units/<detector_id>/robustness-<images>.json    │ scores of perturbed images, see `worker.robustness`
units/<unit_id>/score-<shard>.json              │ the shard judged by its labels and masks
units/<unit_id>/quality.json                    │ all shards merged
units/<unit_id>/finished.json                   ┘ the unit is done: its records in one
at-work/                                        the processes at work on the store's runs, see `at_work`
runs/<name>/experiment.yaml                     the latest experiment, beside experiment-<digest>.yaml of each
runs/<name>/plans/<digest>.json                 the units of a plan that the run has had, see `plans`
runs/<name>/failures/<unit_id>.json             the latest failed attempt; means nothing beside finished.json
runs/<name>/ledger/                             copies of finished units' commits in few objects, see `ledger`
runs/<name>/lines/<line>/quality.json           the line's data inspection, where it cannot be kept beside the line
runs/<name>/lines/<line>/signals.npz            samples of its anomaly types, where they cannot be kept beside it
runs/<name>/lines/<line>/failure.json           why the latest one failed; means nothing where there is an inspection
runs/<name>/ahead/                              decoded shards for nodes with a GPU; deleted when the run ends
runs/<name>/signals/<line>.json                 types of anomaly of its flagged images
runs/<name>/robustness/<line>.json              copies of its scores of perturbed images, for the report
runs/<name>/forecast.json                       estimate for the latest command, and what it took
runs/<name>/report/                             board, flags, index.html
runs/<name>/watch/                              what each prediction found on a line, see `history`
runs/<name>/predictions/<prediction>/           new images that a unit of the run has scored, see `worker.predict`

What is below `units/` never changes, and two units of the same ID give the same numbers, so all runs of a store share
it: what one has trained, scored or judged, no other does again. What depends on a run lies below `runs/<name>/`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.manifest import ShardInfo
from raybench.errors import IntegrityError, ObjectMissing
from raybench.runs.records import Blob, Failure, UnitResult
from raybench.store import Store
from raybench.store.backend import ObjectInfo

PREDICTIONS = "/predictions/"
LISTERS = 16
FEW_FOLDERS = 256  # that are listed one by one; of more, all folders are, unless most objects are of other runs
KEYS_PER_FOLDER = 12  # about as many as a run of its own has: 24 objects of a unit, in two folders
PACKAGES = ("raybench", "anomalib", "torch", "timm", "ray", "pyarrow", "numpy")
R = TypeVar("R")


def score_name(image_shard: str) -> str:
    """Return the name of a scored shard's commit: `score-test-00000` for `<line>/test-00000.parquet`."""
    return f"score-{PurePosixPath(image_shard).stem}"


def scored_name(shard: ShardInfo) -> str:
    """Return the name of the commit of a shard's scores and heat maps, below the detector's ID."""
    return f"scored-{shard.pixels[:16]}"


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the installed versions of the packages that affect results, from metadata and without importing them."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


class RecordCache(Protocol):
    """A cache of committed bytes."""

    def get(self, key: str) -> bytes | None:
        """Return the bytes at `key`, None if they are not cached."""
        ...


class RunStore:
    """The objects of one run.

    Args:
        store: Store that holds the run.
        name: Name of the run.
        cache: Committed bytes that need not be fetched; not pickled with the run.
    """

    def __init__(self, store: Store, name: str, cache: RecordCache | None = None) -> None:
        self.store = store
        self.cache = cache
        self.name = name
        self.root = f"runs/{name}"
        # The images of a prediction are its own, so no other run can use its units.
        self.units_root = f"{self.root}/units" if PREDICTIONS in name else "units"

    @classmethod
    def of(cls, plan: Plan) -> RunStore:
        """Return the run of a plan: it lies in the experiment's store, under the experiment's name."""
        return cls(plan.store, plan.experiment.name)

    def __reduce__(self) -> tuple[type[RunStore], tuple[Store, str]]:
        return RunStore, (self.store, self.name)

    def prediction(self, name: str) -> RunStore:
        """Return a prediction of this run, itself a run whose objects lie below this one's."""
        return RunStore(self.store, f"{self.name}{PREDICTIONS}{name}")

    def key(self, unit_id: str, name: str) -> str:
        """Return the key of a unit's object."""
        return f"{self.units_root}/{unit_id}/{name}"

    def put_blob(self, unit_id: str, name: str, data: bytes) -> Blob:
        """Store `data` under its digest, so that writers of different bytes never overwrite each other."""
        sha256 = hashlib.sha256(data).hexdigest()
        blob = Blob(self.key(unit_id, f"{name}-{sha256[:16]}"), len(data), sha256)
        self.store.put(blob.key, data, kind=name.partition("/")[0])
        return blob

    def put_blobs(self, unit_id: str, name: str, parts: Mapping[str, bytes]) -> dict[str, Blob]:
        """Store several blobs in one object, because a store's costs and its listings grow with its objects.

        Returns:
            The blobs by the names of their parts.
        """
        whole = self.put_blob(unit_id, name, b"".join(parts.values()))
        offsets = itertools.accumulate(map(len, parts.values()), initial=0)
        return {
            part: Blob(whole.key, len(data), hashlib.sha256(data).hexdigest(), offset)
            for (part, data), offset in zip(parts.items(), offsets, strict=False)
        }

    def get_blob(self, blob: Blob) -> bytes:
        """Return the bytes of a blob.

        Raises:
            IntegrityError: The bytes are not the committed ones.
        """
        whole = blob.offset is None
        data = self._fetch(blob.key) if whole else self.store.get_range(blob.key, blob.offset or 0, blob.size)
        return self._checked(blob, data)

    def get_blobs(self, *blobs: Blob) -> list[bytes]:
        """Return the bytes of blobs that `put_blobs` has put side by side into one object, with one request.

        Raises:
            IntegrityError: Some bytes are not the committed ones.
        """
        starts = [blob.offset or 0 for blob in blobs]
        first, end = min(starts), max(start + blob.size for start, blob in zip(starts, blobs, strict=True))
        data = self.store.get_range(blobs[0].key, first, end - first)
        parts = (data[start - first :][: blob.size] for start, blob in zip(starts, blobs, strict=True))
        return [self._checked(blob, part) for blob, part in zip(blobs, parts, strict=True)]

    def _checked(self, blob: Blob, data: bytes) -> bytes:
        if len(data) != blob.size or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise IntegrityError(f"{self.store.uri(blob.key)} is damaged: its bytes are not the committed ones")
        return data

    def commit(self, unit_id: str, name: str, record: R) -> R:
        """Commit `record` unless the unit already has a record of that name; return the committed one."""
        key = self.key(unit_id, f"{name}.json")
        if self.store.put_if_absent(key, encode(record)):
            return record
        return decode(type(record), self.store.get(key), key)

    def read(self, unit_id: str, name: str, kind: type[R]) -> R | None:
        """Return the committed record, None if there is none.

        Raises:
            IntegrityError: The object is not a record of that type.
        """
        key = self.key(unit_id, f"{name}.json")
        try:
            return decode(kind, self._fetch(key), key)
        except ObjectMissing:
            return None

    def result(self, unit: Unit) -> UnitResult | None:
        """Return the result of a unit, None if it is not finished. Its model has the label that the plan gives it now.

        Raises:
            IntegrityError: The object is not a result.
        """
        found = self.read(unit.unit_id, "finished", UnitResult)
        return found and replace(found, model=unit.model)

    def _fetch(self, key: str) -> bytes:
        cached = self.cache.get(key) if self.cache else None
        return self.store.get(key) if cached is None else cached

    def commits(self, folders: Collection[str]) -> dict[str, set[str]]:
        """List the names of the commits of units and detectors, by folder. A folder without any is left out."""
        listed, most = list[ObjectInfo](), KEYS_PER_FOLDER * len(folders)
        if len(folders) > FEW_FOLDERS:
            listed = list(itertools.islice(self.store.list(f"{self.units_root}/"), most + 1))
        if len(folders) <= FEW_FOLDERS or len(listed) > most:  # most objects are of other runs
            with ThreadPoolExecutor(LISTERS) as pool:
                found = pool.map(lambda folder: list(self.store.list(self.key(folder, ""))), folders)
                listed = [item for items in found for item in items]
        commits: dict[str, set[str]] = {}
        wanted, start = set(folders), len(self.units_root) + 1
        for item in listed:
            folder, _, name = item.key[start:].partition("/")
            if folder in wanted and name.endswith(".json"):
                commits.setdefault(folder, set()).add(name.removesuffix(".json"))
        return commits

    def record_failure(self, unit_id: str, failure: Failure) -> None:
        """Store a unit's latest failed attempt."""
        self.store.put(self._failure_key(unit_id), encode(failure))

    def failure(self, unit_id: str) -> Failure | None:
        """Return a unit's latest failed attempt, None if there is none.

        Raises:
            IntegrityError: The object is not a failure.
        """
        key = self._failure_key(unit_id)
        try:
            return decode(Failure, self.store.get(key), key)
        except ObjectMissing:
            return None

    def failures(self) -> set[str]:
        """List the units that have failed. Some may have been finished since."""
        return {PurePosixPath(item.key).stem for item in self.store.list(f"{self.root}/failures/")}

    def _failure_key(self, unit_id: str) -> str:
        return f"{self.root}/failures/{unit_id}.json"

    @property
    def lines(self) -> Store:
        """Data about lines that is stored with this run, laid out like a store of lines."""
        return self.store.sub(f"{self.root}/lines")

    @property
    def ahead(self) -> Store:
        """Shards that nodes without a GPU have decoded for nodes with one, see `data.cache`."""
        return self.store.sub(f"{self.root}/ahead")

    def put_report(self, name: str, data: bytes) -> None:
        """Store a file of the report."""
        self.store.put(f"{self.root}/report/{name}", data)

    def get_report(self, name: str) -> bytes:
        """Return a file of the report.

        Raises:
            ObjectMissing: There is no such file.
        """
        return self.store.get(f"{self.root}/report/{name}")

    def freeze(self, text: str, digest: str) -> None:
        """Store the experiment as it runs now, with its digest and the versions, beside all its earlier versions."""
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        data = f"# digest {digest}\n# {installed}\n{text}".encode()
        self.store.put_if_absent(f"{self.root}/experiment-{digest[:12]}.yaml", data)
        self.store.put(f"{self.root}/experiment.yaml", data)


def encode(record: Any) -> bytes:
    """Return a dataclass as JSON, UTF-8 with a trailing newline."""
    return _adapter(type(record)).dump_json(record, indent=1) + b"\n"  # type: ignore[arg-type]


def decode(kind: type[R], data: bytes, where: str) -> R:
    """Return the dataclass in JSON `data`.

    Raises:
        IntegrityError: `data` is not a `kind`; the message names `where`.
    """
    try:
        record: R = _adapter(kind).validate_json(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise IntegrityError(f"{where} is not a {kind.__name__}: {error}") from error
    return record


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Return what reads and writes a type; to make one takes tens of milliseconds."""
    return TypeAdapter(kind)
