"""A network of timm with a file of the user's own: settings, errors with remedies, and equality with anomalib's."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from raybench.cli import app
from raybench.data.geometry import GREY, InputFit, box_of, padding_of
from raybench.detectors import backbone, onnx_file, registry, weights
from raybench.detectors.anomalib_parts import PadimModel, PatchcoreModel
from raybench.detectors.onnx_graph import Source, write_onnx
from raybench.detectors.protocol import FitContext
from raybench.detectors.registry import InputSize
from raybench.detectors.settings import TimmBackbone
from raybench.detectors.torch_detector import to_tensor
from raybench.errors import ExperimentError, InputError, WeightsCorrupt, WeightsMissing
from raybench.store import open_store
from tests.support.fitting import CONTEXT, Images, maps_of

MODELS = ("padim", "patchcore", "dfm", "stfpm", "reverse_distillation")
STEPS = {"stfpm": {"steps": 1, "batch": 2}, "reverse_distillation": {"steps": 1, "batch": 2}}
FIT = InputFit("native", 64, 96)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]


def network(timm_name: str) -> torch.nn.Module:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        model: torch.nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=3).eval()
    return model


def held(timm_name: str, folder: Path, **further: Any) -> tuple[dict[str, Any], FitContext]:
    """Put a random network into a weights store. Returns the setting that names it, and a context with its file."""
    buffer = io.BytesIO()
    torch.save(network(timm_name).state_dict(), buffer)
    store = open_store(str(folder / "shelf"))
    here = weights.add(store, "press", buffer.getvalue(), own_file="press.pth")
    setting = {"timm_name": timm_name, "weights": "press", "sha256": here.sha256, "mean": MEAN, "std": STD} | further
    return setting, replace(CONTEXT, weights=weights.fetch({"press": here.sha256}, store, folder / "node"))


@pytest.mark.parametrize(
    ("name", "timm_name"), [*((name, "test_resnet") for name in MODELS), ("patchcore", "test_convnext")]
)
def test_models_take_any_network_of_timm(name: str, timm_name: str, tmp_path: Path) -> None:
    setting, context = held(timm_name, tmp_path, licence="Apache-2.0")
    spec = registry.resolve(name, {"backbone": setting} | STEPS.get(name, {}), "cpu")
    assert spec.weights == {"press": setting["sha256"]}
    assert registry.licences(name, spec.weights, spec.config)["its weights `press`"] == "Apache-2.0"
    detector = registry.create(spec, InputSize(64, 96), context)
    detector.fit(Images(6, 64, 96), context)
    card = detector.card()
    assert (card.backbone, card.provenance) == (timm_name, "own")
    assert "'press'" in card.weights_note
    assert "ImageNet" not in card.weights_note
    folder = tmp_path / "saved"
    folder.mkdir()
    registry.save_detector(detector, spec, InputSize(64, 96), folder)
    unseen = Images(2, 64, 96, seed=1).pixels
    again = registry.load(folder, "cpu", 1).score(unseen)  # needs no weights store
    scored = detector.score(unseen)
    np.testing.assert_allclose(again.scores, scored.scores, rtol=1e-5)

    source = Source(64, 96, 3, None, astuple(box_of(FIT, 64, 96)), padding_of(FIT), None, GREY)
    write_onnx(detector, source, None, tmp_path / "exported.onnx")
    exported = onnx_file.onnx_scorer(tmp_path / "exported.onnx").score(unseen[0])
    np.testing.assert_allclose(exported.score, scored.scores[0], rtol=1e-3)


@pytest.mark.parametrize(
    "timm_name",
    ["test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_convnext", "densenet121", "resnetv2_18"],
)
def test_features_are_those_of_the_whole_network(timm_name: str, tmp_path: Path) -> None:
    setting, context = held(timm_name, tmp_path)
    chosen = TimmBackbone(**setting)
    cut = backbone.extractor(chosen, 8, 16)
    backbone.pretrain(cut, chosen, context)
    whole = network(timm_name)
    seen: list[torch.Tensor] = []
    for layer in backbone.layout(chosen).names(8, 16):
        whole.get_submodule(layer).register_forward_hook(lambda module, given, out: seen.append(out))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        whole(images)
        for ours, theirs in zip(cut(images).values(), seen, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["padim", "patchcore"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (128, 96)])
def test_scores_are_those_of_anomalibs_model(name: str, height: int, width: int, tmp_path: Path) -> None:
    setting, context = held("test_resnet", tmp_path)
    config = {"padim": {"n_features": 16}, "patchcore": {"pool_rows": 600}}[name]
    detector: Any = registry.create(
        registry.resolve(name, {"backbone": setting} | config, "cpu"), InputSize(height, width), context
    )
    detector.fit(Images(8, height, width), context)
    layers = ["layer1", "layer2", "layer3"]
    with torch.random.fork_rng():
        theirs: Any = (
            PadimModel("test_resnet", layers, pre_trained=False, n_features=16)
            if name == "padim"
            else PatchcoreModel(layers[1:], "test_resnet", pre_trained=False)
        ).eval()
    trunk = network("test_resnet").state_dict()
    state = detector.module.model.state_dict()
    for key in theirs.feature_extractor.feature_extractor.state_dict():
        torch.testing.assert_close(state[f"feature_extractor.feature_extractor.{key}"], trunk[key])
    theirs.load_state_dict(state)
    unseen = Images(3, height, width, seed=1).pixels
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = theirs((to_tensor(unseen, torch.device("cpu")) - mean) / std)
    found = detector.score(unseen)
    maps = expected.anomaly_map.reshape(3, height, width).numpy()
    assert np.abs(maps_of(found) - maps).max() <= 1e-4 * np.abs(maps).max()
    np.testing.assert_allclose(found.scores, expected.pred_score.flatten().numpy(), rtol=1e-4)


def test_strides_of_your_own(tmp_path: Path) -> None:
    setting, context = held("test_resnet", tmp_path, strides=[4, 8])
    detector: Any = registry.create(registry.resolve("padim", {"backbone": setting}), InputSize(64, 64), context)
    detector.fit(Images(4, 64, 64), context)
    assert detector.module.model.feature_extractor.layers == ["layer1", "layer2"]


FULL = {"timm_name": "test_resnet", "weights": "press", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("padim", {"timm_name": "test_resnett"}, "did you mean 'test_resnet'"),
        ("padim", {"timm_name": "hf-hub:someone/net"}, "unknown network of timm"),
        ("padim", {"timm_name": "vit_tiny_patch16_224"}, "for a vision transformer"),
        ("padim", {"sha256": "abc"}, r"backbone\.sha256"),
        ("padim", {"stride": [4]}, r"unknown setting 'backbone\.stride'; did you mean 'strides'"),
        ("padim", {"strides": [8, 4]}, "strides rise"),
        ("padim", {"std": [0.1, 0.1]}, r"backbone\.std"),
        ("padim", {"std": [0.1, 0.0, 0.1]}, r"backbone\.std"),
        ("padim", {"weights": "resnet18"}, "choose another"),
        ("padim", {"weights": "a/b"}, "letters, digits"),
        ("dfm", {"strides": [8, 16]}, "name one stride"),
        ("reverse_distillation", {"strides": [4, 16]}, "strides double"),
    ],
)
def test_settings_that_cannot_be_are_told_without_torch(name: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ExperimentError, match=told):
        registry.resolve(name, {"backbone": FULL | change})
    assert registry.resolve(name, {"backbone": FULL}).weights == {"press": "0" * 64}


def test_what_is_not_given_is_named() -> None:
    with pytest.raises(ExperimentError, match=r"backbone\.sha256 is missing"):
        registry.resolve("padim", {"backbone": {"timm_name": "test_resnet", "weights": "press"}})
    with pytest.raises(ExperimentError, match=r"backbone: input should be 'efficientnet-lite0'.*not 'resnet10t'"):
        registry.resolve("padim", {"backbone": "resnet10t"})


def test_a_file_that_is_missing_or_another_names_the_remedy(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create()
    with pytest.raises(WeightsMissing, match="raybench weights add press FILE --own --to"):
        weights.resolve({"press": "0" * 64}, store)
    here = weights.add(store, "press", b"one", own_file="press.pth")
    with pytest.raises(WeightsCorrupt, match=f"{here.sha256}, expected 0+….*--replace"):
        weights.resolve({"press": "0" * 64}, store)
    assert weights.resolve({"press": here.sha256}, store) == {"press": here.sha256}
    with pytest.raises(InputError, match="choose another"):
        weights.add(store, "code", b"one", own_file="press.pth")


@pytest.mark.parametrize("data", [b"no tensors", save({"conv1.weight": torch.zeros(1)})])
def test_a_file_of_another_network_is_refused(data: bytes, tmp_path: Path) -> None:
    file = f"net.{'pth' if data == b'no tensors' else 'safetensors'}"
    store = open_store(str(tmp_path / "shelf"))
    here = weights.add(store, "press", data, own_file=file)
    context = FitContext(weights=weights.fetch({"press": here.sha256}, store, tmp_path))
    config = registry.resolve("padim", {"backbone": FULL | {"sha256": here.sha256}}).config
    with pytest.raises(WeightsCorrupt, match=r"no file of tensors|lack .* of timm's test_resnet"):
        registry.check_backbone("padim", config, context)


def test_strides_that_the_network_lacks_are_found_by_the_check(tmp_path: Path) -> None:
    setting, context = held("test_convnext", tmp_path)
    config = registry.resolve("padim", {"backbone": setting | {"strides": [2, 4]}}).config
    with pytest.raises(InputError, match=r"no features of stride 2, but those of 4, 8, 16, 32"):
        registry.check_backbone("padim", config, context)
    registry.check_backbone("padim", registry.resolve("padim", {"backbone": setting}).config, context)


def test_the_command_line_takes_a_file_of_ones_own(tmp_path: Path) -> None:
    runner, shelf = CliRunner(), str(tmp_path / "shelf")
    file = tmp_path / "press.safetensors"
    file.write_bytes(save({"one": torch.zeros(1)}))
    assert runner.invoke(app, ["weights", "add", "press", str(file), "--to", shelf]).exit_code != 0
    added = runner.invoke(app, ["weights", "add", "press", str(file), "--own", "--to", shelf])
    assert hashlib.sha256(file.read_bytes()).hexdigest() in added.output
    assert "press" in runner.invoke(app, ["weights", "list", "--to", shelf]).output
    renamed = file.rename(tmp_path / "renamed.safetensors")
    assert runner.invoke(app, ["weights", "add", "press", str(renamed), "--own", "--to", shelf]).exit_code == 0
    assert [held.file for held in weights.stored(open_store(shelf)).values()] == ["renamed.safetensors"]
