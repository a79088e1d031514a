"""Base of Dinomaly and INP-Former: a decoder learns to rebuild the middle features of a frozen vision transformer.

Optimiser, schedule and first values are anomalib's. Its Engine moves the learning rate once an epoch; the authors and
raybench once a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import StableAdamW, WarmCosineScheduler, image_models, random_weights
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop_with

_FALL = 10  # times that the learning rate is lower at the end
_WARM_UP = 10  # one step of so many, if these are fewer than anomalib's 100
DecoderSettings = TypeVar("DecoderSettings", bound=Any)


class TransformerDecoder(TorchDetector[DecoderSettings]):
    """A detector around a model of anomalib with an `encoder` and parts that are trained."""

    name: ClassVar[str]
    """Name of the model."""
    parts: ClassVar[tuple[str, ...]]
    """The parts of anomalib's model that are trained."""
    recipe: ClassVar[Mapping[str, Any]]
    """anomalib's settings of the optimiser, the schedule and the trainer."""

    def model(self, timm_name: str) -> nn.Module:
        """Return anomalib's model on a network of timm."""
        raise NotImplementedError

    def trained(self, model: nn.Module) -> nn.ModuleList:
        """Return the parts that are trained."""
        return nn.ModuleList(getattr(model, part) for part in self.parts)

    def loss(self, model: Any, images: Tensor, step: int) -> Tensor:
        """Return the loss of normalised images at a step of the training."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        with random_weights():
            model: Any = self.model(backbone.layout(self.settings.backbone).timm_name)
        backbone.trim(model.encoder)
        image_models.Dinomaly._initialize_trainable_modules(self.trained(model))
        return backbone.Normalised(model, self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        model, chosen = module.model, self.settings
        backbone.pretrain(model.encoder, chosen.backbone, context)
        model.requires_grad_(False)
        weights = list(self.trained(model).requires_grad_(True).parameters())
        optimiser = StableAdamW(weights, **self.recipe["optimizer"] | {"lr": chosen.lr})
        warm_up = min(self.recipe["scheduler"]["warmup_iters"], chosen.steps // _WARM_UP)
        schedule = WarmCosineScheduler(optimiser, chosen.lr, chosen.lr / _FALL, chosen.steps, warm_up)

        def loss(batch: Tensor) -> Tensor:
            with torch.enable_grad():  # anomalib's losses hook into the gradient, on held-back images too
                return self.loss(model, module.normalise(batch), schedule.last_epoch)

        def step(batch: Tensor) -> Tensor:
            value = loss(batch)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, self.recipe["trainer"]["gradient_clip_val"])
            optimiser.step()
            schedule.step()
            return value.detach()

        history = train_loop_with(module, step, lambda batch: loss(batch).detach(), images, chosen, context)
        self.details = history.details()
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card(self.name)
