"""The models on vision transformers: equal to anomalib's Engine at three sizes of input, on random weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torchvision.transforms.v2 import Compose, Normalize

from raybench.detectors import registry, transformer_decoder
from raybench.detectors.anomalib_adapter import neutral_folder
from raybench.detectors.anomalib_parts import (
    DINOMALY_TRAINING,
    INP_FORMER_TRAINING,
    ImageBatch,
    PreProcessor,
    image_models,
)
from raybench.detectors.registry import InputSize
from raybench.detectors.torch_detector import Draws, to_tensor
from raybench.detectors.training import train_loop_with
from raybench.detectors.weights.catalog import BACKBONES
from raybench.errors import WeightsMissing
from tests.detectors.test_fidelity import batches_of, engine_in, engines_scores
from tests.support.dinov2 import random_file
from tests.support.fitting import CONTEXT, Images, assert_same, context_of

SIZES = ((56, 56), (56, 84), (112, 70))
THROUGH_ANOMALIB = {"backbone": "dinov2_vits14", "stride": 14, "min_side": 56}
OFF = {"post_processor": False, "evaluator": False, "visualizer": False}


@pytest.fixture(scope="module")
def folders() -> Iterator[dict[str, str]]:
    """The random files as local networks of timm, which reads its publisher's names of tensors itself."""
    with neutral_folder() as parent:
        found = {}
        for name in ("dinov2_vits14", "dinov2_vits14_reg"):
            folder = Path(parent) / BACKBONES[name].timm_name
            folder.mkdir()
            state = torch.load(random_file(name).path, weights_only=True)
            (folder / "model.safetensors").write_bytes(save({key: part.contiguous() for key, part in state.items()}))
            shape = {"num_classes": 0, "input_size": (3, 518, 518), "fixed_input_size": True}  # timm's of this network
            config = {"architecture": folder.name, "num_classes": 0, "pretrained_cfg": shape}
            (folder / "config.json").write_text(json.dumps(config))
            found[name] = f"local-dir:{folder}"
        yield found


def anomalibs(class_name: str, backbone: str, **arguments: Any) -> Any:
    normalise: Any = Normalize(BACKBONES["dinov2_vits14"].mean, BACKBONES["dinov2_vits14"].std)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        processor = PreProcessor(transform=Compose([normalise]))
        return getattr(image_models, class_name)(encoder_name=backbone, pre_processor=processor, **OFF, **arguments)


