"""Cache the images of a shard at a network's size, decoded once per node for every model and task on it.

The cache is one raw file per shard and size in a folder, not in Ray's object store: a decoded shard is far larger than
the encoded one, must outlive the task that decoded it, and is read a few rows at a time. Rows are read with `pread`, so
the memory of a worker does not grow with the rows that it has read.

Nodes without a GPU decode shards in advance and put them into the store, so that the GPUs of other nodes do not wait.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from raybench.data.geometry import InputFit, to_network
from raybench.data.line import decode_inside
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.roi import roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, ObjectMissing
from raybench.metrics.roi import Roi
from raybench.store import Store

# Since version 3, the index has groups; since version 4, it has no labels, which may change; since version 5, it has
# regions of interest.
CACHE_VERSION = 5
LIMIT_MB = 8192
_IN_USE_S = 600.0  # files opened this recently are not evicted


IndexRow = tuple[str, int, int, str, Roi | None]
"""ID, height, width, group (or ID) and region of interest of an image."""


@dataclass(frozen=True)
class Index:
    """IDs, sizes, groups and regions of interest of a shard's images, in the order of the shard."""

    image_ids: tuple[str, ...]
    heights: tuple[int, ...]
    """Of the source images, in pixels."""
    widths: tuple[int, ...]
    """Of the source images, in pixels."""
    groups: tuple[str, ...]
    """Groups of the images; the image ID of an image that belongs to none."""
    regions: tuple[str, ...] = ()
    """The different regions of interest, see `Roi.to_text`."""
    region_of: tuple[int, ...] = ()
    """Position of each image's region in `regions`, -1 for none. Empty if there are no regions."""

    @functools.cached_property
    def rois(self) -> tuple[Roi | None, ...]:
        """Regions of interest of the images. Images with equal regions share one object."""
        known = [*map(Roi.from_text, self.regions), None]
        return tuple(known[at] for at in self.region_of) or (None,) * len(self.image_ids)


