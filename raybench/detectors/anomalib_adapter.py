"""Any anomalib image model by its name, `anomalib:Dfkde`: trained by anomalib's Engine, scored by its torch model.

Its pre-processor normalises; post-processing, thresholds, metrics and pictures are left out. What a model would
download must be at hand already: a backbone it can be given comes from raybench.
"""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import Compose, Normalize, Resize

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import (
    Engine,
    ImageBatch,
    InferenceBatch,
    MemoryBankMixin,
    ModelCheckpoint,
    PreProcessor,
    image_models,
)
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import AnomalibSettings
from raybench.detectors.torch_detector import Draws, TorchDetector, to_tensor
from raybench.detectors.weights.catalog import BACKBONES, DINOV2, DINOV2_TIMM_NAME
from raybench.errors import BadScores, ModelError

PREFIX = "anomalib:"
_STRIDES = (4, 8, 16)
_SWITCHES = {"post_processor": False, "evaluator": False, "visualizer": False}


class AnyAnomalib(TorchDetector[AnomalibSettings]):
    """name: the class in `anomalib.models.image`."""

    def __init__(self, name: str, settings: AnomalibSettings, height: int, width: int, context: FitContext) -> None:
        super().__init__(settings, height, width, context)
        self.name = name
        self._pretrained = True

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote; pretrained files are not needed any more. Raises IntegrityError."""
        self._pretrained = False
        super().restore(folder)

    def build(self) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = getattr(image_models, self.name)
            ours = self._offline(kind, Path(folder))
            processor = PreProcessor(transform=Compose([Resize(self.size), *self._normalisation(kind, ours)]))
            return Wrapped(kind(pre_processor=processor, **_SWITCHES, **(ours | dict(self.settings.init))), self.size)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def _normalisation(self, kind: Any, ours: Mapping[str, Any]) -> list[Normalize]:
        """That of the model's own pre-processor; of the backbone where it is one of raybench's."""
        if "backbone" in ours:
            chosen = BACKBONES[self.settings.backbone]
            return [Normalize(chosen.mean, chosen.std)]
        whole = kind.configure_pre_processor(image_size=self.size).transform
        parts = whole.transforms if isinstance(whole, Compose) else [whole]
        return [part for part in parts if isinstance(part, Normalize)]

    def _offline(self, kind: type, folder: Path) -> dict[str, Any]:
        """Constructor arguments that give the model a backbone of raybench's, where it takes one."""
        wanted, chosen = inspect.signature(kind).parameters, self.settings.backbone
        argument = "encoder_name" if chosen == DINOV2 else "backbone"
        if argument not in wanted or argument in self.settings.init:
            return {}
        where = f"local-dir:{as_timm_folder(folder, chosen, self.context if self._pretrained else None)}"
        if chosen == DINOV2:
            return {argument: where}
        layout = BACKBONES[chosen]
        found: dict[str, Any] = {argument: where}
        if "layers" in wanted:
            default = wanted["layers"].default
            found["layers"] = layout.names(*_STRIDES[-min(len(default), len(_STRIDES)) :])
        if "layer" in wanted:
            found["layer"] = layout.names(_STRIDES[-1])[0]
        return found

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        for name in ("lightning", "lightning.pytorch", "lightning_fabric.utilities.rank_zero", "timm", "anomalib"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine = Engine(
                **_length(module.inner, self.settings.steps),
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=[torch.cuda.current_device()] if self.device.type == "cuda" else 1,  # 1: would be the first GPU
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[ModelCheckpoint(save_top_k=0)],
                default_root_dir=folder,
            )
            engine.fit(module.inner, train_dataloaders=_Batches(images, self.settings.batch, context))
        module.to(self.device)
        self.details = {"anomalib_model": self.name}
        if self.settings.backbone == DINOV2:
            digest = context.weights[DINOV2].sha256[:12]
            self.details["weights_note"] = f"DINOv2 weights from the weights store, sha256 {digest}"
        else:
            self.describe_weights(context)

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train, and make sure that what is saved is all there is. Raises ModelError when it is not."""
        super().fit(images, context)
        some = images.batch([0])
        expected = self.score(some)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            copy = AnyAnomalib(self.name, self.settings, self.height, self.width, context)
            copy.restore(Path(folder))
        if abs(copy.score(some).scores[0] - expected.scores[0]) > 1e-5 * max(1.0, abs(expected.scores[0])):
            raise ModelError(
                f"{PREFIX}{self.name} scores otherwise once loaded: its state_dict is not all of its state"
            )

    def card(self) -> Card:
        if self.settings.backbone == DINOV2:
            note = self.details["weights_note"]
            return Card(f"{PREFIX}{self.name}", DINOV2, "official", note, self.parameters(), details=self.details)
        return self.backbone_card(f"{PREFIX}{self.name}")


def _length(inner: Any, steps: int) -> dict[str, int]:
    """A model that only collects features sees every image once."""
    return {"max_epochs": 1} if isinstance(inner, MemoryBankMixin) else {"max_steps": steps, "max_epochs": -1}


class Wrapped(nn.Module):
    """anomalib's Lightning module as a map from (B, 3, H, W) in [0, 1] to scores (B,) and maps (B, H, W)."""

    def __init__(self, inner: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor) -> InferenceBatch:
        """Raises BadScores on a number of scores that is not that of the images, or without a heat map."""
        found = self.inner.model(self.inner.pre_processor(images))
        if found.pred_score is None or found.pred_score.numel() != len(images):
            count = 0 if found.pred_score is None else found.pred_score.numel()
            raise BadScores(f"{type(self.inner).__name__} gives {count} scores for {len(images)} images")
        if found.anomaly_map is None:
            return InferenceBatch(pred_score=found.pred_score.flatten(), anomaly_map=None)
        maps = found.anomaly_map.reshape(len(images), 1, *found.anomaly_map.shape[-2:])
        if maps.shape[-2:] != self.size:
            maps = F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)
        return InferenceBatch(pred_score=found.pred_score.flatten(), anomaly_map=maps)


