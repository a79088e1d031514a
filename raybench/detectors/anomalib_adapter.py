"""Any image model of anomalib by name, `anomalib:Dfkde`: trained by anomalib's Engine, scored by its torch model.

Its pre-processor normalises; post-processing, thresholds, metrics and visualisation are off. A model cannot download:
if its constructor takes a backbone, it gets one of raybench's.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
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
from raybench.detectors.protocol import Card, FitContext, TrainImages, TrainSteps
from raybench.detectors.settings import AnomalibSettings
from raybench.detectors.torch_detector import Draws, TorchDetector, to_tensor
from raybench.detectors.weights.catalog import BACKBONES, TRANSFORMERS
from raybench.errors import BadScores, ModelError

PREFIX = "anomalib:"
_STRIDES = (4, 8, 16)
_KINDS = ("vit", "dino", "small", "base", "large", "giant")
_SWITCHES = {"post_processor": False, "evaluator": False, "visualizer": False}


class AnyAnomalib(TorchDetector[AnomalibSettings]):
    """An image model of anomalib. `name` is the class in `anomalib.models.image`."""

    def __init__(self, name: str, settings: AnomalibSettings, height: int, width: int, context: FitContext) -> None:
        super().__init__(settings, height, width, context)
        self.name = name
        self._pretrained = True

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote, without pretrained files. Raises IntegrityError for any other content."""
        self._pretrained = False
        super().restore(folder)

    def build(self) -> nn.Module:
        with neutral_folder() as folder, self._no_download(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model_class = getattr(image_models, self.name)
            offline = self._offline_arguments(model_class, Path(folder))
            transforms = [Resize(self.size), *self._normalisation(model_class, offline)]
            processor = PreProcessor(transform=Compose(transforms))
            model = model_class(pre_processor=processor, **_SWITCHES, **(offline | dict(self.settings.init)))
            return Wrapped(model, self.size)

    @contextlib.contextmanager
    def _no_download(self) -> Iterator[None]:
        """Let torch's hub refuse what it does not hold while the block runs. Raises ModelError."""

        def refuse(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
            raise ModelError(f"{PREFIX}{self.name} needs {url}, and downloads nothing: put the file at {dst}")

        download = torch.hub.download_url_to_file
        torch.hub.download_url_to_file = refuse
        try:
            yield
        finally:
            torch.hub.download_url_to_file = download

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.height, self.width

    def _normalisation(self, model_class: Any, offline: Mapping[str, Any]) -> list[Normalize]:
        """Return the backbone's normalisation if the model gets one of raybench's, else the model's own."""
        if "backbone" in offline:
            chosen = BACKBONES[self.settings.backbone]
            return [Normalize(chosen.mean, chosen.std)]
        whole = model_class.configure_pre_processor(image_size=self.size).transform
        parts = whole.transforms if isinstance(whole, Compose) else [whole]
        return [part for part in parts if isinstance(part, Normalize)]

    def _offline_arguments(self, model_class: type, folder: Path) -> dict[str, Any]:
        """Return constructor arguments that replace a backbone that would be downloaded."""
        parameters, chosen = inspect.signature(model_class).parameters, self.settings.backbone
        argument = self._backbone_argument(model_class)
        if argument is None:
            return {}
        location = f"local-dir:{as_timm_folder(folder, chosen, self.context if self._pretrained else None)}"
        arguments: dict[str, Any] = {argument: location}
        if chosen in TRANSFORMERS:
            return arguments
        layout = BACKBONES[chosen]
        if "layers" in parameters:
            default = parameters["layers"].default or _STRIDES[1:]  # Glass chooses its two by itself
            arguments["layers"] = layout.names(*_STRIDES[-min(len(default), len(_STRIDES)) :])
        if "layer" in parameters:
            arguments["layer"] = layout.names(_STRIDES[-1])[0]
        return arguments

    def _backbone_argument(self, model_class: type) -> str | None:
        """Return the constructor's argument that takes raybench's backbone. None for a network of the model's own."""
        parameters = inspect.signature(model_class).parameters
        names = ("encoder_name", "backbone") if self.settings.backbone in TRANSFORMERS else ("backbone",)
        argument = next((name for name in names if name in parameters), None)
        return None if argument in self.settings.init else argument

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        for name in ("lightning", "lightning.pytorch", "lightning_fabric.utilities.rank_zero", "timm", "anomalib"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine = Engine(
                **_duration(module.inner, self.settings.steps),
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=[torch.cuda.current_device()] if self.device.type == "cuda" else 1,  # 1 is the first GPU
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[ModelCheckpoint(save_top_k=0)],
                default_root_dir=folder,
            )
            engine.fit(module.inner, train_dataloaders=_Batches(images, self.settings.batch, context))
        module.to(self.device)
        self.details = {"anomalib_model": self.name}
        if not isinstance(module.inner, MemoryBankMixin):
            self.details["train_steps"] = asdict(TrainSteps(engine.trainer.global_step, self.settings.steps))
        self.describe_weights(context)

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train, and check that a saved copy scores the same. Raises ModelError if the model keeps state elsewhere."""
        super().fit(images, context)
        image = images.batch([0])
        expected = self.score(image)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            copy = AnyAnomalib(self.name, self.settings, self.height, self.width, context)
            copy.restore(Path(folder))
        if abs(copy.score(image).scores[0] - expected.scores[0]) > 1e-5 * max(1.0, abs(expected.scores[0])):
            raise ModelError(
                f"{PREFIX}{self.name} scores otherwise once loaded: its state_dict is not all of its state"
            )

    def arrange(self, module: nn.Module) -> nn.Module:
        return module  # it may hold what cannot be copied

    def card(self) -> Card:
        card = self.backbone_card(f"{PREFIX}{self.name}")
        if self._backbone_argument(getattr(image_models, self.name)) is None:
            note = "what anomalib's class or its arguments name; raybench does not know it"
            return replace(card, backbone="anomalib's own", provenance="own", weights_note=note)
        return card


def _duration(inner: Any, steps: int) -> dict[str, int]:
    """Return the length of training: one epoch for a model that only collects features, else the steps."""
    return {"max_epochs": 1} if isinstance(inner, MemoryBankMixin) else {"max_steps": steps, "max_epochs": -1}


class Wrapped(nn.Module):
    """A Lightning module of anomalib that maps images (B, 3, H, W) in [0, 1] to scores (B,) and maps (B, 1, H, W)."""

    def __init__(self, inner: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score a batch. Raises BadScores if the number of scores is not that of the images."""
        output = self.inner.model(self.inner.pre_processor(images))
        if output.pred_score is None or output.pred_score.numel() != len(images):
            count = 0 if output.pred_score is None else output.pred_score.numel()
            raise BadScores(f"{type(self.inner).__name__} gives {count} scores for {len(images)} images")
        if output.anomaly_map is None:
            return InferenceBatch(pred_score=output.pred_score.flatten(), anomaly_map=None)
        maps = output.anomaly_map.reshape(len(images), 1, *output.anomaly_map.shape[-2:])
        if maps.shape[-2:] != self.size:
            maps = F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)
        return InferenceBatch(pred_score=output.pred_score.flatten(), anomaly_map=maps)


class _Batches:
    """A dataloader of seeded batches of OK images; an epoch is one round."""

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


def neutral_folder() -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder whose path names no kind of network.

    anomalib's models look for such words in a backbone's name, and the name of a local backbone is its path: at
    `/tmp/tmpr75vitmy/tf_efficientnet_lite0` they expect a vision transformer.

    Raises:
        ModelError: The folder of all temporary files has such a word in its own path.
    """
    parent = tempfile.gettempdir()
    if found := [word for word in _KINDS if word in parent.lower()]:
        raise ModelError(
            f"anomalib would take the {found[0]!r} in {parent}, the folder of temporary files, for a kind of network; "
            "set TMPDIR to another folder"
        )
    while True:
        folder = tempfile.TemporaryDirectory()
        if not any(word in folder.name.lower() for word in _KINDS):
            return folder
        folder.cleanup()


def as_timm_folder(folder: Path, name: str, context: FitContext | None) -> Path:
    """Write a backbone in timm's format, for models that load it by themselves.

    Args:
        folder: Where to create the backbone's folder.
        name: Name of the backbone.
        context: Holds the weights. None writes random ones.

    Returns:
        The backbone's folder. It has the network's name, because some models look for "vit" or "small" in it.
    """
    timm_name = BACKBONES[name].timm_name
    target = folder / timm_name
    target.mkdir()
    tensors = {key: tensor.contiguous() for key, tensor in _state(name, context).items()}
    (target / "model.safetensors").write_bytes(save(tensors))
    shape: dict[str, Any] = {"num_classes": 1000}
    if name in TRANSFORMERS:  # the size that the encodings of positions are of; timm would resample them to another
        shape = {"num_classes": 0, "input_size": (3, 518, 518), "fixed_input_size": True}
    description = {"architecture": timm_name, "num_classes": shape["num_classes"], "pretrained_cfg": shape}
    (target / "config.json").write_text(json.dumps(description))
    return target


def _state(name: str, context: FitContext | None) -> Mapping[str, Tensor]:
    return (backbone.classifier(name) if context is None else backbone.whole(name, context)).state_dict()
