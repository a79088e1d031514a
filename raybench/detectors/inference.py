"""Modules arranged for scoring: the same numbers, but for rounding, in less time."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

from raybench.detectors.anomalib_parts import GaussianBlur2d, TimmFeatureExtractor

_PROBE_PX = 64  # side of the image on which features are compared


def arranged(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a fitted module that scores sooner. The module stays as it is.

    Heat maps are blurred along columns, then along rows. On a CPU convolutional feature extractors compute with
    channels last, and their batch norms become part of the convolutions before them.
    """
    tensors = itertools.chain(module.parameters(), module.buffers())
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    for part in list(copied.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, GaussianBlur2d):
                setattr(part, name, SeparableBlur(child))
            elif isinstance(child, TimmFeatureExtractor) and device.type == "cpu":
                setattr(part, name, _sooner(child))
    return copied


def _sooner(extractor: TimmFeatureExtractor) -> nn.Module:
    """Return a copy of an extractor without batch norms, with channels last; or itself if its features would be others.

    They would be where a network does not apply a norm to the convolution that is registered just before it. Networks
    that cannot compute the image on which this is tried, for its size or its layout, stay as they are too.
    """
    if not any(isinstance(part, nn.BatchNorm2d) for part in extractor.modules()):
        return extractor
    copied = copy.deepcopy(extractor)
    for parent in list(copied.modules()):
        for (name, first), (next_name, second) in itertools.pairwise(list(parent.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(first, second))
                setattr(parent, next_name, getattr(second, "act", nn.Identity()))  # timm's norms hold the activation
    copied.to(memory_format=torch.channels_last)
    copied.register_forward_hook(_contiguous)
    image = torch.linspace(-1, 1, 3 * _PROBE_PX**2).view(1, 3, _PROBE_PX, _PROBE_PX)
    try:
        with torch.inference_mode():
            expected, found = extractor(image), copied(image)
    except (RuntimeError, AssertionError, ValueError):
        return extractor
    pairs = [(found[layer], features) for layer, features in expected.items()]
    same = all(float((one - other).abs().max()) <= 1e-3 * float(other.abs().max()) for one, other in pairs)
    return copied if same else extractor


def _contiguous(_module: nn.Module, _images: Any, features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {layer: values.contiguous() for layer, values in features.items()}


class SeparableBlur(nn.Module):
    """anomalib's `GaussianBlur2d` in two passes: 2 x 33 products per pixel for its 33 x 33."""

    def __init__(self, blur: GaussianBlur2d) -> None:
        super().__init__()
        self.column = nn.Buffer(blur.kernel.sum(-1, keepdim=True), persistent=False)
        self.row = nn.Buffer(blur.kernel.sum(-2, keepdim=True), persistent=False)
        self.groups, self.border = blur.channels, blur.border_type
        self.edges = blur.padding_shape if blur.padding == "same" else [0, 0, 0, 0]

    def forward(self, maps: Tensor) -> Tensor:
        """Blur maps (B, C, H, W)."""
        padded = F.pad(maps, self.edges, mode=self.border)
        return F.conv2d(F.conv2d(padded, self.column, groups=self.groups), self.row, groups=self.groups)
