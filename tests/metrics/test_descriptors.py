from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from raybench.errors import IntegrityError
from raybench.metrics.descriptors import BLOCKS, SIZE, Descriptors, describe

Defect = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def defect(kind: str, row: int, column: int, seed: int) -> Defect:
    """A heat map and an image (96, 64) with a dark line or a red blob."""
    rng = np.random.default_rng(seed)
    image = np.full((96, 64, 3), 120, np.uint8)
    mask = np.zeros((96, 64), np.uint8)
    if kind == "scratch":
        cv2.line(mask, (column, row), (column + 14, row + 14), 1, 2)
        image[mask > 0] = (20, 20, 20)
    else:
        cv2.circle(mask, (column, row), 7, 1, -1)
        image[mask > 0] = (220, 40, 40)
    noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    heat = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2) + rng.normal(0, 0.01, mask.shape).astype(np.float32)
    return heat.astype(np.float32), noisy


def described(kind: str, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    heat, image = defect(kind, int(rng.integers(15, 70)), int(rng.integers(15, 45)), seed)
    return describe(heat, image, 0.0)


def test_defects_of_one_kind_are_nearer_to_each_other() -> None:
    names = [f"{kind}{at}" for kind in ("scratch", "blob") for at in range(8)]
    values = [described(name[:-1], at) for at, name in enumerate(names)]
    points = Descriptors.of(names, [""] * 16, values).points(names)
    away = np.linalg.norm(points[:, np.newaxis] - points, axis=2)
    np.fill_diagonal(away, np.inf)
    assert ((away.argmin(axis=1) < 8) == (np.arange(16) < 8)).all()
    assert away[:8, 8:].mean() > 1.2 * away[:8, :8][np.isfinite(away[:8, :8])].mean()


def test_the_vector_is_finite_whatever_the_map() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    for heat in (np.zeros((40, 50)), np.full((40, 50), 1e30), np.full((40, 50), -5.0), np.eye(40, 50)):
        found = describe(heat.astype(np.float32), image, 0.0)
        assert found.shape == (SIZE,) == (sum(BLOCKS.values()),)
        assert np.isfinite(found).all()


def test_large_images_are_described_in_a_small_size() -> None:
    heat, image = defect("blob", 40, 30, 0)
    factor = 8
    large = [cv2.resize(part, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST) for part in (heat, image)]
    small = describe(heat, image, 0.0)
    found = describe(large[0].astype(np.float32), large[1].astype(np.uint8), 0.0)
    assert np.abs(found - small)[:16].max() < 0.02
    assert abs(found[16] - small[16]) < 0.1


def test_two_images_usually_are_one_apart() -> None:
    rng = np.random.default_rng(0)
    names = [f"{at:03}" for at in range(200)]
    known = Descriptors.of(names, [""] * 200, rng.normal(5, 3, (200, SIZE)).astype(np.float32))
    points = known.points(names)
    pairs = np.square(points[:, np.newaxis] - points).sum(axis=2)[np.triu_indices(200, 1)]
    assert np.sqrt(pairs.mean()) == pytest.approx(1, abs=0.02)
    edges = np.cumsum(list(BLOCKS.values()))[:-1]
    assert [np.square(part).sum() / 200 for part in np.split(points, edges, axis=1)] == pytest.approx(
        [0.1] * 5, rel=0.02
    )
    assert np.isnan(known.points(["000", "nobody", "zzz"])[1:]).all()
    assert np.isnan(Descriptors.empty().points(["000"])).all()


def test_merging_and_bytes() -> None:
    one = Descriptors.of(["b", "a"], ["hole", ""], np.arange(2 * SIZE, dtype=np.float32).reshape(2, SIZE))
    two = Descriptors.of(["c"], ["cut"], np.zeros((1, SIZE), np.float32))
    both = Descriptors.empty().merge(two, one)
    assert both.image_ids.tolist() == ["a", "b", "c"]
    assert both.defect_types.tolist() == ["", "hole", "cut"]
    assert both.only(["c", "a", "x"]).values[:, 0].tolist() == [SIZE, 0]
    again = Descriptors.from_bytes(both.to_bytes())
    assert again.to_bytes() == one.merge(two).to_bytes() == both.to_bytes()
    assert len(Descriptors.from_bytes(Descriptors.empty().to_bytes()).image_ids) == 0
    with pytest.raises(IntegrityError, match="twice"):
        one.merge(both)
