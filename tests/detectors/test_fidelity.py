"""Our adapters score as anomalib's own Engine does: same weights, same images, same scores and maps.

Where anomalib's class does not take the default backbone the check is done on one that it takes (fastflow: resnet18),
or the difference is one of design, listed in docs/fidelity.md (reverse_distillation's decoder, cflow's reference).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import Compose, Identity, Normalize

from raybench.detectors import backbone, draem, registry
from raybench.detectors.anomalib_adapter import as_timm_folder
from raybench.detectors.anomalib_parts import Engine, ImageBatch, ModelCheckpoint, PreProcessor, image_models
from raybench.detectors.protocol import Scored
from raybench.detectors.registry import InputSize
from raybench.detectors.settings import DraemSettings
from raybench.detectors.torch_detector import to_tensor
from raybench.detectors.weights.catalog import BACKBONES, LITE0
from tests.support.fitting import CONFIG, CONTEXT, SIZE, Images, fitted_once

LITE = BACKBONES[LITE0]
NORMALISE: Any = Normalize(LITE.mean, LITE.std)

# Of each model: anomalib's class, its arguments, and how our tensors are called there.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "padim": ("Padim", {"layers": LITE.names(4, 8, 16), "n_features": 16}, {"model.": ""}),
    "patchcore": ("Patchcore", {"layers": LITE.names(8, 16)}, {"model.": ""}),
    "dfm": ("Dfm", {"layer": LITE.names(16)[0]}, {"model.": ""}),
    "stfpm": (
        "Stfpm",
        {"layers": LITE.names(4, 8, 16)},
        {"model.teacher.": "teacher_model.", "model.student.": "student_model."},
    ),
    "supersimplenet": (
        "Supersimplenet",
        {"layers": LITE.names(8, 16)},
        {
            "model.teacher.": "feature_extractor.feature_extractor.",
            "model.to_map.": "anomaly_map_generator.",
            "model.": "",
        },
    ),
    "cflow": ("Cflow", {"layers": LITE.names(8, 16, 32), "coupling_blocks": 2}, {"model.flow.": ""}),
    "fastflow": (
        "Fastflow",
        {"backbone": "resnet18", "pre_trained": False, "flow_steps": 2},
        {"model.teacher.feature_": "feature_", "model.norms.": "norms.", "model.blocks.": "fast_flow_blocks."},
    ),
    "efficient_ad": (
        "EfficientAd",
        {"teacher_out_channels": 152},
        {"student.": "student.", "ae.": "ae.", "mean_std.": "mean_std.", "quantiles.": "quantiles."},
    ),
    "draem": (
        "Draem",
        {},
        {"repair.": "reconstructive_subnetwork.", "find.": "discriminative_subnetwork."},
    ),
}
CHANGES: dict[str, dict[str, Any]] = {
    "fastflow": {"backbone": "resnet18"},
    "draem": {"width": 32},  # hardly trained, narrower ones amplify the rounding of a batch
}
LEFT_AS_FITTED = {"padim", "patchcore", "dfm", "stfpm", "efficient_ad"}
"""Models whose detectors the test only reads."""
OURS = {"highest", "centre", "spread"}
UNNORMALISED = ("efficient_ad", "draem")


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_timm_folder(tmp_path_factory.mktemp("lite0"), LITE0, CONTEXT)


def engine_in(folder: Path, **options: Any) -> Engine:
    """anomalib's Engine without a word."""
    for name in ("lightning.pytorch", "lightning_fabric.utilities.rank_zero", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return Engine(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(save_top_k=0)], default_root_dir=folder, **options,
    )  # fmt: skip


def batches_of(images: Images) -> Any:
    """Training images for the Engine, one by one."""
    batches: Any = [ImageBatch(image=to_tensor(images.batch([at]), torch.device("cpu"))) for at in range(len(images))]
    return torch.utils.data.DataLoader(batches, batch_size=None)


