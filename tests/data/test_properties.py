from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from raybench.data.inspection.properties import Properties, fingerprint, join, measure_shard, sharpness
from raybench.data.manifest import Manifest
from raybench.data.pack import PackOptions, pack
from raybench.store import Store, open_store

Grey = npt.NDArray[np.uint8]
Images = dict[str, npt.NDArray[Any]]


def packed(images: Images, folder: Path) -> tuple[Store, Manifest]:
    """A line of OK training images, by their names."""
    (folder / "images" / "train" / "good").mkdir(parents=True)
    for name, pixels in images.items():
        assert cv2.imwrite(str(folder / "images" / "train" / "good" / name), pixels)
    lines = open_store(str(folder / "lines"))
    return lines, pack(open_store(str(folder / "images")), lines, "line", PackOptions(layout="mvtec", shard_rows=3))


def measured(images: Images, folder: Path) -> pd.DataFrame:
    lines, manifest = packed(images, folder)
    found = join([measure_shard(lines, manifest, shard) for shard in manifest.shards])
    names = found.table["image_id"].str.rpartition("/")[2]
    return found.table.set_index(names)


def bars(sigma_px: float, gain: float = 1.0) -> Grey:
    """(256, 256): two bars, blurred so far."""
    image = np.zeros((256, 256), np.float32)
    image[:, 40:100] = image[:, 160:220] = 250 * gain
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def test_what_cleanvision_says_of_a_folder_is_what_is_said_here(strips: Path, tmp_path: Path) -> None:
    """Its own Imagelab, on the same files."""
    from cleanvision import Imagelab

    paths = sorted((strips / "train" / "good").iterdir())[:4]
    (tmp_path / "images").mkdir()
    images: Images = {path.name: np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths}
    images["dark.png"] = images[paths[0].name] // 5
    images["empty.png"] = np.full_like(images[paths[0].name], 250)
    images["colour.png"] = np.stack([images[path.name] for path in paths[:3]], axis=-1)
    here = measured(images, tmp_path / "line")
    for name, pixels in images.items():
        cv2.imwrite(str(tmp_path / "images" / name), pixels)
    lab = Imagelab(data_path=str(tmp_path / "images"), verbose=False)
    lab.find_issues({"dark": {}, "low_information": {}, "odd_size": {}}, n_jobs=1, verbose=False)
    there = {Path(path).name: at for at, path in enumerate(lab.issues.index)}
    brightest, bits = here["brightness_perc_99"].to_dict(), here["entropy"].to_dict()
    for name in images:
        row = lab.issues.iloc[there[name]]
        assert brightest[name] == pytest.approx(row["dark_score"], abs=1e-12)
        assert min(1.0, 0.1 * bits[name]) == pytest.approx(row["low_information_score"], abs=1e-12)


def test_edges_twice_as_wide_are_one_less_sharp() -> None:
    narrow, wide = sharpness(bars(4)), sharpness(bars(8))
    assert narrow - wide == pytest.approx(1, abs=0.15)


def test_sharpness_does_not_depend_on_gain_or_on_bands() -> None:
    whole = sharpness(bars(4))
    assert sharpness(bars(4, gain=0.5)) == pytest.approx(whole, abs=0.1)
    assert sharpness(bars(4), band_px=2000) == pytest.approx(whole, abs=0.02)


def test_an_image_without_edges_has_no_sharpness() -> None:
    assert sharpness(np.full((50, 70), 9, np.uint8)) == 0.0


def test_the_fingerprint_survives_gain_and_size_but_not_another_image() -> None:
    rng = np.random.default_rng(0)
    image, other = (cv2.GaussianBlur(rng.uniform(0, 200, (200, 320)), (0, 0), 9) for _ in range(2))
    image, other = (cv2.normalize(one, np.empty(0), 0, 190, cv2.NORM_MINMAX) for one in (image, other))
    first = fingerprint(np.asarray(image, np.uint8))
    assert first.shape == (63,)
    assert first.dtype == np.float32
    apart = np.linalg.norm(first - fingerprint(np.asarray(other, np.uint8)))
    for copy in (image * 1.3, cv2.resize(image, (160, 100), interpolation=cv2.INTER_AREA)):
        assert np.linalg.norm(first - fingerprint(np.asarray(copy, np.uint8))) < 0.03 * apart


def test_grey_is_told_from_colour_and_eight_bits_from_sixteen(strips: Path, tmp_path: Path) -> None:
    grey = np.asarray(cv2.imread(str(strips / "train" / "good" / "000.png"), cv2.IMREAD_GRAYSCALE), np.uint8)
    tinted = np.stack([grey // 2, grey, grey], axis=-1)
    images: Images = {
        "grey.png": grey,
        "grey_as_colour.png": cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR),
        "grey.jpg": grey,
        "colour.png": tinted,
        "deep.png": grey.astype(np.uint16) * 16,
    }
    table = measured(images, tmp_path)
    assert table["colours"].to_dict() == {
        "grey.png": "grey",
        "grey_as_colour.png": "grey",
        "grey.jpg": "grey",
        "colour.png": "colour",
        "deep.png": "grey, 16 bit",
    }
    brightness, pixels = table["brightness"].to_dict(), table["pixels"].to_dict()
    assert brightness["deep.png"] == pytest.approx(brightness["grey.png"], rel=0.01)
    assert pixels["grey.png"] == pixels["grey_as_colour.png"]


def test_threads_change_nothing(strips: Path, tmp_path: Path) -> None:
    lines = open_store(str(tmp_path))
    manifest = pack(open_store(str(strips)), lines, "strip")

    def all_of(threads: int) -> Properties:
        return join([measure_shard(lines, manifest, shard, threads) for shard in manifest.shards])

    one, four = all_of(1), all_of(4)
    pd.testing.assert_frame_equal(one.table, four.table)
    np.testing.assert_array_equal(one.fingerprints, four.fingerprints)
    assert len(one.table) == sum(manifest.counts.values())
