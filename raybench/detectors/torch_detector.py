"""Base class of the torch detectors, and helpers for their training: batches, draws and the time budget."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from raybench.detectors import backbone, inference
from raybench.detectors.device import own_draws, synchronize, upload
from raybench.detectors.protocol import (
    Card,
    Detector,
    DeviceScored,
    FitContext,
    Images,
    Scored,
    TrainImages,
    TrainSteps,
    checked,
)
from raybench.errors import IntegrityError, LineError, ModelError, is_out_of_memory

TENSORS_FILE = "model.safetensors"
_CHUNK_PX = {"cpu": 8 * 256 * 256, "cuda": 64 * 256 * 256}
"""The most pixels of one forward pass by type of device, so that memory does not grow with the batch."""
_STEPS_PER_WAIT = 50
SettingsT = TypeVar("SettingsT", bound=Any)


class ModelOutput(Protocol):
    """The output of anomalib's torch models in eval mode (`anomalib.data.InferenceBatch`)."""

    pred_score: Tensor
    """(B,) or (B, 1) scores."""
    anomaly_map: Tensor | None
    """(B, 1, H, W) or (B, H, W) heat maps, or None."""


class TorchDetector(Detector, Generic[SettingsT]):
    """A detector around one torch module.

    In eval mode the module maps images (B, 3, H, W) in [0, 1] to a `ModelOutput`. `fit` builds it after seeding,
    because constructors draw random numbers; `restore` builds it too. A subclass defines `build`, `train` and `card`.
    """

    min_images = 2
    """The least number of OK images to train on."""

    def __init__(self, settings: SettingsT, height: int, width: int, context: FitContext) -> None:
        self.settings = settings
        self.height, self.width = height, width
        self.context = context
        self.device = torch.device(context.device)
        self.details: dict[str, Any] = {}
        self._chunk_px = _CHUNK_PX.get(self.device.type, _CHUNK_PX["cpu"])
        self._module: nn.Module | None = None
        self._scorer: nn.Module | None = None

    @property
    def module(self) -> nn.Module:
        """The fitted module. Raises ModelError before `fit` or `restore`."""
        if self._module is None:
            raise ModelError(f"{type(self).__name__} is neither fitted nor restored")
        return self._module

    @property
    def scorer(self) -> nn.Module:
        """The fitted module as it computes scores. Raises ModelError before `fit` or `restore`."""
        return self.module if self._scorer is None else self._scorer

    def build(self) -> nn.Module:
        """Return the module with random weights."""
        raise NotImplementedError

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        """Fit the module in place."""
        raise NotImplementedError

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train on OK images. Raises LineError if there are too few."""
        if len(images) < self.min_images:
            raise LineError(f"{type(self).__name__} needs at least {self.min_images} OK images, got {len(images)}")
        self.context, self.device = context, torch.device(context.device)
        torch.set_num_threads(context.threads)
        with own_draws():
            torch.manual_seed(context.seed)
            module = self.build().to(self.device)
            self.train(module, images, context)
        self._finish(module)

    def _finish(self, module: nn.Module) -> None:
        self._module = module.eval().requires_grad_(False)
        self._scorer = self.arrange(self._module)

    def arrange(self, module: nn.Module) -> nn.Module:
        """Return what computes scores in place of the fitted module."""
        return inference.arranged(module, self.device)

    def score(self, images: Images) -> Scored:
        """Return raw scores and heat maps. Raises ModelError for another size, BadScores for NaN or infinity."""
        scored = self.score_on_device(self.upload(images))
        maps = None if scored.heatmaps is None else scored.heatmaps.cpu().numpy()
        return checked(Scored(scored.scores.cpu().numpy(), maps), len(images))

    def upload(self, images: Images) -> Tensor:
        """Return images as a uint8 tensor on the device. Raises ModelError for another size."""
        if images.dtype != np.uint8 or images.shape[1:] != (self.height, self.width, 3):
            raise ModelError(f"expected (B, {self.height}, {self.width}, 3) uint8, got {images.shape} {images.dtype}")
        return _on(images, self.device)

    def score_on_device(self, images: Tensor) -> DeviceScored:
        """Score images (B, H, W, 3) uint8 on the device, without waiting for it."""
        torch.set_num_threads(self.context.threads)
        scores: list[Tensor] = []
        maps: list[Tensor] = []
        start = 0
        with torch.inference_mode():
            while start < len(images):
                part = images[start : start + self._chunk(self.height * self.width)]
                try:
                    output: ModelOutput = self.scorer(to_float(part))
                except (RuntimeError, MemoryError) as error:
                    if not self._halve_chunk(error, len(part)):
                        raise
                    continue
                start += len(part)
                scores.append(output.pred_score.reshape(-1).double())
                if output.anomaly_map is not None:
                    maps.append(output.anomaly_map.reshape(-1, self.height, self.width).float())
        return DeviceScored(torch.cat(scores), torch.cat(maps) if len(maps) == len(scores) else None)

    def _chunk(self, pixels_per_image: int) -> int:
        """Return how many images to score in one forward pass."""
        return max(1, self._chunk_px // pixels_per_image)

    def _halve_chunk(self, error: Exception, images: int) -> bool:
        """Halve the chunk for good if memory ran out.

        Args:
            error: What the forward pass raised.
            images: Number of images of that pass.

        Returns:
            Whether to try again. False for one image, and for any other error.
        """
        if images == 1 or not is_out_of_memory(error):
            return False
        self._chunk_px = images // 2 * self.height * self.width
        return True

    def save(self, folder: Path) -> None:
        """Write the module's tensors and the details of training into one safetensors file."""
        # Copies, because safetensors refuses tensors that share memory: anomalib's SuperADD holds its network twice.
        state = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in self.module.state_dict().items()}
        # `save_file` raises an error of its own for a full disk, not OSError.
        (folder / TENSORS_FILE).write_bytes(save(state, metadata={"details": json.dumps(self.details)}))

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote. Raises IntegrityError for any other content."""
        with own_draws():
            module = self.build()
        try:
            with safe_open(folder / TENSORS_FILE, "pt") as file:
                self.details = json.loads(file.metadata()["details"])
                module.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, RuntimeError) as error:
            raise IntegrityError(f"{folder / TENSORS_FILE}: {error}") from error
        self._finish(module.to(self.device))

    def describe_weights(self, context: FitContext) -> None:
        """Note the origin of the backbone's weights for the card."""
        self.details["weights_note"] = backbone.note(self.settings.backbone, context)

    def backbone_card(self, name: str, *, note: str = "", bank: int = 0) -> Card:
        """Return the card of a model on `settings.backbone`.

        Args:
            name: Name of the model.
            note: Further words after the origin of the weights.
            bank: Rows of the memory bank.
        """
        chosen = self.settings.backbone
        weights_note = "; ".join(filter(None, (self.details["weights_note"], note)))
        layout = backbone.layout(chosen)
        return Card(
            name,
            layout.timm_name,
            layout.provenance,
            weights_note,
            self.parameters(),
            bank,
            self.details,
            steps=self.train_steps(),
        )

    def train_steps(self) -> TrainSteps | None:
        """Return the optimiser steps of its training for the card. None for a model without an optimiser."""
        found = self.details.get("train_steps")
        return None if found is None else TrainSteps(**found | {"enough": self.settings.ENOUGH_STEPS})

    def parameters(self) -> int:
        """Return the number of all parameters, the backbone's included."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def to_tensor(images: Images, device: torch.device) -> Tensor:
    """Convert images (B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1]. Read-only arrays, as Ray's, are copied."""
    return to_float(_on(images, device))


