"""Detectors of the user's own, and anomalib's others by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from raybench.detectors import registry
from raybench.detectors.registry import InputSize
from raybench.errors import InputError, ModelError, UnknownName
from tests.support.fitting import CONTEXT, Images

MINE = '''
import numpy as np
from raybench import Card, Scored


class Brightest:
    """The brightest pixel."""

    stride = 4
    min_side: int = 16

    def __init__(self, config, height, width, context):
        self.offset = np.float64(config.get("offset", 0))

    def fit(self, images, context):
        self.mean = np.mean([images.batch([at]).mean() for at in range(len(images))])

    def score(self, images):
        maps = images.mean(axis=3, dtype=np.float32) - np.float32(self.mean)
        return Scored(maps.max(axis=(1, 2)).astype(np.float64) + self.offset, maps)

    def save(self, folder):
        np.save(folder / "mean.npy", self.mean)

    def restore(self, folder):
        self.mean = np.load(folder / "mean.npy")

    def card(self):
        return Card("brightest", "none", "none", "no weights", 1)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_detectors.py"
    path.write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_detectors", raising=False)
    return path


def test_a_class_of_ones_own(module: Path, tmp_path: Path) -> None:
    spec = registry.resolve("my_detectors:Brightest", {"offset": 2})
    assert "my_detectors" not in sys.modules
    assert (spec.summary, spec.stride, spec.min_side) == ("The brightest pixel.", 4, 16)
    detector = registry.create(spec, InputSize(32, 48), CONTEXT)
    detector.fit(Images(4, 32, 48), CONTEXT)
    found = detector.score(Images(2, 32, 48).pixels)
    folder = tmp_path / "saved"
    folder.mkdir()
    registry.save_detector(detector, spec, InputSize(32, 48), folder)
    again = registry.load(folder, "cpu", 1).score(Images(2, 32, 48).pixels)
    assert np.array_equal(found.scores, again.scores)


def test_changed_code_is_another_detector(module: Path) -> None:
    before = registry.resolve("my_detectors:Brightest", {})
    module.write_text(MINE.replace("max(axis", "min(axis"))
    assert registry.resolve("my_detectors:Brightest", {}).weights != before.weights
    with pytest.raises(InputError, match="not the file the run was planned with"):
        registry.create(before, InputSize(32, 48), CONTEXT)


def test_modules_and_classes_that_do_not_exist(module: Path) -> None:
    with pytest.raises(InputError, match="no Python module 'my_detector'"):
        registry.resolve("my_detector:Brightest", {})
    with pytest.raises(UnknownName, match="did you mean 'Brightest'"):
        registry.resolve("my_detectors:Brightes", {})


def test_an_entry_point(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybench.detectors.plugins.registered", lambda: {"brightest": "my_detectors:Brightest"})
    spec = registry.resolve("brightest", {})
    assert spec.name == "brightest"
    assert registry.create(spec, InputSize(32, 32), CONTEXT)
    with pytest.raises(UnknownName, match="did you mean 'brightest'"):
        registry.resolve("brightes", {})


def test_anomalibs_other_models_by_name(tmp_path: Path) -> None:
    spec = registry.resolve("anomalib:Dfkde", {"batch": 8}, "cpu")
    detector = registry.create(spec, InputSize(64, 96), CONTEXT)
    detector.fit(Images(24, 64, 96), CONTEXT)
    found = detector.score(Images(3, 64, 96, seed=1).pixels)
    assert np.isfinite(found.scores).all()
    assert found.heatmaps is None
    registry.save_detector(detector, spec, InputSize(64, 96), tmp_path)
    again = registry.load(tmp_path, "cpu", 1).score(Images(3, 64, 96, seed=1).pixels)
    np.testing.assert_allclose(found.scores, again.scores)
    assert detector.card().provenance == "imagenet"
    with pytest.raises(UnknownName, match="did you mean 'anomalib:Dinomaly'"):
        registry.resolve("anomalib:Dinomali", {})


def test_a_state_that_is_not_saved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = registry.create(
        registry.resolve("anomalib:Cflow", {"steps": 1, "batch": 4}), InputSize(128, 128), CONTEXT
    )
    monkeypatch.setattr(type(detector), "restore", lambda self, folder: setattr(self, "_module", self.build().eval()))
    with pytest.raises(ModelError, match="not all of its state"):
        detector.fit(Images(4, 128, 128), CONTEXT)


def test_the_documented_detector_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-detectors.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "mymodel.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = registry.resolve("mymodel:Deviation", {})
    detector = registry.create(spec, InputSize(32, 48), CONTEXT)
    detector.fit(Images(4, 32, 48), CONTEXT)
    images = Images(2, 32, 48, seed=1).pixels
    images[1, 10:20, 10:20] = 255
    found = detector.score(images)
    assert found.scores[1] > found.scores[0]
    saved = tmp_path / "saved"
    saved.mkdir()
    registry.save_detector(detector, spec, InputSize(32, 48), saved)
    assert np.array_equal(registry.load(saved, "cpu", 1).score(images).scores, found.scores)
