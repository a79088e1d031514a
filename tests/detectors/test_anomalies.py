"""Synthetic anomalies of DRAEM and SuperSimpleNet, against anomalib's and torchvision's for one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2.functional import InterpolationMode, affine

from raybench.detectors import draem, supersimplenet
from raybench.detectors.anomalib_parts import SSNLoss
from raybench.detectors.device_images import DeviceImages
from tests.support.fitting import Images

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_rotation_is_torchvisions(height: int, width: int) -> None:
    maps, degrees = torch.rand(4, 1, height, width), [-90.0, -12.5, 33.0, 80.0]
    found = draem.rotated(maps, torch.tensor([math.radians(angle) for angle in degrees]))
    for ours, before, angle in zip(found, maps, degrees, strict=True):
        theirs = affine(before, angle, [0, 0], 1.0, [0.0, 0.0], InterpolationMode.BILINEAR, fill=[0.0])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_anomalies_are_where_the_masks_are_and_nowhere_else() -> None:
    images = torch.rand(40, 3, 64, 96)
    broken, masks = draem.Anomalies(DeviceImages(Images(3, 64, 96), CPU)).add_to(images)
    assert masks.shape == (40, 1, 64, 96)
    assert set(masks.flatten().tolist()) == {0, 1}
    where = masks.bool().expand_as(images)
    assert torch.equal(broken[~where], images[~where])
    assert (broken[where] != images[where]).float().mean() > 0.9
    assert 10 < masks.amax((1, 2, 3)).sum() < 30


def test_images_without_an_anomaly_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draem, "ANOMALOUS", -1.0)  # the share of images with one: none
    images = torch.rand(2, 3, 64, 64)
    broken, masks = draem.Anomalies(DeviceImages(Images(3, 64, 64), CPU)).add_to(images)
    assert torch.equal(broken, images)
    assert not masks.any()


def test_a_shape_rotated_out_of_the_image_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.zeros(4, 64, 64)
    maps[1:, 20:40, 20:40] = 1
    monkeypatch.setattr(draem, "draw_noise", lambda *rest: maps)
    monkeypatch.setattr(draem, "stretched", lambda maps, threshold: maps)
    assert draem.draw_masks(2, 64, 64, CPU).amax((1, 2, 3)).tolist() == [1, 1]


def test_about_half_of_the_masks_of_features_are_filled() -> None:
    masks = supersimplenet.draw_masks(200, 32, 40, CPU)
    assert masks.shape == (200, 1, 32, 40)
    assert set(masks.flatten().tolist()) == {0, 1}
    assert 70 < masks.amax((1, 2, 3)).sum() < 130


@pytest.mark.parametrize("anomalous", [0, 3, 6])
def test_the_loss_of_supersimplenet_is_anomalibs(anomalous: int) -> None:
    maps, scores = torch.randn(6, 1, 8, 8), torch.randn(6)
    masks = torch.zeros_like(maps)
    masks[:anomalous, :, 2:5] = 1
    if anomalous == 6:
        masks[:] = 1
    labels = masks.amax((1, 2, 3))
    theirs = SSNLoss()(pred_map=maps, pred_score=scores, target_mask=masks, target_label=labels)
    torch.testing.assert_close(supersimplenet.loss_of(maps, scores, masks, labels), theirs)
