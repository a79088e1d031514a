"""Scoring in chunks, with a module that runs out of memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.torch_detector import TorchDetector
from tests.support.fitting import CONTEXT, Images

SIDE = 128


class Brightness(nn.Module):
    """Scores an image by its brightest value. Takes memory for at most `limit` images."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> SimpleNamespace:
        self.batches.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError(f"{len(images)} images")
        maps = images.amax(1)
        return SimpleNamespace(pred_score=maps.amax((1, 2)), anomaly_map=maps)


class Small(TorchDetector[Any]):
    def __init__(self, limit: int) -> None:
        super().__init__(None, SIDE, SIDE, CONTEXT)
        self.limit = limit

    def build(self) -> nn.Module:
        return Brightness(self.limit)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        pass

    def card(self) -> Card:
        raise NotImplementedError


def fitted(limit: int) -> Small:
    detector = Small(limit)
    detector.fit(Images(2, SIDE, SIDE), CONTEXT)
    return detector


def test_chunks_are_halved_when_memory_runs_out_and_stay_so() -> None:
    images, scarce, plenty = Images(40, SIDE, SIDE).pixels, fitted(limit=10), fitted(limit=40)
    found, expected = scarce.score(images), plenty.score(images)
    assert np.array_equal(found.scores, expected.scores)
    assert found.heatmaps is not None
    assert expected.heatmaps is not None
    assert np.array_equal(found.heatmaps, expected.heatmaps)
    assert plenty.scorer.batches == [32, 8]
    assert scarce.scorer.batches == [32, 16, 8, 8, 8, 8, 8]
    scarce.score(images[:16])
    assert scarce.scorer.batches[-2:] == [8, 8]


def test_an_image_that_does_not_fit_alone_is_an_error() -> None:
    detector = fitted(limit=0)
    with pytest.raises(torch.OutOfMemoryError, match="1 images"):
        detector.score(Images(4, SIDE, SIDE).pixels)
    assert detector.scorer.batches == [4, 2, 1]
