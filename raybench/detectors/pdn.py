"""Patch description networks (Batzner et al. 2023, arXiv:2303.14535) and their distillation from a backbone.

The paper distils its teacher from a WideResNet-101 on ImageNet in 60,000 steps. Offline there is neither. Here the
teacher learns the features of lite0 on plain and altered crops of OK images, of one line or once for all lines. The
optimiser trains its first three layers; the last one is linear and is solved in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone, weights
from raybench.detectors.anomalib_parts import SmallPatchDescriptionNetwork
from raybench.detectors.crops import Crops
from raybench.detectors.device import own_draws, tf32_convolutions
from raybench.detectors.protocol import FitContext, TrainImages, WeightsFile
from raybench.detectors.ridge_regression import Ridge, fit_last, patches
from raybench.detectors.torch_detector import Subset
from raybench.detectors.weights.catalog import BACKBONES, LITE0
from raybench.errors import WeightsCorrupt

STRIDES = (8, 16)
CHANNELS = sum(BACKBONES[LITE0].channels(*STRIDES))
OFFICIAL_CHANNELS = 384
_OFFICIAL_FILE = "pretrained_teacher_small.pth"
KERNEL = 4
"""Side of the kernel of the last convolution."""
ROWS = 4_000
"""Patches that the last layer is solved for."""
STRENGTH = 1e-3
"""Strength of the ridge regression of the last layer."""
_STORE_ROWS, _STORE_BATCHES = 24_000, 24  # for a teacher of the weights store
_HELD_BACK_SHARE = 16  # for such a teacher, one image of this number is held back to compute the loss
_EDGE = 4  # cells of 4 px that the unpadded convolutions lose on each side
_CROPS = 8  # per batch


@dataclass(frozen=True)
class DistillationData:
    """Images and schedule of a distillation."""

    crops: Crops
    """Crops to train on."""
    test: Crops
    """Crops to compute the loss on."""
    steps: Iterable[int]
    """Optimiser steps."""
    total: int
    """The most optimiser steps. After as many the learning rate, which follows a cosine, is 0."""
    lr: float
    """Learning rate at the start."""
    rows: int
    """Patches that the last layer is solved for."""
    batches: int = 4
    """Batches of eight crops of two images for the statistics of the targets, and as many for the loss."""


def distil(teacher: SmallPatchDescriptionNetwork, data: DistillationData, context: FitContext) -> dict[str, Any]:
    """Train a teacher to predict the features of lite0.

    Returns:
        `distil_steps`, the steps done, and `distil_loss`, the loss on plain crops: 1 for a teacher that predicts the
        mean.
    """
    crops = data.crops
    source = DistillationTeacher(context).to(next(teacher.parameters()).device)
    with torch.no_grad():
        sample = torch.cat([source(crops.plain(_CROPS)) for _ in range(data.batches)])
    mean, std = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)

    def targets(images: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = (source(images) - mean) / std
            return features

    done = _optimise(teacher.train(), data, targets)
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        ridge = Ridge()
        while ridge.rows < data.rows:
            for images in (crops.plain(_CROPS), crops.altered(_CROPS)):
                ridge.add(patches(trunk(teacher, images), KERNEL), rows_of(targets(images)))
        fit_last(teacher.conv4, ridge, STRENGTH)
        return {"distil_steps": done, "distil_loss": _loss(teacher, data, targets)}


def _loss(teacher: nn.Module, data: DistillationData, targets: Any) -> float:
    """Return the squared error divided by the variance of the targets, the mean over channels."""
    tests = [data.test.plain(_CROPS) for _ in range(data.batches)]
    predicted, expected = (torch.cat([network(test) for test in tests]) for network in (teacher, targets))
    errors = (predicted - expected).square().mean((0, 2, 3))
    return float((errors / expected.var((0, 2, 3))).mean())


@tf32_convolutions()
def _optimise(teacher: nn.Module, data: DistillationData, targets: Any) -> int:
    optimiser = torch.optim.Adam(teacher.parameters(), lr=data.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, data.total))
    done = 0
    for _ in data.steps:
        images = data.crops.altered(_CROPS)
        loss = F.mse_loss(teacher(images), targets(images))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        scheduler.step()
        done += 1
    return done


def new_teacher(
    images: TrainImages, crop_px: int, steps: Iterable[int], total: int, lr: float, context: FitContext
) -> tuple[bytes, dict[str, Any]]:
    """Distil a teacher for the weights store.

    Args:
        images: OK images of any lines. Some are held back to compute the loss.
        crop_px: Side of the crops, in pixels.
        steps: Optimiser steps.
        total: The most optimiser steps.
        lr: Learning rate at the start.
        context: Seed and device.

    Returns:
        The teacher as safetensors, and the details of `distil`.
    """
    device = torch.device(context.device)
    order = np.random.default_rng(context.seed).permutation(len(images)).tolist()
    held_back = max(1, len(order) // _HELD_BACK_SHARE)
    train, test = (
        Crops(Subset(images, part), crop_px, context.seed, device) for part in (order[held_back:], order[:held_back])
    )
    with own_draws():
        torch.manual_seed(context.seed)
        teacher = Pdn(CHANNELS).to(device)
        data = DistillationData(train, test, steps, total, lr, _STORE_ROWS, _STORE_BATCHES)
        details = distil(teacher, data, context)
    return save({name: tensor.cpu().contiguous() for name, tensor in teacher.state_dict().items()}), details


def trunk(network: SmallPatchDescriptionNetwork, images: Tensor) -> Tensor:
    """Return the input of the last convolution."""
    last = network.conv4
    network.conv4 = nn.Identity()  # type: ignore[assignment]
    try:
        features: Tensor = network(images)
        return features
    finally:
        network.conv4 = last


def rows_of(features: Tensor) -> Tensor:
    """Reshape (B, C, H, W) to (B * H * W, C), in the order of `ridge_regression.patches`."""
    return features.flatten(2).mT.flatten(0, 1)


class Pdn(SmallPatchDescriptionNetwork):
    """anomalib's network. Its constants are buffers; anomalib copies them to the device at each call."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.normalise = Normalise()

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, channels, H/4 - 8, W/4 - 8) of images (B, 3, H, W) in [0, 1]."""
        features = self.avgpool1(F.relu(self.conv1(self.normalise(images))))
        features = self.avgpool2(F.relu(self.conv2(features)))
        return self.conv4(F.relu(self.conv3(features)))  # type: ignore[no-any-return]


class Normalise(nn.Module):
    """Normalises images (B, 3, H, W) in [0, 1] by mean and standard deviation of ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class DistillationTeacher(nn.Module):
    """Features of lite0 at twice the scale, one per 4 px: (B, 3, H, W) in [0, 1] to (B, C, H/4 - 8, W/4 - 8)."""

    def __init__(self, context: FitContext) -> None:
        super().__init__()
        extractor = backbone.extractor(LITE0, *STRIDES)
        backbone.pretrain(extractor, LITE0, context)
        self.levels = backbone.Normalised(extractor, LITE0)

    def forward(self, images: Tensor) -> Tensor:
        doubled = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        fine, coarse = self.levels(doubled).values()
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], 1)[..., _EDGE:-_EDGE, _EDGE:-_EDGE]


def load(teacher: SmallPatchDescriptionNetwork, name: str, file: WeightsFile) -> None:
    """Load a file of the weights store ("pdn-lite0", "pdn-official") into a teacher. Raises WeightsCorrupt."""
    try:
        state = _official(file) if name == "pdn-official" else load_file(file.path)
        teacher.load_state_dict(state)
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise WeightsCorrupt(f"{file.path} is no teacher: {error}") from error
    teacher.eval().requires_grad_(False)


def _official(file: WeightsFile) -> dict[str, Tensor]:
    path = next(weights.unpacked(file).rglob(_OFFICIAL_FILE), None)
    if path is None:
        raise KeyError(_OFFICIAL_FILE)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