def assert_scores_as(theirs: Any, detector: Any, height: int, width: int, folder: Path) -> None:
    unseen = Images(3, height, width, seed=1).pixels
    expected = engines_scores(theirs, to_tensor(unseen, torch.device("cpu")), folder)
    found = detector.score(unseen)
    assert expected.heatmaps is not None
    scale = np.abs(expected.heatmaps).max()
    assert np.ptp(expected.heatmaps) > 1e-3 * scale
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_anomaly_dino_is_fitted_and_scores_as_anomalibs_engine(
    height: int, width: int, folders: dict[str, str], tmp_path: Path
) -> None:
    spec = registry.resolve("anomaly_dino", {})
    images = Images(3, height, width)
    detector = registry.create(spec, InputSize(height, width), context_of(spec))
    detector.fit(images, context_of(spec))
    theirs = anomalibs("AnomalyDINO", folders["dinov2_vits14"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine_in(tmp_path / "fit").fit(theirs, train_dataloaders=batches_of(images))
    assert detector.card().memory_bank == len(theirs.model.memory_bank) == 3 * height * width // 14**2
    assert_scores_as(theirs, detector, height, width, tmp_path)


DECODERS = {
    "dinomaly": ("Dinomaly", {"bottleneck_dropout": 0.0}, DINOMALY_TRAINING),
    "inp_former": ("InpFormer", {}, INP_FORMER_TRAINING),
}
SMALL = {"backbone": "dinov2_vits14_reg", "steps": 3, "batch": 2}
CHANGES = {"dinomaly": {"dropout": 0.0}, "inp_former": {}}


class Epochs:
    """Batches of two images as raybench draws them, one an epoch: the Engine moves the learning rate once an epoch."""

    def __init__(self, images: Images, seed: int) -> None:
        self._images, self._draws = images, Draws(len(images), seed)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[ImageBatch]:
        yield ImageBatch(image=to_tensor(self._images.batch(self._draws.take(2)), torch.device("cpu")))


@pytest.mark.parametrize(("height", "width"), [(56, 56), (56, 84), (98, 98)])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_decoders_are_trained_and_score_as_by_anomalibs_engine(
    name: str, height: int, width: int, folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same first values on the same batches. Without dropout, which draws otherwise."""
    class_name, arguments, recipe = DECODERS[name]
    monkeypatch.setitem(recipe["scheduler"], "warmup_iters", 0)
    spec = registry.resolve(name, SMALL | CHANGES[name])
    detector: Any = registry.create(spec, InputSize(height, width), context_of(spec))
    first: dict[str, torch.Tensor] = {}

    def noted(module: Any, *rest: Any) -> Any:
        first.update({key: value.clone() for key, value in module.model.state_dict().items()})
        return train_loop_with(module, *rest)

    monkeypatch.setattr(transformer_decoder, "train_loop_with", noted)
    images = Images(4, height, width)
    detector.fit(images, context_of(spec))

    theirs = anomalibs(class_name, folders["dinov2_vits14_reg"], **arguments)
    missing, unexpected = theirs.model.load_state_dict(first, strict=False)
    assert all(".blocks.10." in key or ".blocks.11." in key for key in missing)  # nobody reads them
    assert not unexpected
    if name == "inp_former":
        lay_out(theirs.model, height // 14, width // 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine_in(tmp_path / "fit", max_steps=3, max_epochs=-1).fit(theirs, train_dataloaders=Epochs(images, 3))
    for key, value in theirs.model.state_dict().items():
        if key not in missing:
            ours = detector.module.model.state_dict()[key]
            moved = (value - first[key]).norm()
            assert (value - ours).norm() <= 1e-3 * moved, key
            if key.startswith(("decoder", "bottleneck", "aggregation")):
                assert moved > 0, key
    assert_scores_as(theirs, detector, height, width, tmp_path)


def lay_out(model: Any, height: int, width: int) -> None:
    """Lay out the patches of anomalib's INP-Former as they are in the image: it always lays them out on a square."""
    original = model.get_encoder_decoder_inploss

    def laid_out(images: torch.Tensor) -> Any:
        encoded, decoded, loss = original(images)
        shape = (len(images), -1, height, width)
        return [each.reshape(shape) for each in encoded], [each.reshape(shape) for each in decoded], loss

    model.get_encoder_decoder_inploss = laid_out


def test_it_scores_as_anomalibs_class_by_name() -> None:
    found = []
    for name, config in (("anomaly_dino", {}), ("anomalib:AnomalyDINO", THROUGH_ANOMALIB)):
        spec = registry.resolve(name, config)
        detector = registry.create(spec, InputSize(56, 84), context_of(spec))
        detector.fit(Images(2, 56, 84), context_of(spec))
        found.append(detector.score(Images(2, 56, 84, seed=1).pixels))
    assert_same(*found)


def test_one_ok_image_fills_a_memory() -> None:
    spec = registry.resolve("anomaly_dino", {"shots": 1})
    detector = registry.create(spec, InputSize(56, 84), context_of(spec))
    detector.fit(Images(5, 56, 84), context_of(spec))
    card = detector.card()
    assert (card.memory_bank, card.details["images"]) == (24, 1)
    assert card.weights_note.startswith("DINOv2's weights of dinov2_vits14 from the weights store, sha256 ")


def test_a_missing_file_is_an_error_before_training() -> None:
    spec = registry.resolve("anomaly_dino", {})
    assert spec.weights == {"dinov2_vits14": ""}
    with pytest.raises(WeightsMissing, match="were not fetched"):
        registry.create(spec, InputSize(56, 56), CONTEXT).fit(Images(1, 56, 56), CONTEXT)
