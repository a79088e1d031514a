"""A shard's images at a network's size, decoded once per node and shared by every model and task on it.

They are kept as one raw file per shard and size in a cache folder, not in Ray's object store: a decoded shard is far
larger than its encoded one, must outlive the task that made it, and is read by few rows at a time. Rows are read with
`pread`, so that the memory of a worker does not grow with what it has looked at.

Nodes without a GPU decode ahead and put what they have into the store, for nodes whose GPU would wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from raybench.data.decode import decode_image
from raybench.data.geometry import InputFit, to_network
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, ObjectMissing, RejectedImage
from raybench.store import Store

CACHE_VERSION = 2  # 2: images are turned as EXIF says
LIMIT_MB = 8192
_IN_USE_S = 600.0  # a file touched this recently is not evicted


@dataclass(frozen=True)
class Index:
    """What stands beside the pixels. Order is the shard's."""

    image_ids: tuple[str, ...]
    labels: tuple[str, ...]
    heights: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class CachedShard:
    """All images of a shard at (height, width). heights, widths of `index` are the source's."""

    index: Index
    path: Path
    height: int
    width: int

    @property
    def image_ids(self) -> tuple[str, ...]:
        return self.index.image_ids

    def __len__(self) -> int:
        return len(self.index.image_ids)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """(B, H, W, 3) uint8 RGB, writable, in the order of `indices`."""
        size = self.height * self.width * 3
        images = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for at, index in enumerate(indices):
                found = os.preadv(file.fileno(), [images[at].reshape(-1).data], index * size)
                if found != size:
                    raise OSError(f"{self.path}: image {index} is cut off")
        return images


@dataclass(frozen=True)
class ImageSubset:
    """Some images of several shards, in the order of `places` (shard, row). A `detectors.protocol.TrainImages`."""

    shards: Sequence[CachedShard]
    places: Sequence[tuple[int, int]]

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(self.shards[shard].image_ids[row] for shard, row in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def source_size(self, index: int) -> tuple[int, int]:
        """Height and width of the source image, pixels."""
        shard, row = self.places[index]
        about = self.shards[shard].index
        return about.heights[row], about.widths[row]

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """(B, H, W, 3) uint8 RGB, writable, in the order of `indices`."""
        images = [self.shards[shard].batch([row])[0] for shard, row in (self.places[index] for index in indices)]
        return np.stack(images)


def open_cached(
    lines: Store,
    manifest: Manifest,
    shard: ShardInfo,
    fit: InputFit,
    cache_dir: Path,
    threads: int = 1,
    ahead: Store | None = None,
) -> CachedShard:
    """The shard at the network's size, decoded now, by so many threads, or earlier on this node. ahead: where it may
    lie, decoded by another node.

    Raises IntegrityError when the shard is damaged, RejectedImage when an image of it cannot be decoded.
    """
    identity = [CACHE_VERSION, shard.sha256, manifest.white_level, asdict(fit)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    pixels, beside = cache_dir / f"{name}.u8", cache_dir / f"{name}.json"
    if not (pixels.exists() and beside.exists()):
        _evict(cache_dir, LIMIT_MB * 2**20)
        work = _Work(shard, fit, threads)
        _keep((pixels, beside), lambda file: _fetched(ahead, name, file) or _decode(lines, manifest, work, file))
    with contextlib.suppress(FileNotFoundError):
        os.utime(pixels)
    return CachedShard(_index(json.loads(beside.read_text())), pixels, fit.height, fit.width)


def put_prefetched(fitted: CachedShard, ahead: Store) -> int:
    """Put the shard where other nodes look for it. Returns its size in bytes."""
    pixels, name = fitted.path.read_bytes(), fitted.path.stem
    about = asdict(fitted.index) | {"sha256": hashlib.sha256(pixels).hexdigest()}
    ahead.put(f"{name}.u8", pixels)
    ahead.put(f"{name}.json", json.dumps(about).encode())
    return len(pixels)


def remove_prefetched(ahead: Store, name: str) -> None:
    """Remove a shard that `put_prefetched` put there; whoever reads it at this moment decodes it."""
    for suffix in ("json", "u8"):
        ahead.delete(f"{name}.{suffix}")


def _fetched(ahead: Store | None, name: str, file: BinaryIO) -> Index | None:
    """What `put_prefetched` put there, into `file`; None where there is nothing (any more)."""
    if ahead is None:
        return None
    try:
        about = json.loads(ahead.get(f"{name}.json"))
        pixels = ahead.get(f"{name}.u8")
    except ObjectMissing:
        return None
    if hashlib.sha256(pixels).hexdigest() != about["sha256"]:
        raise IntegrityError(f"{ahead.uri(f'{name}.u8')} is damaged: its bytes are not the ones that were put there")
    file.write(pixels)
    return _index(about)


def _index(about: Mapping[str, Any]) -> Index:
    return Index(*(tuple(about[name]) for name in ("image_ids", "labels", "heights", "widths")))


@dataclass(frozen=True)
class _Work:
    shard: ShardInfo
    fit: InputFit
    threads: int


def _keep(target: tuple[Path, Path], write: Callable[[BinaryIO], Index]) -> None:
    """Pixels and their index, under names of their own until both are whole: of two that race, both are right."""
    written = [path.with_name(f"{path.name}.{uuid.uuid4().hex}") for path in target]
    try:
        with written[0].open("xb") as file:
            index = write(file)
        written[1].write_text(json.dumps(asdict(index)))
        for path, name in zip(written, target, strict=True):
            path.replace(name)
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def _decode(lines: Store, manifest: Manifest, work: _Work, file: BinaryIO) -> Index:
    rows = []
    for row, image in _fitted(read_rows(lines, work.shard), manifest, work):
        file.write(image.data)
        rows.append((row.image_id, row.label, row.height, row.width))
    return Index(*zip(*rows, strict=True)) if rows else Index((), (), (), ())


def _fitted(
    rows: Iterator[ImageRow], manifest: Manifest, work: _Work
) -> Iterator[tuple[ImageRow, npt.NDArray[np.uint8]]]:
    """Rows with their images at the network's size, in order; two for each thread are under way at once."""

    def fitted(row: ImageRow) -> tuple[ImageRow, npt.NDArray[np.uint8]]:
        return row, to_network(_decoded(row, manifest), work.fit)

    if work.threads == 1:
        yield from map(fitted, rows)
        return
    waiting: deque[Future[tuple[ImageRow, npt.NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(work.threads) as pool:
        for row in rows:
            waiting.append(pool.submit(fitted, row))
            if len(waiting) >= 2 * work.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decoded(row: ImageRow, manifest: Manifest) -> npt.NDArray[np.uint8]:
    try:
        image = decode_image(row.image, manifest.white_level)
    except RejectedImage as error:
        raise RejectedImage(error.reason, f"{row.image_id} of {manifest.line}: {error.detail}") from error
    if image.shape[:2] != (row.height, row.width):
        found = f"{image.shape[0]}x{image.shape[1]}"
        raise IntegrityError(
            f"{row.image_id} of {manifest.line}: {found} pixels, its row says {row.height}x{row.width}"
        )
    return image


def _evict(cache_dir: Path, limit: int) -> None:
    """Remove the longest unused files until the cache is below its limit; never one that may be in use."""
    found = []
    for path in cache_dir.glob("*.u8"):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= limit or time.time() - used < _IN_USE_S:
            return
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        total -= size
