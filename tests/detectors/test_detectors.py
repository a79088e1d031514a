"""What every detector promises, whichever it is."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from raybench.detectors import registry
from raybench.detectors.protocol import Scored, TrainSteps, checked
from raybench.detectors.registry import InputSize
from raybench.errors import BadScores, IntegrityError, LineError, ModelError
from tests.support.fitting import CONFIG, CONTEXT, REAL, Fitted, Images, assert_same, fit, fitted_once, maps_of


@pytest.fixture(scope="module", params=[*REAL, "fake"])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """Each detector in turn."""
    return fitted_once(request.param)


def test_scores_and_heat_maps(fitted: Fitted) -> None:
    found = fitted.scored
    assert found.scores.shape == (3,)
    assert found.scores.dtype == np.float64
    assert np.isfinite(found.scores).all()
    assert found.heatmaps is not None
    assert found.heatmaps.shape == (3, fitted.height, fitted.width)
    assert found.heatmaps.dtype == np.float32
    assert np.isfinite(found.heatmaps).all()
    assert found.heatmaps.std() > 0


def test_a_score_is_the_peak_of_the_heat_map_where_the_detector_says_so(fitted: Fitted) -> None:
    """Lines with regions of interest rely on it."""
    is_peak = np.array_equal(fitted.scored.scores, maps_of(fitted.scored).max(axis=(1, 2)))
    assert fitted.detector.scores_by_peak == (is_peak and fitted.name != "fake")


@pytest.mark.parametrize(("threads", "batch"), [(1, 2), (2, 1)])
def test_scores_do_not_depend_on_the_batch_or_the_threads(
    fitted: Fitted, tmp_path: Path, threads: int, batch: int
) -> None:
    registry.save_detector(fitted.detector, fitted.spec, InputSize(fitted.height, fitted.width), tmp_path)
    detector = registry.load(tmp_path, "cpu", threads)
    parts = [detector.score(fitted.unseen[at : at + batch]) for at in range(0, 3, batch)]
    scores = np.concatenate([part.scores for part in parts])
    assert_same(Scored(scores, np.concatenate([maps_of(part) for part in parts])), fitted.scored)


def test_a_loaded_detector_scores_the_same_and_takes_read_only_images(fitted: Fitted, tmp_path: Path) -> None:
    registry.save_detector(fitted.detector, fitted.spec, InputSize(fitted.height, fitted.width), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    loaded = registry.load(tmp_path, "cpu", 1)
    images = fitted.unseen.copy()
    images.flags.writeable = False
    before, after = fitted.scored, loaded.score(images)
    assert np.array_equal(before.scores, after.scores)
    assert before.heatmaps is not None
    assert after.heatmaps is not None
    assert np.array_equal(before.heatmaps, after.heatmaps)
    assert loaded.card() == fitted.detector.card()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_saved_detector_scores_the_same_on_a_gpu(fitted: Fitted, tmp_path: Path) -> None:
    """In full float32. Training is another matter: PatchCore takes other patches after the first rounding."""
    registry.save_detector(fitted.detector, fitted.spec, InputSize(fitted.height, fitted.width), tmp_path)
    expected = registry.load(tmp_path, "cpu", 1).score(fitted.unseen)
    found = registry.load(tmp_path, "cuda", 1).score(fitted.unseen)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    span = float(np.ptp(maps_of(expected)))
    np.testing.assert_allclose(maps_of(found), maps_of(expected), rtol=0, atol=1e-4 * span)


def test_damaged_files_are_noticed(fitted: Fitted, tmp_path: Path) -> None:
    registry.save_detector(fitted.detector, fitted.spec, InputSize(fitted.height, fitted.width), tmp_path)
    tensors = next(tmp_path.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        registry.load(tmp_path, "cpu", 1)
    (tmp_path / "detector.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(IntegrityError):
        registry.load(tmp_path, "cpu", 1)


def test_another_size_is_refused(fitted: Fitted) -> None:
    with pytest.raises(ModelError, match="expected"):
        fitted.detector.score(np.zeros((1, fitted.height + 32, fitted.width, 3), np.uint8))


def test_the_card_says_where_the_weights_come_from(fitted: Fitted) -> None:
    card = fitted.detector.card()
    assert card.name == ("Fake" if fitted.name == "fake" else fitted.name)  # a class of one's own has its own name
    expected = {"draem": "none", "fake": "none"} | dict.fromkeys(("anomaly_dino", "dinomaly", "inp_former"), "official")
    assert card.provenance == expected.get(fitted.name, "imagenet")
    assert card.weights_note
    assert card.parameters > 0
    json.dumps(dict(card.details), allow_nan=False)


def test_the_card_counts_the_optimisers_steps(fitted: Fitted) -> None:
    settings = CONFIG.get(fitted.name, {})
    planned = sum(
        int(count) for key, count in settings.items() if key in ("steps", "distil_steps", "autoencoder_steps")
    )
    enough = {
        "stfpm": 50,
        "supersimplenet": 120,
        "fastflow": 450,
        "draem": 2000,
        "dinomaly": 500,
        "inp_former": 300,
    }.get(fitted.name, 0)
    assert fitted.detector.card().steps == (TrainSteps(planned, planned, enough=enough) if planned else None)


def test_a_seed_gives_the_same_detector_and_nothing_keeps_it(fitted: Fitted) -> None:
    again = fit(fitted.name)
    assert np.array_equal(again.detector.score(fitted.unseen).scores, fitted.scored.scores)
    kept = weakref.ref(getattr(again.detector, "module", again.detector))
    del again
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("name", ["padim", "patchcore", "fake"])
def test_a_defect_scores_higher_where_it_is(name: str) -> None:
    fitted = fitted_once(name)
    broken = fitted.unseen[:1].copy()
    broken[0, 20:36, 40:56] = 255
    clean, found = fitted.scored, fitted.detector.score(broken)
    assert found.scores[0] > clean.scores.max()
    assert found.heatmaps is not None
    y, x = np.unravel_index(found.heatmaps[0].argmax(), found.heatmaps[0].shape)
    assert 12 <= y < 44
    assert 32 <= x < 64


@pytest.mark.parametrize("name", REAL)
def test_too_few_images_are_said(name: str) -> None:
    spec = registry.resolve(name, {})
    side = 256 // spec.stride * spec.stride
    detector = registry.create(spec, InputSize(side, side), CONTEXT)
    with pytest.raises(LineError, match="at least"):
        detector.fit(Images(0, side, side), CONTEXT)
    with pytest.raises(ModelError, match="neither fitted nor restored"):
        detector.score(np.zeros((1, side, side, 3), np.uint8))


def test_scores_that_are_not_numbers_are_refused() -> None:
    maps = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(BadScores, match="1 of 2 scores are not finite"):
        checked(Scored(np.array([1.0, np.nan]), None), 2)
    with pytest.raises(BadScores, match="a heat map holds"):
        checked(Scored(np.array([1.0]), maps + np.inf), 1)
    assert checked(Scored(np.array([1.0]), maps), 1).heatmaps is maps


def test_saved_tensors_keep_their_names_and_shapes(fitted: Fitted) -> None:
    """A change here makes the detectors that users have trained unreadable: raise ID_VERSION and say so."""
    if fitted.name == "fake":
        return
    stored = json.loads((Path(__file__).parent.parent / "golden" / "state_dicts.json").read_text())[fitted.name]
    state = fitted.detector.module.state_dict()  # type: ignore[attr-defined]
    assert {name: list(tensor.shape) for name, tensor in state.items()} == stored
