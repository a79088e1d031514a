"""EfficientAD-S (Batzner et al. 2023, arXiv:2303.14535): anomalib's model, losses and maps, with another teacher.

anomalib downloads its teacher and the ImageNette images that keep the student from generalising. Here both come from
the weights store, or a truncated backbone teaches (see `pdn`) and scrambled crops replace ImageNette. After the
optimiser's steps the student's last layer, which is linear, is solved in closed form, so that a short training still
gives a usable student. An autoencoder that has not learnt the features has no part in the map; without any steps there
is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone, pdn
from raybench.detectors.anomalib_parts import AutoEncoder, EfficientAdModel, InferenceBatch, reduce_tensor_elems
from raybench.detectors.crops import Crops
from raybench.detectors.device import has_tf32, tf32_convolutions, upload
from raybench.detectors.early_stopping import EarlyStopping
from raybench.detectors.natural_images import NaturalImages
from raybench.detectors.pdn import Ridge, fit_last, patches
from raybench.detectors.protocol import Card, FitContext, Provenance, TrainImages, TrainSteps
from raybench.detectors.settings import EfficientAdSettings
from raybench.detectors.torch_detector import Clock, Subset, TorchDetector, evaluated, to_tensor
from raybench.detectors.weights.catalog import LITE0
from raybench.detectors.weights.files import unpacked

_TEACHERS: Mapping[str, tuple[str, Provenance]] = {
    LITE0: ("tf_efficientnet_lite0", "imagenet"),
    "pdn-official": ("pdn-small", "official"),
}
_MAX_HELD_BACK = 4
_HARD = 0.999  # anomalib's share of the features that are not hard
_QUANTILES = {"qa": 0.9, "qb": 0.995}  # the paper's, to bring both maps to one scale
_AUTOENCODER_SHARE, _JOINT_SHARE = 0.25, 0.75  # of the time budget
_PENALTY_SHARE = 4  # of the last layer's patches of OK images, one for this number is of images that are not OK
NOT_OK_IMAGES = 20
"""Images that are not OK, of which these patches are drawn."""
_LEARNT = 0.6  # held-back loss of an autoencoder that counts; 1 is that of the mean


class EfficientAd(TorchDetector[EfficientAdSettings]):
    """EfficientAD-S."""

    scores_by_peak = True

    min_images = 4

    def build(self) -> nn.Module:
        teacher = pdn.BackboneTeacher() if self.settings.teacher == LITE0 else pdn.Pdn(pdn.OFFICIAL_CHANNELS)
        has_steps = self.settings.autoencoder_steps + self.settings.steps > 0
        return Model(teacher, has_autoencoder=has_steps).to(memory_format=torch.channels_last)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        chosen, clock = self.settings, Clock(context.budget_s, context.device)
        order = np.random.default_rng(context.seed).permutation(len(images)).tolist()
        held_back = order[: max(1, min(_MAX_HELD_BACK, len(order) // 5))]
        kept = order[len(held_back) :]
        crops = Crops(Subset(images, kept), chosen.crop_px, context.seed, self.device)
        self.details = self._teach(module.teacher, context)
        unseen = to_tensor(images.batch(held_back), self.device)
        seen = to_tensor(images.batch(kept[: chosen.remembered]), self.device)
        training = StudentTraining(module, seen, unseen, context.seed, chosen.lr)
        not_ok = self._not_ok(crops, context)
        if module.ae is not None:
            self.details |= self._optimise(training, clock, not_ok, context)
            loss = self.details["autoencoder_loss"]
            module.autoencoder_share.fill_(0.5 if loss < _LEARNT else 0.0)
        training.solve_last_layer(not_ok)
        _set_quantiles(module, unseen)

    def _optimise(
        self, training: StudentTraining, clock: Clock, not_ok: Callable[[int], Tensor], context: FitContext
    ) -> dict[str, Any]:
        """Take the optimiser's steps of both phases. Returns details for the card."""
        chosen = self.settings
        alone, joint = training.autoencoder_stopping, training.joint_stopping
        steps = alone.steps(clock.steps(chosen.autoencoder_steps, _AUTOENCODER_SHARE), chosen.autoencoder_steps)
        alone_steps = training.train_autoencoder(steps)
        steps = joint.steps(clock.steps(chosen.steps, _JOINT_SHARE), chosen.steps)
        joint_steps = training.train_jointly(steps, not_ok)
        planned = chosen.autoencoder_steps + chosen.steps
        budget_s = context.budget_s if clock.stopped_early else None
        details = {
            "autoencoder_steps": alone_steps,
            "steps": joint_steps,
            "stopped_on_plateau": alone.reached or joint.reached,
            "stopped_by_budget": clock.stopped_early,
            "train_steps": asdict(TrainSteps(alone_steps + joint_steps, planned, budget_s)),
            "autoencoder_loss": training.autoencoder_loss(),
        }
        return details | ({"tf32": True} if has_tf32(context.device) else {})

    def _not_ok(self, crops: Crops, context: FitContext) -> Callable[[int], Tensor]:
        """Return a function that draws N images (N, 3, h, w) in [0, 1] that are not OK."""
        if self.settings.not_ok == "line":
            return crops.scrambled
        folder = unpacked(context.weights[self.settings.not_ok])
        return NaturalImages(folder, self.height, self.width, context.seed, self.device).take

    def _teach(self, teacher: pdn.BackboneTeacher | pdn.Pdn, context: FitContext) -> dict[str, Any]:
        """Load the teacher's weights. Returns details for the card."""
        if isinstance(teacher, pdn.BackboneTeacher):
            teacher.pretrain(context)
            return {"teacher": f"truncated, {backbone.note(LITE0, context)}"}
        file = context.weights[self.settings.teacher]
        teacher.pretrain(file)
        return {"teacher": f"{self.settings.teacher} from the weights store, sha256 {file.sha256[:12]}"}

    def card(self) -> Card:
        not_ok = {"line": "scrambled crops of the line", "imagenette": "ImageNette"}[self.settings.not_ok]
        note = f"teacher: {self.details['teacher']}; images that are not OK: {not_ok}"
        loss = self.details.get("autoencoder_loss")
        if loss is None:
            note += "; without an autoencoder, because no steps were asked for"
        elif loss >= _LEARNT:
            note += f"; its autoencoder has not learnt (loss {loss:.2f} of 1), so the map is the student's alone"
        network, provenance = _TEACHERS[self.settings.teacher]
        return Card(
            "efficient_ad",
            network,
            provenance,
            note,
            self.parameters(),
            details=self.details,
            steps=self.train_steps(),
        )


