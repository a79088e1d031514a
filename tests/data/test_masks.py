from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybench.data import cache as cache_module
from raybench.data.cache import open_cached
from raybench.data.decode import decode_mask, encode_mask
from raybench.data.geometry import InputFit
from raybench.data.manifest import Label, ShardInfo, read_manifest
from raybench.data.masks import Annotation, open_annotations
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, RejectedImage
from raybench.metrics.masks import Mask
from raybench.store import Store
from tests.support.images import png_without_pixels
from tests.support.made_masks import masks
from tests.support.made_shards import stored

BLANK = np.zeros((40, 60), bool)
SPOTS = BLANK.copy()
SPOTS[3:9, 5:7], SPOTS[20, 30:40], SPOTS[39, 59] = True, True, True


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def row(image_id: str, label: Label, mask: npt.NDArray[np.bool_] | bytes | None, defect_type: str = "") -> ImageRow:
    data = encode_mask(mask) if isinstance(mask, np.ndarray) else mask
    height, width = mask.shape if isinstance(mask, np.ndarray) else BLANK.shape
    path = None if data is None else f"{image_id}_mask.png"
    return ImageRow(image_id, b"image", image_id, data, path, "l", "test", label, defect_type, "", height, width, "00")


def everything(lines: Store, shard: ShardInfo, cache: Path) -> list[Annotation]:
    annotations = open_annotations(lines, shard, cache)
    return [annotations[position] for position in range(len(annotations))]


def assert_same_mask(found: Mask | None, expected: Mask | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None:
        for name, value in vars(expected).items():
            assert np.array_equal(getattr(found, name), value)
            assert getattr(getattr(found, name), "dtype", None) == getattr(value, "dtype", None)


KINDS: Sequence[tuple[ImageRow, Mask | None]] = [
    (row("ok", "ok", None), Mask.of(BLANK)),
    (row("ok with a mask", "ok", BLANK), Mask.of(BLANK)),
    (row("ok with a spot", "ok", SPOTS), Mask.of(SPOTS)),
    (row("ng", "ng", None, "scratch"), None),
    (row("ng with a mask", "ng", SPOTS, "scratch"), Mask.of(SPOTS)),
    (row("ng with an empty mask", "ng", BLANK, "hole"), Mask.of(BLANK)),
    (row("ng of no type", "ng", np.pad(SPOTS, 5)), Mask.of(np.pad(SPOTS, 5))),
    (row("unknown", "unknown", None), None),
    (row("unknown with a mask", "unknown", SPOTS), None),
]


@pytest.mark.parametrize("order", [1, -1])
def test_annotations_are_what_the_rows_say(order: int, lines: Store, cache: Path) -> None:
    kinds = KINDS[::order]
    annotations = everything(lines, stored(lines, [one for one, _ in kinds]), cache)
    for found, (expected, mask) in zip(annotations, kinds, strict=True):
        assert (found.image_id, found.label, found.defect_type) == (
            expected.image_id,
            expected.label,
            expected.defect_type,
        )
        assert found.has_mask == (expected.mask is not None)
        assert_same_mask(found.mask, mask)


@given(found=st.lists(masks(), min_size=1, max_size=4))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_masks_come_back_in_any_order(found: list[npt.NDArray[np.bool_]], lines: Store, cache: Path) -> None:
    rows = [row(f"{number}", "ng", mask) for number, mask in enumerate(found)]
    annotations = open_annotations(lines, stored(lines, rows), cache)
    for position in reversed(range(len(found))):
        assert_same_mask(annotations[position].mask, Mask.of(found[position]))


def test_of_a_packed_line(packed_once: Store, cache: Path) -> None:
    manifest = read_manifest(packed_once, "strip")
    with_masks = 0
    for shard in manifest.scored_shards:
        for expected, found in zip(read_rows(packed_once, shard), everything(packed_once, shard, cache), strict=True):
            assert (found.image_id, found.label) == (expected.image_id, expected.label)
            if expected.mask is not None:
                mask = decode_mask(expected.mask, expected.height, expected.width)
                assert_same_mask(found.mask, Mask.of(mask))
                with_masks += 1
    assert with_masks == manifest.masks > 0


def test_the_second_open_reads_nothing_from_the_store(lines: Store, cache: Path) -> None:
    shard = stored(lines, [one for one, _ in KINDS])
    first = everything(lines, shard, cache)
    lines.delete(shard.key)
    for found, expected in zip(everything(lines, shard, cache), first, strict=True):
        assert_same_mask(found.mask, expected.mask)
        assert replace(found, mask=None) == replace(expected, mask=None)


def test_racing_readers_agree_and_leave_nothing_behind(lines: Store, cache: Path) -> None:
    shard = stored(lines, [one for one, _ in KINDS])
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: open_annotations(lines, shard, cache), range(6)))
    assert {each.path for each in opened} == {opened[0].path}
    assert all(each.rows == opened[0].rows for each in opened)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("mask", "reason"),
    [(png_without_pixels(40, 60), "mask_unreadable"), (encode_mask(BLANK[1:]), "mask_size")],
    ids=["unreadable", "size"],
)
def test_a_mask_that_cannot_be_used_is_an_error_and_leaves_nothing(
    mask: bytes, reason: str, lines: Store, cache: Path
) -> None:
    shard = stored(lines, [row("a", "ng", SPOTS), row("b", "ng", mask)])
    with pytest.raises(RejectedImage) as raised:
        open_annotations(lines, shard, cache)
    assert raised.value.reason == reason
    assert "mask of b: " in str(raised.value)
    assert list(cache.iterdir()) == []


def test_a_mask_of_an_unknown_image_is_not_decoded(lines: Store, cache: Path) -> None:
    [found] = everything(lines, stored(lines, [row("a", "unknown", b"no mask")]), cache)
    assert found.has_mask
    assert found.mask is None


def test_a_damaged_shard_leaves_nothing(lines: Store, cache: Path) -> None:
    shard = stored(lines, [row("a", "ng", SPOTS)])
    lines.put(shard.key, lines.get(shard.key)[:-20])
    with pytest.raises(IntegrityError):
        open_annotations(lines, shard, cache)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_cut_off_is_noticed(lines: Store, cache: Path) -> None:
    annotations = open_annotations(lines, stored(lines, [row("a", "ng", SPOTS)]), cache)
    os.truncate(annotations.path, annotations.path.stat().st_size - 8)
    with pytest.raises(OSError, match="cut off"):
        annotations[0]


def test_the_longest_unused_masks_make_room(packed_once: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their index, and when images are opened, as these take most of the room."""
    monkeypatch.setattr(cache_module, "LIMIT_MB", 0)
    manifest = read_manifest(packed_once, "strip")
    old, new = (open_annotations(packed_once, shard, cache).path for shard in manifest.scored_shards[:2])
    long_ago = time.time() - 3600
    for path in (old, new):
        os.utime(path, (long_ago, long_ago))
    assert open_annotations(packed_once, manifest.scored_shards[1], cache).path == new  # it is used again
    open_cached(packed_once, manifest, manifest.shards[0], InputFit("native", 32, 64), cache)
    assert [path.exists() for path in (old, old.with_suffix(".json"))] == [False, False]
    assert [path.exists() for path in (new, new.with_suffix(".json"))] == [True, True]
