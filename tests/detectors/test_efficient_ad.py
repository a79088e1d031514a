"""When its two trainings end, on a small model with the parts of anomalib's, and what its parts compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raybench.detectors import backbone, early_stopping
from raybench.detectors.efficient_ad import Model, StudentTraining
from raybench.detectors.pdn import BackboneTeacher, Pdn
from raybench.detectors.weights.catalog import LITE0
from tests.support.fitting import CONTEXT

CHANNELS = 4


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.Dropout(0.5))

    def forward(self, images: Tensor, size: torch.Size) -> Tensor:
        found: Tensor = self.layers(images)
        assert found.shape[-2:] == size
        return found


class SmallModel(nn.Module):
    """Images (N, 3, H, W); features (N, CHANNELS, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher = nn.Conv2d(3, CHANNELS, 1).requires_grad_(False)
        self.student, self.ae = nn.Conv2d(3, 2 * CHANNELS, 1), _Autoencoder()
        self.mean_std = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(1, CHANNELS, 1, 1), requires_grad=False) for name in ("mean", "std")}
        )

    def get_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean_std["mean"], self.mean_std["std"]
        taught, copied = self.student(images).chunk(2, 1)
        rebuilt = self.ae(images, images.shape[-2:])
        return ((self.teacher(images) - mean) / std - taught).square(), (rebuilt - copied).square()

    def forward(self, images: Tensor, not_ok: Tensor) -> tuple[Tensor, ...]:
        return (*(each.mean() for each in self.get_maps(images)), self.student(not_ok).square().mean())


@pytest.fixture(autouse=True)
def check_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_stopping, "LEAST_STEPS", 1)
    monkeypatch.setattr(early_stopping, "CHECKS", 1000)


def student_training(lr: float) -> StudentTraining:
    torch.manual_seed(1)
    images = torch.rand(6, 3, 8, 8)
    return StudentTraining(SmallModel(), images[:4], images[4:], seed=0, lr=lr)


def not_ok(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8)


def test_checks_of_held_back_images_end_no_training_that_still_improves() -> None:
    training = student_training(lr=1e-3)
    alone, joint = training.autoencoder_stopping, training.joint_stopping
    assert training.train_autoencoder(alone.steps(range(20), 20)) == 20
    assert training.train_jointly(joint.steps(range(20), 20), not_ok) == 20
    for stopping in (alone, joint):
        assert stopping.losses == sorted(stopping.losses, reverse=True)
        assert len(stopping.losses) == 19


@pytest.mark.parametrize("phase", ["autoencoder", "joint"])
def test_a_training_that_gets_worse_ends_and_restores_its_best_parameters(phase: str) -> None:
    training = student_training(lr=10.0)
    if phase == "autoencoder":
        stopping, loss = training.autoencoder_stopping, training.autoencoder_loss
        done = training.train_autoencoder(stopping.steps(range(1000), 1000))
    else:
        stopping, loss = training.joint_stopping, training.map_loss
        done = training.train_jointly(stopping.steps(range(1000), 1000), not_ok)
    best = min(range(len(stopping.losses)), key=stopping.losses.__getitem__)
    assert stopping.reached
    assert done == best + 1 + early_stopping.PATIENCE
    assert loss() == pytest.approx(stopping.losses[best], rel=1e-6)


def test_a_check_leaves_training_unchanged() -> None:
    training = student_training(lr=1e-3)
    training.model.train()
    assert training.map_loss() == training.map_loss()
    assert training.model.training
    assert training.model.ae.layers[1].training
    assert all(parameter.grad is None for parameter in training.model.parameters())


@pytest.fixture(scope="module")
def teacher() -> BackboneTeacher:
    teacher = BackboneTeacher()
    teacher.pretrain(CONTEXT)
    return teacher


def test_the_backbone_teaches_its_features_of_the_doubled_image_averaged_with_their_neighbours(
    teacher: BackboneTeacher,
) -> None:
    """The edges that unpadded convolutions of a student lose are cut off. Training leaves its batch norms alone."""
    torch.manual_seed(0)
    images = torch.rand(1, 3, 96, 128)
    extractor = backbone.extractor(LITE0, 8, 16)
    backbone.pretrain(extractor, LITE0, CONTEXT)
    doubled = nn.functional.interpolate(images, size=(192, 256), mode="bilinear")
    fine, coarse = extractor((doubled - 0.5) / 0.5).values()
    around = fine[0, :, 7:10, 9:12].mean((1, 2))  # of the cell in row 8 and column 10
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    found = teacher.train()(images)
    assert found.shape == (1, teacher.channels, 96 // 4 - 8, 128 // 4 - 8)
    torch.testing.assert_close(found[0, :40, 4, 6], around)
    assert found.shape[1] == fine.shape[1] + coarse.shape[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_has_the_size_of_its_teacher(teacher: BackboneTeacher) -> None:
    images = torch.rand(1, 3, 64, 96)
    assert Pdn(2)(images).shape[2:] == teacher(images).shape[2:]


def test_an_autoencoder_that_has_not_learnt_has_no_part_in_the_map(teacher: BackboneTeacher) -> None:
    torch.manual_seed(0)
    model = Model(teacher).eval()
    model.mean_std.update({"mean": torch.zeros(1, 152, 1, 1), "std": torch.ones(1, 152, 1, 1)})
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        student, autoencoder = model.get_maps(images, normalize=True)
        torch.testing.assert_close(model(images).anomaly_map, (student + autoencoder) / 2)
        model.autoencoder_share.fill_(0.0)
        assert torch.equal(model(images).anomaly_map, student)
        assert torch.equal(model(images).pred_score, student.amax((-2, -1)))


def test_without_an_autoencoder_the_map_is_the_students(teacher: BackboneTeacher) -> None:
    torch.manual_seed(0)
    whole, lean = Model(teacher).eval(), Model(teacher, has_autoencoder=False).eval()
    whole.autoencoder_share.fill_(0.0)
    state = whole.state_dict() | {
        name: whole.state_dict()[name][: teacher.channels] for name in ("student.conv4.weight", "student.conv4.bias")
    }
    lean.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("ae.")})
    values = {"qa_st": 0.1, "qb_st": 0.6, "qa_ae": 0.2, "qb_ae": 0.4}
    for model in (whole, lean):
        model.mean_std.update({"mean": torch.zeros(1, 152, 1, 1), "std": torch.ones(1, 152, 1, 1)})
        model.quantiles.update({name: torch.tensor(value) for name, value in values.items()})
    images = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        expected, found = whole(images), lean(images)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)
    torch.testing.assert_close(found.pred_score, expected.pred_score)