class Model(EfficientAdModel):
    """anomalib's model, which does not copy constants to the device or read values of it in every step.

    Args:
        teacher: Its teacher.
        has_autoencoder: Without one the map is the student's alone, and the student imitates the teacher only.
    """

    ae: Any
    """The autoencoder, or None."""

    autoencoder_share: Tensor
    """Weight of the autoencoder's map in the anomaly map, scalar: 0.5 in the paper, 0 if it has not learnt."""

    def __init__(self, teacher: pdn.BackboneTeacher | pdn.Pdn, *, has_autoencoder: bool = True) -> None:
        nn.Module.__init__(self)  # anomalib's draws the weights of networks that are replaced here
        channels = teacher.channels
        self.pad_maps = True
        self.register_buffer("autoencoder_share", torch.tensor(0.5))
        self.teacher = teacher.eval()  # type: ignore[assignment]
        self.student = pdn.Pdn(2 * channels if has_autoencoder else channels)
        self.ae = Autoencoder(channels) if has_autoencoder else None
        self.teacher_out_channels = channels
        self.mean_std = nn.ParameterDict({name: torch.zeros(1, channels, 1, 1) for name in ("mean", "std")})
        names = [f"{name}_{kind}" for kind in ("st", "ae") for name in _QUANTILES]
        self.quantiles = nn.ParameterDict({name: torch.tensor(0.0) for name in names})

    def _normalize_teacher(self, teacher_output: Tensor) -> Tensor:
        standardised: Tensor = (teacher_output - self.mean_std["mean"]) / self.mean_std["std"]
        return standardised

    def forward(self, batch: Tensor, batch_imagenet: Tensor | None = None, normalize: bool = True) -> Any:
        """Return the losses in training, and otherwise scores and maps of images (B, 3, H, W) in [0, 1]."""
        if self.training:
            return super().forward(batch, batch_imagenet, normalize)
        if self.ae is None:
            anomaly_map = self.student_map(batch, normalize)
        else:
            student, autoencoder = self.get_maps(batch, normalize)
            anomaly_map = student + self.autoencoder_share * (autoencoder - student)
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)

    def student_map(self, batch: Tensor, normalize: bool) -> Tensor:
        """Return the first map of `get_maps`, the student's against the teacher: (B, 1, H, W)."""
        _, distance = self.compute_student_teacher_distance(batch)
        padded = F.pad(distance.mean(1, keepdim=True), (4, 4, 4, 4))
        anomaly_map = F.interpolate(padded, size=batch.shape[-2:], mode="bilinear")
        low, high = self.quantiles["qa_st"], self.quantiles["qb_st"]
        return 0.1 * (anomaly_map - low) / (high - low) if normalize else anomaly_map

    def compute_losses(
        self, batch: Tensor, batch_imagenet: Tensor, distance_st: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of the student against the teacher, of the autoencoder, and of one against the other."""
        channels = self.teacher_out_channels
        distances = reduce_tensor_elems(distance_st)
        hard = distances >= torch.quantile(distances, _HARD)
        penalty = self.student(batch_imagenet)[:, :channels].square().mean()
        loss_st = (distances * hard).sum() / hard.sum() + penalty
        altered = self.choose_random_aug_image(batch)
        rebuilt = self.ae(altered, batch.shape[-2:])
        with torch.no_grad():
            taught = self._normalize_teacher(self.teacher(altered))
        copied = self.student(altered)[:, channels:]
        return loss_st, (taught - rebuilt).square().mean(), (rebuilt - copied).square().mean()


class Autoencoder(AutoEncoder):
    """anomalib's autoencoder, with its constants as buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, padding=False)
        self.normalise = pdn.Normalise()

    def forward(self, images: Tensor, image_size: tuple[int, int] | torch.Size) -> Tensor:
        """Return rebuilt features (B, channels, H/4 - 8, W/4 - 8) of images (B, 3, H, W) in [0, 1]."""
        rebuilt: Tensor = self.decoder(self.encoder(self.normalise(images)), image_size)
        return rebuilt


class StudentTraining:
    """The training of student and autoencoder on a few images, whose teacher features are kept in memory.

    Args:
        model: anomalib's model with its teacher.
        images: OK images (N, 3, H, W) in [0, 1].
        held_back: OK images that no step sees.
        seed: Seed of the order of images.
        lr: Learning rate.
    """

    def __init__(self, model: Any, images: Tensor, held_back: Tensor, seed: int, lr: float) -> None:
        self.model, self.images, self.held_back, self.lr = model, images, held_back, lr
        self.autoencoder_stopping = EarlyStopping(model.ae, self.autoencoder_loss)
        self.joint_stopping = EarlyStopping(model, self.map_loss)
        self.random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            raw = torch.cat([model.teacher(image) for image in images.split(1)])  # type: ignore[no-untyped-call]
            mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
            self.features = (raw - mean) / std
        model.mean_std.update({"mean": mean, "std": std})

    def autoencoder_loss(self) -> float:
        """Return the autoencoder's squared error on the held-back images; features have a variance of 1."""
        return self._held_back_loss(self._autoencoder_loss)

    def map_loss(self) -> float:
        """Return the sum of the means of both maps on the held-back images."""
        return self._held_back_loss(self._map_loss)

    def _held_back_loss(self, loss: Callable[[Tensor], Tensor]) -> float:
        """Return the mean of `loss` over the held-back images, without dropout."""
        with torch.no_grad(), evaluated(self.model):
            return float(torch.stack([loss(image) for image in self.held_back.split(1)]).mean())  # type: ignore[no-untyped-call]

    def _autoencoder_loss(self, image: Tensor) -> Tensor:
        """Return the squared error of the autoencoder against the teacher's features."""
        mean, std = (self.model.mean_std[name] for name in ("mean", "std"))
        return F.mse_loss(self.model.ae(image, image.shape[-2:]), (self.model.teacher(image) - mean) / std)

    def _map_loss(self, image: Tensor) -> Tensor:
        """Return the sum of the means of both maps."""
        return torch.stack([anomaly_map.mean() for anomaly_map in self.model.get_maps(image)]).sum()

    def train_autoencoder(self, steps: Iterable[int]) -> int:
        """Train the autoencoder alone on the teacher's features. Returns the steps done."""
        autoencoder = self.model.ae.train()
        optimiser = torch.optim.Adam(autoencoder.parameters(), lr=self.lr)

        def loss(index: Tensor) -> Tensor:
            return F.mse_loss(autoencoder(self.images[index], self.images.shape[-2:]), self.features[index])

        return self._train(optimiser, loss, steps)

    def train_jointly(self, steps: Iterable[int], not_ok: Callable[[int], Tensor]) -> int:
        """Train student and autoencoder by the paper's losses. Returns the steps done.

        The losses are those of hard features, of the penalty on `not_ok` images and of the student against the
        autoencoder.
        """
        self.model.train()
        parameters = [*self.model.student.parameters(), *self.model.ae.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=self.lr)

        def loss(index: Tensor) -> Tensor:
            parts = self.model(self.images[index], not_ok(1))
            return torch.stack(list(parts)).sum()

        return self._train(optimiser, loss, steps)

    @tf32_convolutions()
    def _train(
        self, optimiser: torch.optim.Optimizer, loss_of: Callable[[Tensor], Tensor], steps: Iterable[int]
    ) -> int:
        done = 0
        for _ in steps:
            index = torch.randint(len(self.images), (1,), generator=self.random)
            loss = loss_of(upload(index, self.images.device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
        return done

    def solve_last_layer(self, not_ok: Callable[[int], Tensor]) -> None:
        """Solve the student's last layer in closed form.

        On OK images it predicts the features of teacher and autoencoder; on images of `not_ok` it predicts 0, as the
        paper's penalty asks.
        """
        student, ridge = self.model.eval().student, Ridge()
        with torch.no_grad():
            for index in range(len(self.images)):
                image = self.images[index : index + 1]
                targets = self.features[index : index + 1]
                if self.model.ae is not None:
                    targets = torch.cat([targets, self.model.ae(image, image.shape[-2:])], 1)
                rows, drawn = self._draw_patches(image, pdn.ROWS // len(self.images))
                ridge.add(rows, pdn.rows_of(targets)[drawn])
            for _ in range(NOT_OK_IMAGES):
                rows, _ = self._draw_patches(not_ok(1), pdn.ROWS // _PENALTY_SHARE // NOT_OK_IMAGES)
                ridge.add(rows, rows.new_zeros(len(rows), student.conv4.out_channels))
            fit_last(student.conv4, ridge, pdn.STRENGTH)

    def _draw_patches(self, image: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return inputs of the student's last layer at most `count` random places of an image, and these places."""
        rows = patches(pdn.trunk(self.model.student, image), pdn.KERNEL)
        drawn = upload(torch.randperm(len(rows), generator=self.random)[:count], rows.device)
        return rows[drawn], drawn


def _set_quantiles(model: Any, held_back: Tensor) -> None:
    """Set the quantiles of each map to those of OK images that no step saw."""
    quantiles: dict[str, Tensor] = {}
    with torch.no_grad():
        of_images = [
            model.get_maps(image) if model.ae is not None else (model.student_map(image, normalize=False),)
            for image in held_back.split(1)  # type: ignore[no-untyped-call]
        ]
        for kind, maps in zip(("st", "ae"), zip(*of_images, strict=True), strict=False):
            values = torch.cat(maps).flatten()
            quantiles |= {f"{name}_{kind}": values.quantile(share) for name, share in _QUANTILES.items()}
    model.quantiles.update(quantiles)