def engines_scores(model: Any, images: Tensor, folder: Path) -> Scored:
    """What `Engine.predict` says of images (B, 3, H, W) in [0, 1], one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = engine_in(folder)
        batches: Any = [ImageBatch(image=image) for image in torch.split(images, 1)]
        loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)
        found: Any = engine.predict(model, dataloaders=loader, return_predictions=True)
    scores = np.array([batch.pred_score.double().item() for batch in found])
    maps = np.concatenate([batch.anomaly_map.reshape(1, *images.shape[2:]).numpy() for batch in found])
    return Scored(scores, maps)


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        prefix = next((ours for ours in names if name.startswith(ours)), None)
        if prefix is not None:
            found[names[prefix] + name.removeprefix(prefix)] = tensor
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_scores_are_those_of_anomalibs_engine(
    name: str, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_name, arguments, names = CASES[name]
    height, width = SIZE.get(name, (64, 96))
    spec = registry.resolve(name, CONFIG[name] | CHANGES.get(name, {}), "cpu")
    if name == "fastflow":
        monkeypatch.setattr(backbone, "pretrain", lambda *rest: None)
        monkeypatch.setattr(backbone, "note", lambda *rest: "random")
    detector: Any
    if name in LEFT_AS_FITTED:
        detector = fitted_once(name).detector
    else:
        detector = registry.create(spec, InputSize(height, width), CONTEXT)
        detector.fit(Images(8, height, width), CONTEXT)
    unseen = Images(3, height, width, seed=1).pixels

    if name == "draem":
        arguments = {"dtd_dir": tmp_path}
        narrow_draem(monkeypatch, CHANGES["draem"]["width"])
    elif "backbone" not in arguments and name != "efficient_ad":
        arguments = arguments | {"backbone": f"local-dir:{backbone_folder}"}
    normalise = Identity() if name in UNNORMALISED else NORMALISE
    if name == "fastflow":
        chosen = BACKBONES["resnet18"]
        normalise = Normalize(chosen.mean, chosen.std)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        processor = PreProcessor(transform=Compose([normalise]))
        monkeypatch.setattr(image_models.Fastflow, "input_size", (height, width), raising=False)
        theirs = getattr(image_models, class_name)(
            pre_processor=processor, post_processor=False, evaluator=False, visualizer=False, **arguments
        )
    if name == "supersimplenet":  # standardised features are ours alone
        detector.module.model.centre.zero_()
        detector.module.model.spread.fill_(1)
    state = renamed(detector.module.state_dict(), names)
    missing, unexpected = theirs.model.load_state_dict(state, strict=False)
    # All that we have is theirs too; what they have besides is blocks of the backbone that nobody reads.
    assert {key for key in unexpected if key not in OURS} == set()
    if name == "efficient_ad":  # a backbone teaches in place of their network
        theirs.model.teacher = detector.module.teacher
        missing = [key for key in missing if not key.startswith("teacher.")]
        monkeypatch.setattr(detector.module.autoencoder_share, "data", torch.tensor(0.5))  # what scores shares it
    assert all(".blocks." in key or ".layer4." in key for key in missing)
    if name == "efficient_ad":  # convolutions round differently in another layout, by more than what is compared here
        theirs.model.to(memory_format=torch.channels_last)

    expected = engines_scores(theirs, to_tensor(unseen, torch.device("cpu")), tmp_path)
    found = detector.score(unseen)
    assert found.heatmaps is not None
    assert expected.heatmaps is not None
    if name == "cflow":
        # Theirs is relative to each batch's most likely place; so is ours, once its reference is that place.
        found = relative_to_each_image(detector, unseen)
    assert found.heatmaps is not None
    scale = np.abs(expected.heatmaps).max()
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


def narrow_draem(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Let anomalib build DRAEM of another width, which is no argument of its class."""
    from anomalib.models.image.draem import torch_model

    for network, of_width in (("ReconstructiveSubNetwork", width), ("DiscriminativeSubNetwork", width // 2)):
        monkeypatch.setattr(torch_model, network, partial(getattr(torch_model, network), base_width=of_width))


def test_draem_is_as_wide_as_anomalibs() -> None:
    from anomalib.models.image.draem.torch_model import DraemModel

    with torch.device("meta"):  # a hundred million weights that nobody reads
        theirs, ours = DraemModel().state_dict(), draem.Repairer(DraemSettings().width).state_dict()
    shapes = {name: tensor.shape for name, tensor in renamed(ours, CASES["draem"][2]).items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.items()}


def relative_to_each_image(detector: Any, images: np.ndarray) -> Scored:
    """CFLOW's scores against the highest likelihood of each image, the map's own minimum taken as 0."""
    parts = []
    model = detector.module.model
    for image in images:
        model.highest.fill_(-torch.inf)
        one = image[np.newaxis]
        with torch.no_grad():
            model.note_highest(detector.module.normalise(to_tensor(one, torch.device("cpu"))))
        parts.append(detector.score(one).heatmaps[0])
    maps = np.stack([part - part.min() for part in parts])
    return Scored(maps.max(axis=(1, 2)).astype(np.float64), maps)


def test_dfm_is_fitted_as_anomalibs_engine_fits_it(backbone_folder: Path, tmp_path: Path) -> None:
    """Training through the Engine, not only scoring: PCA has no randomness."""
    images = Images(8, 64, 96)
    detector: Any = registry.create(registry.resolve("dfm", {}), InputSize(64, 96), CONTEXT)
    detector.fit(images, CONTEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = image_models.Dfm(
            backbone=f"local-dir:{backbone_folder}", layer=LITE.names(16)[0],
            pre_processor=PreProcessor(transform=Compose([NORMALISE])), post_processor=False, evaluator=False,
            visualizer=False,
        )  # fmt: skip
        engine_in(tmp_path).fit(theirs, train_dataloaders=batches_of(images))
    unseen = Images(3, 64, 96, seed=1).pixels
    expected = engines_scores(theirs, to_tensor(unseen, torch.device("cpu")), tmp_path / "predict")
    np.testing.assert_allclose(detector.score(unseen).scores, expected.scores, rtol=1e-4)
