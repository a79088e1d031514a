"""Folders of the kind people have, which were read wrongly in silence: `shared/cases` beside the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raybench.data.decode import decode_mask
from raybench.data.manifest import Manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.errors import LineError
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


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    real, linked = CASES / "links" / "real", tmp_path / "linked"
    linked.mkdir()
    for folder in ("ok", "test_ok"):
        shutil.copytree(real / folder, linked / folder)
    for folder in ("ng", "masks"):
        (linked / folder).symlink_to(real / folder)
    assert packed(linked, tmp_path / "a").digest == packed(real, tmp_path / "b").digest


def test_a_table_with_semicolons_is_read(tmp_path: Path) -> None:
    manifest = packed(CASES / "semicolon", tmp_path)
    assert (manifest.layout, manifest.counts) == ("csv", {"test/ng": 4, "test/ok": 4, "train/ok": 8})
    assert (manifest.rejects, manifest.findings) == ((), ())


def test_folder_names_in_upper_case_are_read(tmp_path: Path) -> None:
    assert packed(CASES / "names_upper", tmp_path).counts == {"test/ng": 8, "test/ok": 8, "train/ok": 16}


def test_the_folder_above_a_line_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(LineError, match=r"bottle looks like a line of the layout mvtec: pack .*/names_parent/bottle$"):
        packed(CASES / "names_parent", tmp_path)
