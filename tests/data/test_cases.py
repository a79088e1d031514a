"""Folders of the kind people have, which were read wrongly in silence: `shared/cases` beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.data.decode import decode_mask
from raybench.data.manifest import Manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.store import open_store

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="shared/cases is not beside the checkout")


def packed(folder: Path, to: Path) -> Manifest:
    return pack(open_store(str(folder)), open_store(str(to)), "line")


def masked_pixels(manifest: Manifest, to: Path) -> list[int]:
    rows = [row for shard in manifest.shards for row in read_rows(open_store(str(to)), shard, images=False)]
    return [int(decode_mask(row.mask, row.height, row.width).sum()) for row in rows if row.mask]


@pytest.mark.parametrize(
    "case",
    ["mask_names", "mask_names_control", "mask_suffix", "mask_btad", "mask_loco", "mask_jpeg", "mask_alpha"],
)
def test_masks_are_those_of_the_ng_images(case: str, tmp_path: Path) -> None:
    manifest = packed(CASES / case, tmp_path)
    assert (manifest.masks, manifest.counts["test/ng"]) == (8, 8)
    assert (manifest.rejects, manifest.findings) == ((), ())
    assert masked_pixels(manifest, tmp_path) == [196] * 8


def test_masks_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    manifest = packed(CASES / "mask_empty", tmp_path)
    assert (manifest.masks, manifest.counts["test/ng"]) == (0, 8)
    assert [reject.reason for reject in manifest.rejects] == ["mask_empty"] * 8


def test_inverted_masks_are_told(tmp_path: Path) -> None:
    manifest = packed(CASES / "mask_inverted", tmp_path)
    assert [(finding.kind, "inverted" in finding.detail) for finding in manifest.findings] == [("large mask", True)] * 8


def test_one_hot_pixel_changes_nothing(tmp_path: Path) -> None:
    hot, control = (packed(CASES / f"white_level_{case}", tmp_path / case) for case in ("hot_pixel", "control"))
    assert (hot.white_level, control.white_level) == (1023, 1023)
    assert hot.findings == ()
