"""Networks of EfficientAD (Batzner et al. 2023, arXiv:2303.14535) and the backbone that stands for its teacher.

The paper distils its teacher from a WideResNet-101 on ImageNet in 60,000 steps. Offline there is neither, and a short
distillation learns too little of the deep features that tell defects, so there the backbone itself teaches. The last
convolution of the student is solved in closed form, by ridge regression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone, weights
from raybench.detectors.anomalib_parts import SmallPatchDescriptionNetwork
from raybench.detectors.protocol import FitContext, WeightsFile
from raybench.detectors.weights.catalog import BACKBONES, LITE0
from raybench.errors import WeightsCorrupt

STRIDES = (8, 16)
OFFICIAL_CHANNELS = 384
_OFFICIAL_FILE = "pretrained_teacher_small.pth"
KERNEL = 4
"""Side of the kernel of the last convolution."""
ROWS = 4_000
"""Patches of OK images that the student's last layer is solved for."""
STRENGTH = 1e-1
"""Strength of the ridge regression of the last layer. With less, it fits the noise of as few patches as inputs."""
_EDGE = 4  # cells of 4 px that the unpadded convolutions lose on each side


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
    """Reshape (B, C, H, W) to (B * H * W, C), in the order of `patches`."""
    return features.flatten(2).mT.flatten(0, 1)


class Pdn(SmallPatchDescriptionNetwork):
    """anomalib's network. Its constants are buffers; anomalib copies them to the device at each call."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.channels = channels
        self.normalise = Normalise()

    def pretrain(self, file: WeightsFile) -> None:
        """Load the paper's teacher, as anomalib distilled it. Raises WeightsCorrupt."""
        try:
            path = next(weights.unpacked(file).rglob(_OFFICIAL_FILE), None)
            if path is None:
                raise KeyError(_OFFICIAL_FILE)
            self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, KeyError, OSError) as error:
            raise WeightsCorrupt(f"{file.path} is no teacher: {error}") from error
        self.eval().requires_grad_(False)

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


class BackboneTeacher(nn.Module):
    """Features of lite0 at twice the scale, one per 4 px: (B, 3, H, W) in [0, 1] to (B, 152, H/4 - 8, W/4 - 8).

    Each feature is averaged with its neighbours, as PatchCore does (Roth et al. 2022) and the teacher of the paper.
    """

    channels = sum(BACKBONES[LITE0].channels(*STRIDES))

    def __init__(self) -> None:
        super().__init__()
        self.levels = backbone.Normalised(backbone.extractor(LITE0, *STRIDES), LITE0)

    def pretrain(self, context: FitContext) -> None:
        """Load the backbone's weights. Raises WeightsMissing, WeightsCorrupt."""
        backbone.pretrain(self.levels.model, LITE0, context)  # type: ignore[arg-type]
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> BackboneTeacher:
        """Stay in eval mode: the statistics of its batch norms are those of ImageNet."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        doubled = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        fine, coarse = (F.avg_pool2d(level, 3, stride=1, padding=1) for level in self.levels(doubled).values())
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], 1)[..., _EDGE:-_EDGE, _EDGE:-_EDGE]


class Ridge:
    """Ridge regression from batches: only the Gram matrices are kept in memory."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows added so far."""
        self._gram = torch.empty(0)
        self._cross = torch.empty(0)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add rows: `inputs` (N, D) and `targets` (N, C), float32."""
        ones = inputs.new_ones(len(inputs), 1)
        inputs = torch.cat([inputs, ones], 1)
        if self.rows == 0:
            self._gram = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
            self._cross = inputs.new_zeros(inputs.shape[1], targets.shape[1])
        self._gram.addmm_(inputs.T, inputs)
        self._cross.addmm_(inputs.T, targets)
        self.rows += len(inputs)

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return weights (C, D) and bias (C,) float32 with the least penalised squared error.

        Args:
            strength: Penalty on the squared weights, relative to the mean square of an input. The bias has none.
        """
        gram = self._gram.double()
        penalty = strength * gram.diagonal()[:-1].mean()
        gram.diagonal()[:-1].add_(penalty)
        solution = torch.cholesky_solve(self._cross.double(), torch.linalg.cholesky(gram)).float()
        return solution[:-1].T.contiguous(), solution[-1]


def fit_last(layer: nn.Conv2d, ridge: Ridge, strength: float) -> None:
    """Set the parameters of `layer` to the solution for patches of its input."""
    weight, bias = ridge.solve(strength)
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias)  # type: ignore[union-attr]


def patches(inputs: Tensor, kernel: int) -> Tensor:
    """Return the inputs of an unpadded convolution at each position: (B, C, H, W) to (B * positions, C * kernel**2)."""
    return F.unfold(inputs, kernel).mT.flatten(0, 1)
