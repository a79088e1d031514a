"""Exported files score as the detectors do, in runtimes that know nothing of raybench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raybench.detectors import onnx_file, registry
from raybench.detectors.registry import InputSize
from raybench.errors import ModelError
from tests.support.fitting import CONTEXT, REAL, Images, fitted_once


@pytest.mark.parametrize("name", REAL)
def test_onnxruntime_and_openvino_agree_with_the_detector(name: str, tmp_path: Path) -> None:
    fitted = fitted_once(name)
    expected = fitted.detector.score(fitted.unseen)
    onnx = tmp_path / "model.onnx"
    onnx_file.write_onnx(fitted.detector, float(np.median(expected.scores)), onnx)
    onnx_file.write_openvino(onnx, tmp_path / "model.xml")
    for scorer in (onnx_file.onnx_scorer(onnx), onnx_file.openvino_scorer(tmp_path / "model.xml")):
        found = scorer(fitted.unseen)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)
        assert found.heatmaps is not None
        assert expected.heatmaps is not None
        peak = np.abs(expected.heatmaps).max()
        np.testing.assert_allclose(found.heatmaps, expected.heatmaps, atol=1e-3 * peak, rtol=1e-3)


def test_the_threshold_is_in_the_file(tmp_path: Path) -> None:
    import onnxruntime

    fitted = fitted_once("patchcore")
    scores = fitted.detector.score(fitted.unseen).scores
    onnx = tmp_path / "model.onnx"
    onnx_file.write_onnx(fitted.detector, (scores.min() + scores.max()) / 2, onnx)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == onnx_file.OUTPUTS
    found = [session.run(["is_anomalous"], {"image": image[np.newaxis]})[0][0] for image in fitted.unseen]
    assert found == (scores > (scores.min() + scores.max()) / 2).tolist()
    assert set(found) == {True, False}


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    size = InputSize(64, 128, 64)
    spec = registry.resolve("patchcore", {"pool_rows": 200}, "cpu")
    detector = registry.create(spec, size, CONTEXT)
    detector.fit(Images(2, 64, 128), CONTEXT)
    with pytest.raises(ModelError, match="tiles are cut and joined outside"):
        onnx_file.write_onnx(detector, 1.0, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="no torch module"):
        onnx_file.write_onnx(fitted_once("fake").detector, 1.0, tmp_path / "model.onnx")


def test_a_model_without_heat_map(tmp_path: Path) -> None:
    detector = registry.create(registry.resolve("anomalib:Dfkde", {"batch": 8}, "cpu"), InputSize(64, 64), CONTEXT)
    detector.fit(Images(24, 64, 64), CONTEXT)
    images = Images(2, 64, 64, seed=1).pixels
    onnx = tmp_path / "model.onnx"
    onnx_file.write_onnx(detector, None, onnx)
    found = onnx_file.onnx_scorer(onnx)(images)
    assert found.heatmaps is None
    np.testing.assert_allclose(found.scores, detector.score(images).scores, rtol=1e-3)
