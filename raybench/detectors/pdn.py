"""Patch description networks (Batzner et al. 2023, arXiv:2303.14535) and their distillation from a backbone.

The paper distils its teacher from a WideResNet-101 on ImageNet for 60,000 steps. Offline there is neither; here the
teacher learns the features of lite0 on crops of OK images, plain and altered: of one line, or once for all lines. The
optimiser trains its first three layers; the last one is linear, and solved in closed form.
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
from raybench.detectors.device import own_draws
from raybench.detectors.protocol import FitContext, TrainImages, WeightsFile
from raybench.detectors.ridge_regression import Ridge, fit_last, patches
from raybench.detectors.torch_detector import Subset
from raybench.detectors.weights.catalog import BACKBONES, LITE0
from raybench.errors import WeightsCorrupt

STRIDES = (8, 16)
CHANNELS = sum(BACKBONES[LITE0].channels(*STRIDES))
OFFICIAL_CHANNELS = 384
_OFFICIAL_FILE = "pretrained_teacher_small.pth"
KERNEL = 4  # of the last convolution
ROWS, _STORE_ROWS, _STORE_BATCHES = 4_000, 24_000, 24
_ASIDE = 16  # one image of so many is kept aside for the loss of a teacher for the weights store
STRENGTH = 1e-3
_EDGE = 4  # cells of 4 px that the unpadded convolutions lose on each side
_CROPS = 8


@dataclass(frozen=True)
class DistillationData:
    """crops: to learn from. test: to take the loss on. steps: optimiser steps, `total` of them at most, while the
    learning rate falls from `lr` to 0 as a cosine. rows: patches that the last layer is solved for. batches: of eight
    crops of two images, for the statistics of the targets and for the loss."""

    crops: Crops
    test: Crops
    steps: Iterable[int]
    total: int
    lr: float
    rows: int = ROWS
    batches: int = 4


def distil(teacher: SmallPatchDescriptionNetwork, lessons: DistillationData, context: FitContext) -> dict[str, Any]:
    """Teach `teacher` the features of lite0. Returns the steps done and the loss on plain crops, where a teacher that
    learned nothing has 1."""
    crops = lessons.crops
    source = DistillationTeacher(context).to(next(teacher.parameters()).device)
    with torch.no_grad():
        sample = torch.cat([source(crops.plain(_CROPS)) for _ in range(lessons.batches)])
    mean, std = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)

    def wanted(images: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = (source(images) - mean) / std
            return features

    done = _optimise(teacher.train(), lessons, wanted)
    teacher.eval().requires_grad_(False)
    with torch.no_grad():
        ridge = Ridge()
        while ridge.rows < lessons.rows:
            for images in (crops.plain(_CROPS), crops.altered(_CROPS)):
                ridge.add(patches(trunk(teacher, images), KERNEL), rows_of(wanted(images)))
        fit_last(teacher.conv4, ridge, STRENGTH)
        return {"distil_steps": done, "distil_loss": _loss(teacher, lessons, wanted)}


def _loss(teacher: nn.Module, lessons: DistillationData, wanted: Any) -> float:
    """Squared error over the variance of what was wanted, the mean over channels."""
    tests = [lessons.test.plain(_CROPS) for _ in range(lessons.batches)]
    found, expected = (torch.cat([of(test) for test in tests]) for of in (teacher, wanted))
    errors = (found - expected).square().mean((0, 2, 3))
    return float((errors / expected.var((0, 2, 3))).mean())


def _optimise(teacher: nn.Module, lessons: DistillationData, wanted: Any) -> int:
    optimiser = torch.optim.Adam(teacher.parameters(), lr=lessons.lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, lessons.total))
    done = 0
    for _ in lessons.steps:
        images = lessons.crops.altered(_CROPS)
        loss = F.mse_loss(teacher(images), wanted(images))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        falling.step()
        done += 1
    return done


def new_teacher(
    images: TrainImages, crop_px: int, steps: Iterable[int], total: int, lr: float, context: FitContext
) -> tuple[bytes, dict[str, Any]]:
    """A teacher for the weights store, as safetensors, and how it was distilled. The loss is of images kept aside."""
    device = torch.device(context.device)
    order = np.random.default_rng(context.seed).permutation(len(images)).tolist()
    aside = max(1, len(order) // _ASIDE)
    learn, test = (
        Crops(Subset(images, part), crop_px, context.seed, device) for part in (order[aside:], order[:aside])
    )
    with own_draws():
        torch.manual_seed(context.seed)
        teacher = SmallPatchDescriptionNetwork(CHANNELS).to(device)
        details = distil(teacher, DistillationData(learn, test, steps, total, lr, _STORE_ROWS, _STORE_BATCHES), context)
    return save({name: tensor.cpu().contiguous() for name, tensor in teacher.state_dict().items()}), details


def trunk(network: SmallPatchDescriptionNetwork, images: Tensor) -> Tensor:
    """What the last convolution reads."""
    last = network.conv4
    network.conv4 = nn.Identity()  # type: ignore[assignment]
    try:
        features: Tensor = network(images)
        return features
    finally:
        network.conv4 = last


def rows_of(features: Tensor) -> Tensor:
    """(B, C, H, W) to (B * H * W, C), in the order of `ridge.patches`."""
    return features.flatten(2).mT.flatten(0, 1)


class DistillationTeacher(nn.Module):
    """lite0's features of (B, 3, H, W) in [0, 1] at twice the scale: (B, C, H/4 - 8, W/4 - 8), one per 4 px."""

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
    """Put a teacher of the weights store ("pdn-lite0", "pdn-official") into `teacher`. Raises WeightsCorrupt."""
    try:
        state = _official(file) if name == "pdn-official" else load_file(file.path)
        teacher.load_state_dict(state)
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise WeightsCorrupt(f"{file.path} is no teacher: {error}") from error
    teacher.eval().requires_grad_(False)


def _official(file: WeightsFile) -> dict[str, Tensor]:
    found = next(weights.unpacked(file).rglob(_OFFICIAL_FILE), None)
    if found is None:
        raise KeyError(_OFFICIAL_FILE)
    state: dict[str, Tensor] = torch.load(found, map_location="cpu", weights_only=True)
    return state
