"""A run in the store: which object means what, and how a commit is made.

runs/<name>/experiment.yaml                     the latest experiment, beside experiment-<digest>.yaml of each
runs/<name>/units/<unit_id>/<blob>-<sha256>     content-addressed bytes: model files, score shards, sketches
runs/<name>/units/<unit_id>/train.json          ┐ commits: written last, put-if-absent, naming their blobs
runs/<name>/units/<unit_id>/score-<shard>.json  │ with size and SHA-256. A blob without a commit does not exist.
runs/<name>/units/<unit_id>/quality.json        │ all shards merged
runs/<name>/units/<unit_id>/measure.json        │
runs/<name>/units/<unit_id>/result.json         ┘ the unit is done
runs/<name>/units/<unit_id>/failure.json        the latest failed attempt; means nothing beside result.json
runs/<name>/ledger/                             copies of finished units' commits, in few objects: see `ledger`
runs/<name>/lines/<line>/quality.json           the line's data inspection, where it cannot be kept beside the line
runs/<name>/lines/<line>/signals.npz            what its signals have learnt from, where that cannot be kept beside it
runs/<name>/lines/<line>/failure.json           why the latest one failed; means nothing where there is an inspection
runs/<name>/ahead/                              decoded shards for nodes with a GPU; gone when the run has ended
runs/<name>/signals/<line>.json                 what its flagged images look like
runs/<name>/forecast.json                       what was predicted for the latest command, and what it took
runs/<name>/report/                             board, flags, index.html
runs/<name>/predictions/<prediction>/           new images that a unit of the run has scored: see `worker.predict`
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from raybench.errors import IntegrityError, ObjectMissing
from raybench.runs.records import Blob, Failure
from raybench.store import Store

PREDICTIONS = "/predictions/"
PACKAGES = ("raybench", "anomalib", "torch", "timm", "ray", "pyarrow", "numpy")
R = TypeVar("R")


def score_name(image_shard: str) -> str:
    """The commit's name of a scored shard: `score-test-00000` for `<line>/test-00000.parquet`."""
    return f"score-{PurePosixPath(image_shard).stem}"


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that make the numbers, read from metadata: nothing is imported."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


class RecordCache(Protocol):
    def get(self, key: str) -> bytes | None: ...


class Run:
    """One run's objects. Picklable; holds no state besides the store and the run's name. remembered: committed bytes
    by key, that need not be fetched; they do not travel with it."""

    def __init__(self, store: Store, name: str, remembered: RecordCache | None = None) -> None:
        self.store = store
        self.remembered = remembered
        self.name = name
        self.root = f"runs/{name}"

    def __reduce__(self) -> tuple[type[Run], tuple[Store, str]]:
        return Run, (self.store, self.name)

    def prediction(self, name: str) -> Run:
        """Commits of a prediction are made as those of a run, below it."""
        return Run(self.store, f"{self.name}{PREDICTIONS}{name}")

    def key(self, unit_id: str, name: str) -> str:
        return f"{self.root}/units/{unit_id}/{name}"

    def put_blob(self, unit_id: str, name: str, data: bytes) -> Blob:
        """Store `data` under its digest, so that two writers of different bytes never overwrite each other."""
        sha256 = hashlib.sha256(data).hexdigest()
        blob = Blob(self.key(unit_id, f"{name}-{sha256[:16]}"), len(data), sha256)
        self.store.put(blob.key, data)
        return blob

    def get_blob(self, blob: Blob) -> bytes:
        """The bytes `blob` vouches for. Raises IntegrityError when they are not the ones that were committed."""
        data = self._fetch(blob.key)
        if len(data) != blob.size or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise IntegrityError(f"{self.store.uri(blob.key)} is damaged: its bytes are not the committed ones")
        return data

    def commit(self, unit_id: str, name: str, record: R) -> R:
        """Publish `record` unless one stands already; returns the one that stands."""
        key = self.key(unit_id, f"{name}.json")
        if self.store.put_if_absent(key, encode(record)):
            return record
        return decode(type(record), self.store.get(key), key)

    def read(self, unit_id: str, name: str, kind: type[R]) -> R | None:
        """The committed record, or None."""
        key = self.key(unit_id, f"{name}.json")
        try:
            return decode(kind, self._fetch(key), key)
        except ObjectMissing:
            return None

    def _fetch(self, key: str) -> bytes:
        known = self.remembered.get(key) if self.remembered else None
        return self.store.get(key) if known is None else known

    def commits(self, unit_id: str = "") -> dict[str, set[str]]:
        """unit_id → names of its commits and of its failure, from one listing: of one unit, or of all."""
        found: dict[str, set[str]] = {}
        prefix = f"{self.root}/units/"
        for item in self.store.list(f"{prefix}{unit_id}/" if unit_id else prefix):
            unit_id, _, name = item.key.removeprefix(prefix).partition("/")
            if name.endswith(".json"):
                found.setdefault(unit_id, set()).add(name.removesuffix(".json"))
        return found

    def record_failure(self, unit_id: str, failure: Failure) -> None:
        self.store.put(self.key(unit_id, "failure.json"), encode(failure))

    @property
    def lines(self) -> Store:
        """What this run alone knows of its lines' data, in the order of a store of lines."""
        return self.store.sub(f"{self.root}/lines")

    @property
    def ahead(self) -> Store:
        """Of shards that nodes without a GPU have decoded for those with one: see `data.cache`."""
        return self.store.sub(f"{self.root}/ahead")

    def put_report(self, name: str, data: bytes) -> None:
        self.store.put(f"{self.root}/report/{name}", data)

    def get_report(self, name: str) -> bytes:
        """Raises ObjectMissing."""
        return self.store.get(f"{self.root}/report/{name}")

    def freeze(self, text: str, digest: str) -> None:
        """Keep the experiment as it runs now, with its digest and the versions, beside every earlier form of it."""
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        data = f"# digest {digest}\n# {installed}\n{text}".encode()
        self.store.put_if_absent(f"{self.root}/experiment-{digest[:12]}.yaml", data)
        self.store.put(f"{self.root}/experiment.yaml", data)


def encode(record: Any) -> bytes:
    """JSON of a dataclass, UTF-8, one trailing newline."""
    return TypeAdapter(type(record)).dump_json(record, indent=1) + b"\n"


def decode(kind: type[R], data: bytes, where: str) -> R:
    """The dataclass in `data`. Raises IntegrityError naming `where`."""
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{where} is not a {kind.__name__}: {error}") from error
