from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench.data import cache as cache_module
from raybench.data.cache import ImageSubset, open_cached, put_prefetched
from raybench.data.decode import decode_image
from raybench.data.geometry import InputFit, to_network
from raybench.data.manifest import SCHEMA_VERSION, Manifest
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, RejectedImage
from raybench.store import Store, open_store
from tests.support.images import png_without_pixels
from tests.support.made_shards import stored

FIT = InputFit("native", 32, 64)


@pytest.fixture
def manifest(strips: Path, lines: Store) -> Manifest:
    return pack(open_store(str(strips)), lines, "strip", PackOptions(shard_rows=8))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_rows_are_the_shards_images_at_the_networks_size(manifest: Manifest, lines: Store, cache: Path) -> None:
    shard = manifest.shards[0]
    fitted = open_cached(lines, manifest, shard, FIT, cache)
    rows = list(read_rows(lines, shard))
    assert fitted.image_ids == tuple(row.image_id for row in rows)
    assert fitted.index.heights == (200,) * 8
    assert fitted.groups == fitted.image_ids  # of a folder, whose images belong to no group
    images = fitted.batch(range(8))
    for image, row in zip(images, rows, strict=True):
        assert np.array_equal(image, to_network(decode_image(row.image), FIT))
    assert np.array_equal(fitted.batch([5, 2]), images[[5, 2]])
    assert images.flags.writeable


def test_groups_lie_beside_the_image_ids(lines: Store, cache: Path) -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    image = cv2.imencode(".png", pixels)[1].tobytes()
    row = ImageRow("a", image, "a", None, None, "l", "test", "ok", "", "part 1", 32, 48, "00")
    shard = stored(lines, [row, replace(row, image_id="b", group=""), replace(row, image_id="c")])
    manifest = Manifest("l", SCHEMA_VERSION, "csv", {"test/ok": 3}, 0, *(32, 48) * 3, 255, (shard,), ())
    cached = open_cached(lines, manifest, shard, FIT, cache)
    assert cached.groups == ("part 1", "b", "part 1")
    assert open_cached(lines, manifest, shard, FIT, cache).groups == cached.groups  # read from the index file
    assert ImageSubset([cached], [(0, 1), (0, 0)]).groups == ("b", "part 1")


def test_the_second_open_reads_nothing_from_the_store(manifest: Manifest, lines: Store, cache: Path) -> None:
    shard = manifest.shards[0]
    first = open_cached(lines, manifest, shard, FIT, cache).batch([0])
    lines.delete(shard.key)
    assert np.array_equal(open_cached(lines, manifest, shard, FIT, cache).batch([0]), first)


def test_another_size_is_another_file(manifest: Manifest, lines: Store, cache: Path) -> None:
    for fit in (FIT, InputFit("squash", 32, 64), InputFit("native", 64, 64)):
        open_cached(lines, manifest, manifest.shards[0], fit, cache)
    assert len(list(cache.glob("*.u8"))) == 3


def test_racing_readers_agree_and_leave_nothing_behind(manifest: Manifest, lines: Store, cache: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: open_cached(lines, manifest, manifest.shards[0], FIT, cache), range(6)))
    assert all(np.array_equal(each.batch([3]), opened[0].batch([3])) for each in opened)
    assert len(list(cache.iterdir())) == 2


def test_threads_change_nothing(manifest: Manifest, lines: Store, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for shard in manifest.shards:
        one, many = (open_cached(lines, manifest, shard, FIT, where, n) for where, n in ((cache, 1), (other, 3)))
        assert one.path.read_bytes() == many.path.read_bytes()
        assert one.index == many.index


def test_a_bad_image_among_threads_is_named_and_leaves_nothing(
    strips: Path, lines: Store, cache: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(strips, tmp_path / "images"))
    (source / "test" / "good" / "005.png").write_bytes(png_without_pixels(200, 320))
    manifest = pack(open_store(str(source)), lines, "strip", PackOptions(shard_rows=8))
    with pytest.raises(RejectedImage, match=r"test/good/005.png of strip: cannot be decoded"):
        open_cached(lines, manifest, manifest.shards[0], FIT, cache, threads=3)
    assert list(cache.iterdir()) == []


def test_the_longest_unused_files_make_room(
    manifest: Manifest, lines: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LIMIT_MB", 0)
    opened = [open_cached(lines, manifest, shard, FIT, cache) for shard in manifest.shards[:2]]
    assert all(each.path.exists() for each in opened)  # both may still be in use
    long_ago = time.time() - 3600
    os.utime(opened[0].path, (long_ago, long_ago))
    open_cached(lines, manifest, manifest.shards[2], FIT, cache)
    assert [each.path.exists() for each in opened] == [False, True]


def test_picks_keep_their_order(manifest: Manifest, lines: Store, cache: Path) -> None:
    shards = [open_cached(lines, manifest, shard, FIT, cache) for shard in manifest.shards_of("train")[:2]]
    picks = ImageSubset(shards, [(1, 4), (0, 2), (1, 0)])
    assert picks.image_ids == (shards[1].image_ids[4], shards[0].image_ids[2], shards[1].image_ids[0])
    assert np.array_equal(picks.batch([2, 0])[0], shards[1].batch([0])[0])
    assert len(picks) == 3


def test_what_another_node_has_decoded_is_taken(manifest: Manifest, lines: Store, cache: Path, tmp_path: Path) -> None:
    shard, ahead = manifest.shards[0], open_store(str(tmp_path / "ahead"))
    first = open_cached(lines, manifest, shard, FIT, cache)
    assert put_prefetched(first, ahead) == 8 * FIT.height * FIT.width * 3
    (tmp_path / "other").mkdir()
    lines.delete(shard.key)
    carried = open_cached(lines, manifest, shard, FIT, tmp_path / "other", prefetched=ahead)
    assert carried.index == first.index
    assert np.array_equal(carried.batch(range(8)), first.batch(range(8)))


def test_what_is_not_there_any_more_is_decoded(manifest: Manifest, lines: Store, cache: Path, tmp_path: Path) -> None:
    shard, ahead = manifest.shards[0], open_store(str(tmp_path / "ahead"))
    first = open_cached(lines, manifest, shard, FIT, cache)
    put_prefetched(first, ahead)
    ahead.delete(f"{first.path.stem}.u8")  # by another task, between both reads
    (tmp_path / "other").mkdir()
    other = open_cached(lines, manifest, shard, FIT, tmp_path / "other", prefetched=ahead)
    assert np.array_equal(other.batch(range(8)), first.batch(range(8)))


def test_damaged_images_of_another_node(manifest: Manifest, lines: Store, cache: Path, tmp_path: Path) -> None:
    shard, ahead = manifest.shards[0], open_store(str(tmp_path / "ahead"))
    first = open_cached(lines, manifest, shard, FIT, cache)
    put_prefetched(first, ahead)
    name = f"{first.path.stem}.u8"
    pixels = ahead.get(name)
    ahead.put(name, bytes([pixels[0] ^ 1, *pixels[1:]]))
    (tmp_path / "other").mkdir()
    with pytest.raises(IntegrityError, match="is damaged"):
        open_cached(lines, manifest, shard, FIT, tmp_path / "other", prefetched=ahead)
    assert list((tmp_path / "other").iterdir()) == []