@dataclass(frozen=True)
class CachedShard:
    """All images of a shard at the size of a network's input, as detectors see them."""

    index: Index
    path: Path
    """File of the pixels: (N, height, width, 3) uint8 RGB, without a header."""
    height: int
    """Of the network's input, in pixels."""
    width: int
    """Of the network's input, in pixels."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        return self.index.image_ids

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of the images; the image ID of an image that belongs to none."""
        return self.index.groups

    @property
    def rois(self) -> tuple[Roi | None, ...]:
        """Regions of interest of the images, at the size of the images."""
        return self.index.rois

    def __len__(self) -> int:
        return len(self.index.image_ids)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Read images as (B, H, W, 3) uint8 RGB, writable, in the order of `indices`."""
        size = self.height * self.width * 3
        images = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for image, index in zip(images, indices, strict=True):
                if os.preadv(file.fileno(), [image.reshape(-1).data], index * size) != size:
                    raise OSError(f"{self.path}: image {index} is cut off")
        return images


@dataclass(frozen=True)
class ImageSubset:
    """Some images of several shards. Implements `detectors.protocol.TrainImages`."""

    shards: Sequence[CachedShard]
    places: Sequence[tuple[int, int]]
    """Of each image, the position of its shard in `shards` and its row there."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(self.shards[shard].image_ids[row] for shard, row in self.places)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of the images; the image ID of an image that belongs to none."""
        return tuple(self.shards[shard].groups[row] for shard, row in self.places)

    @property
    def rois(self) -> tuple[Roi | None, ...]:
        """Regions of interest of the images, at the size of the images."""
        return tuple(self.shards[shard].rois[row] for shard, row in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def source_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of the source image in pixels."""
        shard, row = self.places[index]
        source = self.shards[shard].index
        return source.heights[row], source.widths[row]

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Read images as (B, H, W, 3) uint8 RGB, writable, in the order of `indices`."""
        images = [self.shards[shard].batch([row])[0] for shard, row in (self.places[index] for index in indices)]
        return np.stack(images)


def open_cached(
    lines: Store,
    manifest: Manifest,
    shard: ShardInfo,
    fit: InputFit,
    cache_dir: Path,
    threads: int = 1,
    prefetched: Store | None = None,
) -> CachedShard:
    """Open a shard at the size of a network's input. It is decoded unless this node has done so before.

    Args:
        lines: The store of lines.
        manifest: Manifest of the line.
        shard: The shard to open.
        fit: Resize mode and size of the network's input.
        cache_dir: Folder of the cache on this node.
        threads: Number of threads that decode.
        prefetched: Store in which another node may have put the decoded shard.

    Raises:
        IntegrityError: The shard, or its decoded copy in `prefetched`, is damaged.
        RejectedImage: An image cannot be decoded.
    """
    identity = [CACHE_VERSION, shard.sha256, manifest.white_level, manifest.black_level, asdict(fit)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    job = _DecodeJob(shard, fit, threads)
    return cached_images(
        name, fit, cache_dir, lambda file: _fetch(prefetched, name, file) or _decode(lines, manifest, job, file)
    )


def cached_images(name: str, fit: InputFit, cache_dir: Path, write: Callable[[BinaryIO], Index]) -> CachedShard:
    """Open images of the cache by the name of their file, written once per node.

    Args:
        name: Digest of everything that the pixels depend on.
        fit: Resize mode and size of the network's input.
        cache_dir: Folder of the cache on this node.
        write: Writes the pixels, image after image, and returns their index.
    """
    pixels, index = cache_dir / f"{name}.u8", cache_dir / f"{name}.json"
    if not (pixels.exists() and index.exists()):
        _evict(cache_dir, LIMIT_MB * 2**20)
        write_cached((pixels, index), lambda file: asdict(write(file)))
    with contextlib.suppress(FileNotFoundError):
        os.utime(pixels)
    return CachedShard(_index(json.loads(index.read_text())), pixels, fit.height, fit.width)


def put_prefetched(shard: CachedShard, store: Store) -> int:
    """Put a decoded shard where other nodes look for it. Returns its size in bytes."""
    pixels, name = shard.path.read_bytes(), shard.path.stem
    record = asdict(shard.index) | {"sha256": hashlib.sha256(pixels).hexdigest()}
    store.put(f"{name}.u8", pixels)
    store.put(f"{name}.json", json.dumps(record).encode())
    return len(pixels)


def remove_prefetched(store: Store, name: str) -> None:
    """Remove a shard that `put_prefetched` wrote. A node that is reading it decodes the shard itself."""
    for suffix in ("json", "u8"):
        store.delete(f"{name}.{suffix}")


def _fetch(store: Store | None, name: str, file: BinaryIO) -> Index | None:
    """Copy a prefetched shard's pixels to `file`. Returns None if the store does not have it (any more)."""
    if store is None:
        return None
    try:
        record = json.loads(store.get(f"{name}.json"))
        pixels = store.get(f"{name}.u8")
    except ObjectMissing:
        return None
    if hashlib.sha256(pixels).hexdigest() != record["sha256"]:
        raise IntegrityError(f"{store.uri(f'{name}.u8')} is damaged: its bytes are not the ones that were written")
    file.write(pixels)
    return _index(record)


def _index(record: Mapping[str, Any]) -> Index:
    return Index(*(tuple(record[field.name]) for field in fields(Index)))


@dataclass(frozen=True)
class _DecodeJob:
    shard: ShardInfo
    fit: InputFit
    threads: int


def write_cached(targets: tuple[Path, Path], write: Callable[[BinaryIO], Any]) -> None:
    """Write a file and its index, which `write` returns as JSON values, under temporary names, then rename both.

    Racing writers write the same bytes.
    """
    temporary = [path.with_name(f"{path.name}.{uuid.uuid4().hex}") for path in targets]
    try:
        with temporary[0].open("xb") as file:
            index = write(file)
        temporary[1].write_text(json.dumps(index))
        for path, target in zip(temporary, targets, strict=True):
            path.replace(target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _decode(lines: Store, manifest: Manifest, job: _DecodeJob, file: BinaryIO) -> Index:
    def written() -> Iterator[IndexRow]:
        for row, image in _resize(read_rows(lines, job.shard), manifest, job):
            file.write(image.data)
            yield row.image_id, row.height, row.width, row.group_or_id, roi_of(row)

    return index_of(written())


def index_of(images: Iterable[IndexRow]) -> Index:
    """Return the index of images."""
    rows, regions, region_of = [], dict[Roi, int](), list[int]()
    for image_id, height, width, group, roi in images:
        rows.append((image_id, height, width, group))
        region_of.append(-1 if roi is None else regions.setdefault(roi, len(regions)))
    index = Index(*zip(*rows, strict=True)) if rows else Index((), (), (), ())
    if not regions:
        return index
    return replace(index, regions=tuple(roi.to_text() for roi in regions), region_of=tuple(region_of))


def _resize(
    rows: Iterator[ImageRow], manifest: Manifest, job: _DecodeJob
) -> Iterator[tuple[ImageRow, npt.NDArray[np.uint8]]]:
    """Yield rows with their images at the network's size, in order. Two images per thread are in memory."""

    def resize(row: ImageRow) -> tuple[ImageRow, npt.NDArray[np.uint8]]:
        return row, to_network(decode_inside(row, manifest), job.fit)

    if job.threads == 1:
        yield from map(resize, rows)
        return
    pending: deque[Future[tuple[ImageRow, npt.NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(job.threads) as pool:
        for row in rows:
            pending.append(pool.submit(resize, row))
            if len(pending) >= 2 * job.threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _evict(cache_dir: Path, limit: int) -> None:
    """Remove the least recently used files until the cache is at most `limit` bytes. Keep files that may be in use."""
    files = []
    for path in (*cache_dir.glob("*.u8"), *cache_dir.glob("*.i32")):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for used, size, path in sorted(files):
        if total <= limit or time.time() - used < _IN_USE_S:
            return
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        total -= size
