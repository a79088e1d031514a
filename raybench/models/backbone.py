"""EfficientNet-Lite0 with ImageNet weights, as timm knows it, without a network.

The packaged file names its tensors after another implementation; both list the same
tensors in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from raybench.errors import WeightsCorrupt
from raybench.models import weights
from raybench.models.anomalib_parts import TimmFeatureExtractor

TIMM_NAME = "tf_efficientnet_lite0"
CHANNELS: Mapping[str, int] = {
    "blocks.0": 16,
    "blocks.1": 24,
    "blocks.2": 40,
    "blocks.4": 112,
    "blocks.6": 320,
}
"""Feature layers, strides 2, 4, 8, 16 and 32, and their channels."""

NOTE = f"ImageNet weights of {weights.BACKBONE} from its pip package, sha256 {weights.BACKBONE_SHA256[:12]}"


def extractor(layers: Sequence[str]) -> TimmFeatureExtractor:
    """anomalib's feature extractor over lite0 with random weights, cut after the last of `layers`."""
    built = TimmFeatureExtractor(TIMM_NAME, layers, pre_trained=False).eval()
    trim(built)
    return built


def trim(built: TimmFeatureExtractor) -> None:
    """Drop the blocks whose output nobody reads; timm runs them all."""
    last = max(int(str(layer).removeprefix("blocks.")) for layer in built.layers)
    features = built.feature_extractor
    features.blocks = features.blocks[: last + 1]


def pretrain(built: TimmFeatureExtractor) -> None:
    """Put the ImageNet weights into an extractor. Raises WeightsMissing, WeightsCorrupt."""
    state, target = imagenet_state(), built.feature_extractor
    target.load_state_dict({name: state[name] for name in target.state_dict()}, strict=True)


def normalise(images: Tensor) -> Tensor:
    """(B, 3, H, W) float in [0, 1] to lite0's input: mean = std = 0.5."""
    return (images - 0.5) / 0.5


class Normalised(nn.Module):
    """A module behind lite0's normalisation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(normalise(images))


@functools.cache
def imagenet_state() -> Mapping[str, Tensor]:
    """lite0's ImageNet weights under timm's names. Raises WeightsMissing, WeightsCorrupt."""
    original = torch.load(weights.backbone_file(), map_location="cpu", weights_only=True)
    return remap(original, classifier().state_dict())


def classifier() -> nn.Module:
    """The whole network, head included, with random weights."""
    return timm.create_model(TIMM_NAME, pretrained=False).eval()


def remap(original: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`original`'s tensors under `expected`'s names, matched by order.

    Raises WeightsCorrupt unless count, shapes and leaf names (weight, bias...) agree one by one.
    """
    if len(original) != len(expected):
        raise WeightsCorrupt(f"{len(original)} tensors in the file, {len(expected)} in {TIMM_NAME}")
    pairs = list(zip(original.items(), expected.items(), strict=True))
    for (theirs, tensor), (ours, like) in pairs:
        if theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1] or tensor.shape != like.shape:
            raise WeightsCorrupt(
                f"{theirs} {tuple(tensor.shape)} does not fit {ours} {tuple(like.shape)} of {TIMM_NAME}"
            )
    return {ours: tensor for (_, tensor), (ours, _) in pairs}