class _Batches:
    """A dataloader: seeded batches of OK images, one round per epoch."""

    def __init__(self, images: TrainImages, size: int, context: FitContext) -> None:
        self._images, self._size = images, min(size, len(images))
        self._draws = Draws(len(images), context.seed)

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    def __iter__(self) -> Iterator[ImageBatch]:
        for _ in range(len(self)):
            batch = to_tensor(self._images.batch(self._draws.take(self._size)), torch.device("cpu"))
            count, _, height, width = batch.shape
            labels, masks = torch.zeros(count, dtype=torch.bool), torch.zeros(count, height, width, dtype=torch.bool)
            yield ImageBatch(image=batch, gt_label=labels, gt_mask=masks)


def as_timm_folder(folder: Path, name: str, context: FitContext | None) -> Path:
    """The backbone in timm's own form, for models that load it by themselves. context: None for random weights.

    The folder has the network's name: some models look for "vit" or "small" in it.
    """
    timm_name = DINOV2_TIMM_NAME if name == DINOV2 else BACKBONES[name].timm_name
    target = folder / timm_name
    target.mkdir()
    tensors = {key: tensor.contiguous() for key, tensor in _state(name, context).items()}
    (target / "model.safetensors").write_bytes(save(tensors))
    classes = 0 if name == DINOV2 else 1000
    about = {"architecture": timm_name, "num_classes": classes, "pretrained_cfg": {"num_classes": classes}}
    (target / "config.json").write_text(json.dumps(about))
    return target


def _state(name: str, context: FitContext | None) -> Mapping[str, Tensor]:
    if name == DINOV2:
        if context is None:
            return backbone.random_state(DINOV2_TIMM_NAME)
        state: Mapping[str, Tensor] = torch.load(context.weights[DINOV2].path, map_location="cpu", weights_only=True)
        return state
    return (backbone.classifier(name) if context is None else backbone.whole(name, context)).state_dict()
