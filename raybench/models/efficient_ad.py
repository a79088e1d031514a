"""EfficientAD-S (Batzner et al. 2023, arXiv:2303.14535) with a teacher distilled on the spot.

anomalib's model, losses and score. Its pretrained teacher and its ImageNette penalty images are downloads, so the
teacher is distilled from lite0's features on augmented crops of the OK images, and such crops are the penalty images.
Last layers are solved in closed form after the optimiser's steps: what makes some seconds of CPU enough to be useful.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.models import backbone
from raybench.models.anomalib_parts import EfficientAdModel, SmallPatchDescriptionNetwork
from raybench.models.base import Card, FitContext, TrainImages
from raybench.models.ridge import Ridge, fit_last, patches
from raybench.models.settings import EfficientAdSettings
from raybench.models.tensors import Clock, Draws, TorchDetector, to_tensor

LAYERS = ["blocks.2", "blocks.4"]
CHANNELS = sum(backbone.CHANNELS[layer] for layer in LAYERS)
_CROPS = 8
_KERNEL = 4  # of the patch description network's last convolution
_EDGE = 4  # cells of 4 px that its unpadded convolutions lose on each side
_REMEMBERED = 12  # images whose teacher features are kept while training: bounds time and memory
_HELD_BACK = 8
_ROWS = 8_000
_STRENGTH = 1e-3


class EfficientAd(TorchDetector[EfficientAdSettings]):
    min_images = 4

    def build(self) -> nn.Module:
        return EfficientAdModel(teacher_out_channels=CHANNELS)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        rng = np.random.default_rng(context.seed)
        order = rng.permutation(len(images)).tolist()
        held = order[: max(1, min(_HELD_BACK, len(order) // 5))]
        training = _Training(module, self.settings, Subset(images, order[len(held) :]), self.device, context)
        training.distil()
        training.describe()
        training.autoencode()
        training.together()
        training.close()
        training.quantiles(to_tensor(images.batch(held), self.device))
        self.details = training.details

    def card(self) -> Card:
        loss = self.details["distil_loss"]
        note = (
            f"teacher distilled from {backbone.TIMM_NAME} on the line's own OK images; "
            f"distillation loss {loss:.3f} of a target variance of 1"
        )
        return Card("efficient_ad", "pdn-small", "distilled", note, self.parameters(), details=self.details)


class Subset:
    """Some of the training images."""

    def __init__(self, images: TrainImages, indices: list[int]) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Any) -> Any:
        return self._images.batch([self._indices[index] for index in indices])


class _Training:
    def __init__(self, model, chosen, images, device, context) -> None:
        self.model, self.chosen, self.images, self.device = model, chosen, images, device
        self.draws = Draws(len(images), context.seed)
        self.clock = Clock(context.budget_s)
        self.details: dict[str, Any] = {}
        self.random = torch.Generator().manual_seed(context.seed)
        self.marks = []

    def batch(self, size: int) -> Tensor:
        return to_tensor(self.images.batch(self.draws.take(size)), self.device)

    def crops(self, count: int) -> Tensor:
        side = self.chosen.crop_px
        whole = self.batch(2)
        parts = []
        for _ in range(count):
            i = int(torch.randint(len(whole), (1,), generator=self.random))
            y = int(torch.randint(whole.shape[2] - side + 1, (1,), generator=self.random))
            x = int(torch.randint(whole.shape[3] - side + 1, (1,), generator=self.random))
            parts.append(whole[i, :, y : y + side, x : x + side])
        return torch.stack(parts)

    def uniform(self, low, high, *shape):
        return (low + (high - low) * torch.rand(shape, generator=self.random)).to(self.device)

    def augment(self, crops: Tensor) -> Tensor:
        n = len(crops)
        out = crops
        if AUG >= 1:
            if self.uniform(0, 1, 1) < 0.5:
                out = out.flip(3)
            if self.uniform(0, 1, 1) < 0.5:
                out = out.flip(2)
            if self.uniform(0, 1, 1) < 0.5:
                out = out.transpose(2, 3)
            out = out * self.uniform(0.6, 1.4, n, 3, 1, 1) + self.uniform(-0.2, 0.2, n, 3, 1, 1)
        if AUG >= 2:
            coarse = torch.rand((n, 3, 5, 5), generator=self.random).to(self.device)
            texture = F.interpolate(coarse, size=out.shape[-2:], mode="bicubic")
            mask = (
                F.interpolate(
                    torch.rand((n, 1, 6, 6), generator=self.random).to(self.device),
                    size=out.shape[-2:],
                    mode="bilinear",
                )
                > 0.6
            ).float()
            out = out * (1 - mask) + mask * (0.5 * texture + 0.5 * out.flip(0))
        return out.clamp(0, 1)

    def mark(self, name):
        import time

        self.marks.append((name, time.monotonic()))
        if len(self.marks) > 1:
            self.details["t_" + name] = round(self.marks[-1][1] - self.marks[-2][1], 1)

    def distil(self) -> None:
        self.mark("start")
        teacher = self.model.teacher
        source = backbone.extractor(LAYERS).to(self.device)
        backbone.pretrain(source)
        with torch.no_grad():
            sample = torch.cat([targets(source, self.crops(_CROPS)) for _ in range(8)])
        mean, std = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
        teacher.train()
        optimiser = torch.optim.Adam(teacher.parameters(), lr=self.chosen.lr)
        losses = []
        for _ in self.clock.steps(self.chosen.distil_steps, 0.3):
            crops = self.augment(self.crops(_CROPS))
            with torch.no_grad():
                wanted = (targets(source, crops) - mean) / std
            loss = F.mse_loss(teacher(crops), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        self.details["distil_sgd"] = float(np.mean(losses[-5:])) if losses else None
        self.mark("distil")
        with torch.no_grad():
            if self.chosen.closed_form:
                ridge = Ridge()
                while ridge.rows < _ROWS:
                    crops = self.crops(16)
                    crops[8:] = self.augment(crops[8:])
                    wanted = (targets(source, crops) - mean) / std
                    rows = patches(trunk(teacher, crops), _KERNEL)
                    ridge.add(rows, wanted.flatten(2).mT.flatten(0, 1))
                fit_last(teacher.conv4, ridge, _STRENGTH)
            test = torch.cat([self.crops(16), self.crops(16)])
            wanted = (targets(source, test) - mean) / std
            self.details["distil_loss"] = float(F.mse_loss(teacher(test), wanted))
            self.details["distil_var"] = float(wanted.var())
        self.mark("ridge")
        teacher.eval().requires_grad_(False)

    def describe(self) -> None:
        with torch.no_grad():
            self.kept = self.batch(min(_REMEMBERED, len(self.images)))
            raw = torch.cat([self.model.teacher(part) for part in self.kept.split(1)])
            mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
        self.model.mean_std.update({"mean": mean, "std": std})
        self.features = (raw - mean) / std
        self.mark("describe")

    def autoencode(self) -> None:
        ae = self.model.ae.train()
        optimiser = torch.optim.Adam(ae.parameters(), lr=self.chosen.lr)
        losses = []
        for _ in self.clock.steps(self.chosen.autoencoder_steps, 0.6):
            pick = torch.randperm(len(self.kept), generator=self.random)[:1]
            loss = F.mse_loss(ae(self.kept[pick], self.kept.shape[-2:]), self.features[pick])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        self.details["ae_loss"] = float(np.mean(losses[-5:])) if losses else None
        self.mark("ae")

    def together(self) -> None:
        model = self.model
        if TRUNK:
            for n in ("conv1", "conv2", "conv3"):
                getattr(model.student, n).load_state_dict(getattr(model.teacher, n).state_dict())
        model.student.train()
        model.ae.train()
        model.training = True
        optimiser = torch.optim.Adam([*model.student.parameters(), *model.ae.parameters()], lr=self.chosen.lr)
        losses = []
        for _ in self.clock.steps(self.chosen.steps, 0.8):
            loss = sum(model(self.batch(1), self.augment(self.crops(1))))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        self.details["joint"] = losses
        self.mark("joint")

    def close(self) -> None:
        model = self.model.eval()
        with torch.no_grad():
            if self.chosen.closed_form:
                ridge = Ridge()
                share = _ROWS // len(self.kept)
                for image, features in zip(self.kept.split(1), self.features.split(1), strict=True):
                    wanted = torch.cat([features, model.ae(image, image.shape[-2:])], 1)
                    rows = patches(trunk(model.student, image), _KERNEL)
                    chosen = torch.randperm(len(rows), generator=self.random)[:share]
                    ridge.add(rows[chosen], wanted.flatten(2).mT.flatten(0, 1)[chosen])
                fit_last(model.student.conv4, ridge, STUDENT)
        self.mark("close")

    def quantiles(self, held: Tensor) -> None:
        with torch.no_grad():
            maps = [self.model.get_maps(part) for part in held.split(1)]
            self.details["heldout"] = [float(torch.cat([m[i] for m in maps]).mean()) for i in (0, 1)]
            found = {}
            for name, which in (("st", 0), ("ae", 1)):
                values = torch.cat([pair[which] for pair in maps]).flatten()
                found[f"qa_{name}"] = values.quantile(0.9)
                found[f"qb_{name}"] = values.quantile(0.995)
        self.model.quantiles.update(found)
        self.mark("quantiles")


AUG = 2
TRUNK = False
STUDENT = 1e-3


def trunk(network: SmallPatchDescriptionNetwork, images: Tensor) -> Tensor:
    head, network.conv4 = network.conv4, nn.Identity()
    try:
        return network(images)
    finally:
        network.conv4 = head


def targets(source: Any, images: Tensor) -> Tensor:
    doubled = F.interpolate(images, scale_factor=2, mode="bilinear")
    features = list(source(backbone.normalise(doubled)).values())
    size = features[0].shape[-2:]
    joined = torch.cat([features[0], F.interpolate(features[1], size=size, mode="bilinear")], 1)
    return joined[..., _EDGE:-_EDGE, _EDGE:-_EDGE]
