"""What scores is a copy that is quicker: the same numbers as the fitted module, which stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import GaussianBlur2d
from raybench.detectors.inference import SeparableBlur, arranged
from raybench.detectors.settings import TimmBackbone
from raybench.detectors.torch_detector import TorchDetector, to_tensor
from raybench.detectors.weights.catalog import BACKBONES
from tests.support.fitting import REAL, fitted_once

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", REAL)
def test_the_copy_scores_as_the_module_does(name: str) -> None:
    fitted = fitted_once(name)
    assert isinstance(fitted.detector, TorchDetector)
    with torch.inference_mode():
        expected = fitted.detector.module(to_tensor(fitted.unseen, CPU))
    found = fitted.scored
    assert found.heatmaps is not None
    np.testing.assert_allclose(found.scores, expected.pred_score.flatten().double().numpy(), rtol=1e-4)
    maps = expected.anomaly_map.reshape(found.heatmaps.shape).numpy()
    np.testing.assert_allclose(found.heatmaps, maps, rtol=0, atol=1e-4 * np.ptp(maps))


CONVOLUTIONAL = sorted(name for name, layout in BACKBONES.items() if 4 in layout.layers)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_backbone_gives_the_same_features_without_its_batch_norms(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        extractor = backbone.extractor(name, 4, 8, 16)
        for norm in (part for part in extractor.modules() if isinstance(part, nn.BatchNorm2d)):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
        images = torch.rand(2, 3, 64, 96)
    before = {key: tensor.clone() for key, tensor in extractor.state_dict().items()}
    copied = arranged(nn.Sequential(extractor), CPU)
    with torch.inference_mode():
        expected, found = extractor(images), copied(images)
    for layer, features in expected.items():
        torch.testing.assert_close(found[layer], features, rtol=1e-4, atol=1e-4)
        assert found[layer].is_contiguous()
    assert not [part for part in copied.modules() if isinstance(part, nn.BatchNorm2d)]
    after = extractor.state_dict()
    assert all(tensor.is_contiguous() for tensor in after.values())
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_a_network_that_takes_other_sizes_only_stays_as_it_is() -> None:
    own = TimmBackbone(timm_name="botnet26t_256", weights="own", sha256="0" * 64)
    extractor = backbone.extractor(own, 4, 8, 16)
    copied = arranged(nn.Sequential(extractor), CPU)
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(copied(images), extractor(images))


def test_a_norm_that_is_not_of_the_convolution_before_it_stays() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(self.norm(images))]

    extractor: Any = backbone.extractor("resnet18", 4)
    extractor.feature_extractor = Crossed()
    extractor.layers = ["one"]
    nn.init.constant_(extractor.feature_extractor.norm.bias, 2.0)
    extractor.eval()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = extractor(images), arranged(nn.Sequential(extractor), CPU)(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("channels", "padding"), [(1, "same"), (3, "same"), (2, "valid")])
def test_a_blur_in_two_passes_is_the_blur(channels: int, padding: str) -> None:
    blur = GaussianBlur2d((4.0, 2.0), channels, (33, 17), padding=padding)
    maps = torch.rand(2, channels, 50, 70, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SeparableBlur(blur)(maps), blur(maps), rtol=1e-5, atol=1e-6)


def test_a_gpu_keeps_batch_norms_and_layout() -> None:
    """Nothing there has shown that folding is quicker; the blur in two passes has fewer products everywhere."""
    module = nn.Sequential(backbone.extractor("resnet18", 4), GaussianBlur2d(2.0)).eval()
    copied = arranged(module, torch.device("cuda"))
    assert [part for part in copied.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [part for part in copied.modules() if isinstance(part, SeparableBlur)]
