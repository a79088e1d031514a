"""EfficientAD-S (Batzner et al. 2023, arXiv:2303.14535): anomalib's model, losses and maps, with a teacher of our own.

anomalib downloads its teacher and the ImageNette images that keep the student from generalising. Here both come from
the weights store; or the teacher is distilled on the spot (see `pdn`), and scrambled crops stand for ImageNette.
The student's last layer is linear, and solved in closed form after the optimiser's steps, so that a short training is
not wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import pdn
from raybench.detectors.anomalib_parts import EfficientAdModel
from raybench.detectors.crops import Crops
from raybench.detectors.early_stopping import EarlyStopping
from raybench.detectors.natural_images import NaturalImages
from raybench.detectors.protocol import Card, FitContext, Provenance, TrainImages
from raybench.detectors.ridge_regression import Ridge, fit_last, patches
from raybench.detectors.settings import EfficientAdSettings
from raybench.detectors.torch_detector import Clock, Subset, TorchDetector, evaluated, to_tensor
from raybench.detectors.weights.catalog import LITE0
from raybench.detectors.weights.files import unpacked

_HELD_BACK = 4
_QUANTILES = {"qa": 0.9, "qb": 0.995}  # the paper's, for putting both maps on one scale
_DISTIL, _AUTOENCODE, _JOIN = 0.5, 0.25, 0.25  # shares of the budget


class EfficientAd(TorchDetector[EfficientAdSettings]):
    min_images = 4

    def build(self) -> nn.Module:
        official = self.settings.teacher == "pdn-official"
        model: nn.Module = EfficientAdModel(pdn.OFFICIAL_CHANNELS if official else pdn.CHANNELS)
        return model.to(memory_format=torch.channels_last)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        chosen, clock = self.settings, Clock(context.budget_s)
        order = np.random.default_rng(context.seed).permutation(len(images)).tolist()
        held = order[: max(1, min(_HELD_BACK, len(order) // 5))]
        crops = Crops(Subset(images, order[len(held) :]), chosen.crop_px, context.seed, self.device)
        self.details = self._teach(module.teacher, crops, clock, context)
        kept = order[len(held) :][: chosen.remembered]
        unseen = to_tensor(images.batch(held), self.device)
        pair = _Pair(module, to_tensor(images.batch(kept), self.device), unseen, context.seed, chosen.lr)
        steps = pair.alone.steps(clock.steps(chosen.autoencoder_steps, _AUTOENCODE), chosen.autoencoder_steps)
        self.details["autoencoder_steps"] = pair.autoencode(steps)
        steps = pair.together.steps(clock.steps(chosen.steps, _JOIN), chosen.steps)
        self.details["steps"] = pair.join(steps, self._not_ok(crops, context))
        self.details["stopped_on_plateau"] = pair.alone.reached or pair.together.reached
        self.details["stopped_by_budget"] = clock.stopped_early
        pair.close()
        _set_quantiles(module, unseen)

    def _not_ok(self, crops: Crops, context: FitContext) -> Callable[[int], Tensor]:
        """Draws of images (N, 3, h, w) in [0, 1] that are not OK."""
        if self.settings.not_ok == "line":
            return crops.scrambled
        folder = unpacked(context.weights[self.settings.not_ok])
        return NaturalImages(folder, self.height, self.width, context.seed, self.device).take

    def _teach(self, teacher: Any, crops: Crops, clock: Clock, context: FitContext) -> dict[str, Any]:
        chosen = self.settings
        if chosen.teacher == "line":
            steps = clock.steps(chosen.distil_steps, _DISTIL)
            return pdn.distil(
                teacher, pdn.DistillationData(crops, crops, steps, chosen.distil_steps, chosen.lr), context
            )
        file = context.weights[chosen.teacher]
        pdn.load(teacher, chosen.teacher, file)
        return {"teacher_sha256": file.sha256}

    def card(self) -> Card:
        not_ok = {"line": "scrambled crops of the line", "imagenette": "ImageNette"}[self.settings.not_ok]
        note = f"{self._teacher_note()}; images that are not OK: {not_ok}"
        provenance: Provenance = "official" if self.settings.teacher == "pdn-official" else "distilled"
        return Card("efficient_ad", "pdn-small", provenance, note, self.parameters(), details=self.details)

    def _teacher_note(self) -> str:
        if self.settings.teacher == "line":
            loss = self.details["distil_loss"]
            return f"teacher distilled from {LITE0} on the line's own OK images, loss {loss:.2f} of 1"
        return f"teacher {self.settings.teacher} from the weights store, sha256 {self.details['teacher_sha256'][:12]}"


class _Pair:
    """Student and autoencoder in training, on a few remembered images and their teacher features. held: images
    (N, 3, H, W) that no step sees. alone, together: the ends of the autoencoder's steps and of both's."""

    def __init__(self, model: Any, images: Tensor, held: Tensor, seed: int, lr: float) -> None:
        self.model, self.images, self.held, self.lr = model, images, held, lr
        self.alone = EarlyStopping(model.ae, lambda: self._unseen(self._apart))
        self.together = EarlyStopping(model, lambda: self._unseen(self._darkness))
        self.random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            raw = torch.cat([model.teacher(one) for one in images.split(1)])  # type: ignore[no-untyped-call]
            mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
            self.features = (raw - mean) / std
        model.mean_std.update({"mean": mean, "std": std})

    def _unseen(self, loss: Callable[[Tensor], Tensor]) -> float:
        """The mean of `loss` over images that no step sees, without dropout."""
        with torch.no_grad(), evaluated(self.model):
            return float(torch.stack([loss(one) for one in self.held.split(1)]).mean())  # type: ignore[no-untyped-call]

    def _apart(self, image: Tensor) -> Tensor:
        """How far the autoencoder is from the teacher's features."""
        mean, std = (self.model.mean_std[name] for name in ("mean", "std"))
        return F.mse_loss(self.model.ae(image, image.shape[-2:]), (self.model.teacher(image) - mean) / std)

    def _darkness(self, image: Tensor) -> Tensor:
        """Mean of both maps."""
        return torch.stack([each.mean() for each in self.model.get_maps(image)]).sum()

    def autoencode(self, steps: Iterable[int]) -> int:
        """The autoencoder alone, towards the teacher's features. Returns the steps done."""
        autoencoder = self.model.ae.train()
        optimiser = torch.optim.Adam(autoencoder.parameters(), lr=self.lr)

        def loss(at: Tensor) -> Tensor:
            return F.mse_loss(autoencoder(self.images[at], self.images.shape[-2:]), self.features[at])

        return self._descend(optimiser, loss, steps)

    def join(self, steps: Iterable[int], not_ok: Callable[[int], Tensor]) -> int:
        """Both together by the paper's losses: hard features, penalty, student against autoencoder."""
        self.model.train()
        parameters = [*self.model.student.parameters(), *self.model.ae.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=self.lr)

        def loss(at: Tensor) -> Tensor:
            parts = self.model(self.images[at], not_ok(1))
            return torch.stack(list(parts)).sum()

        return self._descend(optimiser, loss, steps)

    def _descend(
        self, optimiser: torch.optim.Optimizer, loss_of: Callable[[Tensor], Tensor], steps: Iterable[int]
    ) -> int:
        done = 0
        for _ in steps:
            loss = loss_of(torch.randint(len(self.images), (1,), generator=self.random))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
        return done

    def close(self) -> None:
        """Solve the student's last layer for the teacher's features and the autoencoder's."""
        student = self.model.eval().student
        ridge, share = Ridge(), pdn.ROWS // len(self.images)
        with torch.no_grad():
            for at in range(len(self.images)):
                image = self.images[at : at + 1]
                wanted = torch.cat([self.features[at : at + 1], self.model.ae(image, image.shape[-2:])], 1)
                rows = patches(pdn.trunk(student, image), pdn.KERNEL)
                some = torch.randperm(len(rows), generator=self.random)[:share].to(rows.device)
                ridge.add(rows[some], pdn.rows_of(wanted)[some])
            fit_last(student.conv4, ridge, pdn.STRENGTH)


def _set_quantiles(model: Any, held: Tensor) -> None:
    """Where each map's values lie on OK images that nothing was trained on."""
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        pairs = [model.get_maps(one) for one in held.split(1)]  # type: ignore[no-untyped-call]
        for at, which in enumerate(("st", "ae")):
            values = torch.cat([pair[at] for pair in pairs]).flatten()
            found |= {f"{name}_{which}": values.quantile(share) for name, share in _QUANTILES.items()}
    model.quantiles.update(found)
