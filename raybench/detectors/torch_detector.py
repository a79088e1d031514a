"""What torch detectors share: images in, checked scores out, one file of tensors, steps within a budget."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.device import own_draws
from raybench.detectors.protocol import Card, Detector, FitContext, Images, Scored, TrainImages, checked
from raybench.detectors.weights.catalog import BACKBONES
from raybench.errors import IntegrityError, LineError, ModelError

TENSORS_FILE = "model.safetensors"
_CHUNK_PX = 8 * 256 * 256  # images of one forward pass: bounds the memory of scoring on any batch
SettingsT = TypeVar("SettingsT", bound=Any)


class ModelOutput(Protocol):
    """What anomalib's torch models return in eval mode (`anomalib.data.InferenceBatch`)."""

    pred_score: Tensor
    anomaly_map: Tensor | None


class TorchDetector(Detector, Generic[SettingsT]):
    """A detector around one module that maps (B, 3, H, W) in [0, 1] to a `ModelOutput` in eval mode.

    The module is built by `fit` (after seeding: constructors draw random numbers) or by `restore`.
    """

    min_images = 2

    def __init__(self, settings: SettingsT, height: int, width: int, context: FitContext) -> None:
        self.settings = settings
        self.height, self.width = height, width
        self.context = context
        self.device = torch.device(context.device)
        self.details: dict[str, Any] = {}
        self._module: nn.Module | None = None

    @property
    def module(self) -> nn.Module:
        if self._module is None:
            raise ModelError(f"{type(self).__name__} is neither fitted nor restored")
        return self._module

    def build(self) -> nn.Module:
        """The module with random weights."""
        raise NotImplementedError

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        """Fit the module in place."""
        raise NotImplementedError

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train on OK images. Raises LineError when there are too few of them."""
        if len(images) < self.min_images:
            raise LineError(f"{type(self).__name__} needs at least {self.min_images} OK images, got {len(images)}")
        self.context, self.device = context, torch.device(context.device)
        torch.set_num_threads(context.threads)
        with own_draws():
            torch.manual_seed(context.seed)
            module = self.build().to(self.device)
            self.train(module, images, context)
        self._module = module.eval().requires_grad_(False)

    def score(self, images: Images) -> Scored:
        """Raw scores and heat maps. Raises ModelError on another size, BadScores on NaN or infinity."""
        if images.dtype != np.uint8 or images.shape[1:] != (self.height, self.width, 3):
            raise ModelError(f"expected (B, {self.height}, {self.width}, 3) uint8, got {images.shape} {images.dtype}")
        torch.set_num_threads(self.context.threads)
        step = max(1, _CHUNK_PX // (self.height * self.width))
        scores = np.empty(len(images), np.float64)
        maps: npt.NDArray[np.float32] | None = np.empty(images.shape[:3], np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                found: ModelOutput = self.module(to_tensor(images[part], self.device))
                scores[part] = found.pred_score.reshape(-1).double().cpu().numpy()
                if found.anomaly_map is None:
                    maps = None
                elif maps is not None:
                    maps[part] = found.anomaly_map.reshape(-1, self.height, self.width).float().cpu().numpy()
        return checked(Scored(scores, maps), len(images))

    def save(self, folder: Path) -> None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.state_dict().items()}
        # Not `save_file`: of a full disk it tells in an error of its own kind.
        (folder / TENSORS_FILE).write_bytes(save(state, metadata={"details": json.dumps(self.details)}))

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote. Raises IntegrityError when it does not fit."""
        with own_draws():
            module = self.build()
        try:
            with safe_open(folder / TENSORS_FILE, "pt") as file:
                self.details = json.loads(file.metadata()["details"])
                module.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, RuntimeError) as error:
            raise IntegrityError(f"{folder / TENSORS_FILE}: {error}") from error
        self._module = module.to(self.device).eval().requires_grad_(False)

    def describe_weights(self, context: FitContext) -> None:
        """Keep, for the card, where the backbone's weights come from."""
        self.details["weights_note"] = backbone.note(self.settings.backbone, context)

    def backbone_card(self, name: str, *, note: str = "", bank: int = 0) -> Card:
        """The card of a model over `settings.backbone`; `note` goes behind that of the weights."""
        chosen = self.settings.backbone
        about = "; ".join(filter(None, (self.details["weights_note"], note)))
        layout = BACKBONES[chosen]
        return Card(name, layout.timm_name, layout.provenance, about, self.parameters(), bank, self.details)

    def parameters(self) -> int:
        """Count of all parameters, the backbone's included."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def to_tensor(images: Images, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1]; read-only arrays (Ray's) are copied."""
    owned = images if images.flags.writeable else images.copy()
    return torch.from_numpy(owned).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()


def in_batches(images: TrainImages, size: int, device: torch.device) -> Iterator[Tensor]:
    """All images once, in order: (B, 3, H, W) float32 in [0, 1]."""
    for start in range(0, len(images), size):
        yield to_tensor(images.batch(range(start, min(start + size, len(images)))), device)


@contextlib.contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """While the block runs, `module` and its parts are in eval mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class Subset:
    """Some of the training images."""

    def __init__(self, images: TrainImages, indices: Sequence[int]) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Sequence[int]) -> Images:
        return self._images.batch([self._indices[index] for index in indices])


class Clock:
    """Optimiser steps against the budget of `FitContext`."""

    def __init__(self, budget_s: float | None) -> None:
        self._budget_s = budget_s
        self.stopped_early = False

    def steps(self, count: int, share: float = 1.0) -> Iterator[int]:
        """0, 1, ... `count` - 1, or fewer when they have taken `share` of the budget (noted in `stopped_early`)."""
        started = time.monotonic()
        for step in range(count):
            if self._budget_s is not None and time.monotonic() - started > share * self._budget_s:
                self.stopped_early = True
                return
            yield step


class Draws:
    """Seeded draws of training images: every image once per round, in a new order each round."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self.rng = np.random.default_rng(seed)
        self._left: list[int] = []

    def take(self, size: int) -> list[int]:
        while len(self._left) < size:
            self._left += self.rng.permutation(self._count).tolist()
        taken, self._left = self._left[:size], self._left[size:]
        return taken