def _on(images: Images, device: torch.device) -> Tensor:
    return upload(torch.from_numpy(images if images.flags.writeable else images.copy()), device)


def to_float(pixels: Tensor) -> Tensor:
    """Convert pixels (B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()


@contextlib.contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Keep `module` and its parts in eval mode while the block runs."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class Subset:
    """A subset of the training images, by index."""

    def __init__(self, images: TrainImages, indices: Sequence[int]) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Sequence[int]) -> Images:
        return self._images.batch([self._indices[index] for index in indices])


class Clock:
    """Limits optimiser steps to a time budget.

    Args:
        budget_s: The budget of `FitContext` in seconds.
        device: Device of the steps. A GPU is waited for every 50 steps, because launches run ahead of it.
    """

    def __init__(self, budget_s: float | None, device: str = "cpu") -> None:
        self._budget_s, self._device = budget_s, device
        self.stopped_early = False

    def steps(self, count: int, share: float = 1.0) -> Iterator[int]:
        """Yield 0 to `count` - 1 until `share` of the budget is used; then set `stopped_early`."""
        started = time.monotonic()
        for step in range(count):
            if self._budget_s is not None:
                if step % _STEPS_PER_WAIT == 0:
                    synchronize(self._device)
                if time.monotonic() - started > share * self._budget_s:
                    self.stopped_early = True
                    return
            yield step


class Draws:
    """Seeded draws of indices: every index once per round, in a new order each round."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self.rng = np.random.default_rng(seed)
        self._left: list[int] = []

    def take(self, size: int) -> list[int]:
        """Return the next `size` indices."""
        while len(self._left) < size:
            self._left += self.rng.permutation(self._count).tolist()
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield the next `size` indices again and again."""
        while True:
            yield self.take(size)
