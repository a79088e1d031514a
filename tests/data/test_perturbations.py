from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from raybench.data.geometry import InputFit, to_network
from raybench.data.line import Line
from raybench.data.perturbations import PERTURBATIONS, Perturbation, PerturbedImages, open_perturbed
from raybench.errors import IntegrityError
from raybench.store import Store

RNG = np.random.default_rng(0)
IMAGE = cv2.GaussianBlur(RNG.integers(60, 180, (90, 150, 3)).astype(np.uint8), (0, 0), 1).astype(np.uint8)
FIT = InputFit("squash", 32, 32)


def apply(kind: str, strength: float) -> npt.NDArray[np.float64]:
    return Perturbation(kind, strength).apply(IMAGE, "a.png").astype(np.float64)


def test_names_say_kind_and_strength() -> None:
    assert [each.name for each in PERTURBATIONS] == [
        "darker 20 %", "darker 40 %", "brighter 20 %", "brighter 40 %", "light from one side 15 %",
        "light from one side 30 %", "blur 0.4 %", "blur 1 %", "noise 2 %", "noise 6 %", "shift 2 %", "shift 5 %",
        "rotation 2°", "rotation 5°",
    ]  # fmt: skip


def test_light_changes_by_what_the_name_says() -> None:
    assert np.abs(apply("darker", 0.2) - 0.8 * IMAGE).max() <= 0.5
    assert np.abs(apply("brighter", 0.4) - np.minimum(1.4 * IMAGE, 255)).max() <= 0.5
    ratio = apply("light from one side", 0.3) / IMAGE
    assert ratio.max() == pytest.approx(1.3, abs=0.02)
    assert ratio.min() == pytest.approx(0.7, abs=0.02)
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)


def test_noise_has_the_standard_deviation_of_its_name() -> None:
    assert (apply("noise", 0.06) - IMAGE).std() == pytest.approx(0.06 * 255, rel=0.03)


def test_blur_spreads_a_square_by_a_share_of_the_shorter_side() -> None:
    square = np.zeros((201, 301, 3), np.uint8)
    square[90:111, 140:161] = 255
    y = np.arange(201) - 100
    variances = []
    for image in (square, Perturbation("blur", 0.01).apply(square, "a")):
        rows = image[..., 0].sum(1, dtype=np.float64)
        variances.append((rows * y**2).sum() / rows.sum())
    assert np.sqrt(variances[1] - variances[0]) == pytest.approx(2.01, rel=0.02)


def test_a_part_moves_by_a_share_of_the_shorter_side() -> None:
    dot = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(dot, (150, 100), 6, (255, 255, 255), -1)
    for image_id in ("a", "b", "c"):
        moved = Perturbation("shift", 0.05).apply(dot, image_id)[..., 0].astype(np.float64)
        y, x = (np.average(grid, weights=moved) for grid in np.mgrid[:200, :300])
        assert np.hypot(x - 150, y - 100) == pytest.approx(0.05 * 200, abs=0.1)


def test_a_rotation_turns_by_its_degrees_either_way() -> None:
    dot = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(dot, (170, 100), 6, (255, 255, 255), -1)
    angles = set()
    for image_id in "abcdefgh":
        turned = Perturbation("rotation", 5.0).apply(dot, image_id)[..., 0].astype(np.float64)
        y, x = (np.average(grid, weights=turned) for grid in np.mgrid[:200, :200])
        angles.add(round(float(np.degrees(np.arctan2(100 - y, x - 100)))))
    assert angles == {-5, 5}


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
def test_an_image_is_always_perturbed_alike(perturbation: Perturbation) -> None:
    before = IMAGE.copy()
    first, again = (perturbation.apply(IMAGE, "a.png") for _ in range(2))
    assert first.shape == IMAGE.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.array_equal(IMAGE, before)
    assert not np.array_equal(first, IMAGE)


def test_images_are_perturbed_before_they_are_resized(packed_once: Store, tmp_path: Path) -> None:
    line = Line.open(packed_once, "strip")
    ids = sorted(line.digests())[::4]
    perturbed = PerturbedImages(line.digests(ids), Perturbation("noise", 0.06))
    found = open_perturbed(line, perturbed, FIT, tmp_path)
    samples = {sample.image_id: sample for sample in line.images(ids)}
    assert sorted(found.image_ids) == ids
    for index, image_id in enumerate(found.image_ids):
        expected = to_network(perturbed.perturbation.apply(samples[image_id].pixels, image_id), FIT)
        assert np.array_equal(found.batch([index])[0], expected)
    assert (found.index.heights[0], found.index.widths[0]) == (200, 320)


def test_another_file_under_the_same_name_is_refused(packed_once: Store, tmp_path: Path) -> None:
    line = Line.open(packed_once, "strip")
    image_id = min(line.digests())
    perturbed = PerturbedImages({image_id: "0" * 64}, PERTURBATIONS[0])
    with pytest.raises(IntegrityError, match="is not the image that was chosen"):
        open_perturbed(line, perturbed, FIT, tmp_path)
    assert list(tmp_path.iterdir()) == []
    identities = {
        PerturbedImages(images, perturbation).identity(line)
        for images in ({image_id: "0" * 64}, line.digests([image_id]))
        for perturbation in (*PERTURBATIONS, Perturbation("darker", 0.3))
    }
    brighter = replace(line, manifest=replace(line.manifest, white_level=1023))
    assert len(identities | {perturbed.identity(brighter)}) == 31
