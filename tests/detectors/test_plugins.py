"""Detectors of the user's own, and anomalib's others by name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import make_plan
from raybench.data.manifest import Manifest
from raybench.detectors import plugins, registry
from raybench.detectors.anomalib_adapter import neutral_folder
from raybench.detectors.array_state import load_attributes, save_attributes
from raybench.detectors.protocol import Scored
from raybench.detectors.registry import InputSize
from raybench.errors import BadScores, InputError, IntegrityError, ModelError, UnknownName
from raybench.store import Store, open_store
from tests.support.fitting import CONTEXT, Images, maps_of

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

SHORT = """
import numpy as np
import raybench


class Deviation(raybench.Detector):
    def fit(self, images, context):
        self.mean = images.batch(range(len(images))).mean(axis=0)

    def score(self, images):
        return raybench.Scored.from_maps(np.abs(images - self.mean).max(axis=3))
"""

SCORE_APART = """
import sys
from pathlib import Path
import numpy as np
from raybench.detectors import registry

images = np.load("images.npy")
scored = registry.load(Path("saved"), "cpu", 1).score(images)
np.savez("scored.npz", scores=scored.scores, maps=scored.heatmaps)
print("torch" in sys.modules)
"""


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


def test_the_licences_of_models(module: Path) -> None:
    assert registry.licences("my_detectors:Brightest", {}, {}) == {"its code": "unknown"}
    assert registry.licences("not_here:Brightest", {}, {}) == {"its code": "unknown"}
    module.write_text(MINE.replace("stride = 4", 'licence = "MIT"'), encoding="utf-8")
    assert registry.licences("my_detectors:Brightest", {}, {}) == {"its code": "MIT"}
    found = registry.licences("draem", ["efficientnet-lite0", "dtd"], {})
    assert list(found.values()) == ["Apache-2.0", "Apache-2.0", "for research only"]


def test_changed_code_is_another_detector(module: Path) -> None:
    before = registry.resolve("my_detectors:Brightest", {})
    module.write_text(MINE.replace("max(axis", "min(axis"))
    assert registry.resolve("my_detectors:Brightest", {}).weights != before.weights
    with pytest.raises(InputError, match="not the code that the run was planned with"):
        registry.create(before, InputSize(32, 48), CONTEXT)


def test_fit_and_score_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(SHORT.strip().splitlines()) <= 12
    (tmp_path / "short_detector.py").write_text(SHORT)
    monkeypatch.syspath_prepend(tmp_path)
    spec, size = registry.resolve("short_detector:Deviation", {"name": "x"}), InputSize(32, 48)
    detector = registry.create(spec, size, CONTEXT)
    train, images = Images(4, 32, 48), Images(2, 32, 48, seed=1).pixels
    detector.fit(train, CONTEXT)
    expected = np.abs(images - train.pixels.mean(axis=0)).max(axis=3)
    found = detector.score(images)
    assert np.array_equal(found.scores, expected.max(axis=(1, 2)))
    saved = tmp_path / "saved"
    saved.mkdir()
    registry.save_detector(detector, spec, size, saved)
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}
    np.save(tmp_path / "images.npy", images)
    command, env = [sys.executable, "-c", SCORE_APART], {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    apart = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (apart.returncode, apart.stdout.strip()) == (0, "False"), apart.stderr
    scored = np.load(tmp_path / "scored.npz")
    assert np.array_equal(scored["scores"], found.scores)
    assert np.array_equal(scored["maps"], maps_of(found))
    card = registry.load(saved, "cpu", 1).card()
    assert card == detector.card()
    assert (card.name, card.provenance, card.parameters) == ("Deviation", "none", 32 * 48 * 3)
    assert card.not_exportable


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data.replace(b"v", b"w")])
def test_damaged_attributes_are_noticed(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "state.safetensors"
    save_attributes("X", {"mean": np.ones(3)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=r"state\.safetensors"):
        load_attributes(path)


def test_attributes_come_back_with_value_and_type(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::2],
        "empty": np.empty((0, 3), np.uint8),
        "zero_dimensional": np.array(3, np.float16),
        "scalar": np.float32(0.1),
        "double": np.float64(0.1),
        "flag": np.True_,
        "json": [1, 2.5, None, True, {"a": ["b"]}],
        "number": 0.1,
        "nothing": None,
    }
    save_attributes("X", attributes, tmp_path / "file")
    loaded = load_attributes(tmp_path / "file")
    assert loaded.keys() == attributes.keys()
    for name, value in attributes.items():
        assert type(loaded[name]) is type(value), name
        assert np.array_equal(loaded[name], value), name
        assert getattr(loaded[name], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: 2},
        float("nan"),
        object(),
        [np.float64(1)],
        np.array(["text"]),
        np.array([None]),
        np.ones(2, np.complex64),
        np.ones(2, ">f4"),
        np.ma.array([1.0], mask=[True]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_attribute_that_cannot_be_saved_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match="the attribute 'memory' of Mine cannot be saved"):
        save_attributes("Mine", {"mean": np.ones(3), "memory": value}, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_attributes_in_slots_are_saved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = SHORT.replace("    def fit", '    __slots__ = ("mean",)\n\n    def fit')
    (tmp_path / "slotted.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    detector = registry.create(registry.resolve("slotted:Deviation", {}), InputSize(32, 48), CONTEXT)
    detector.fit(Images(4, 32, 48), CONTEXT)
    detector.save(tmp_path)
    assert load_attributes(tmp_path / "state.safetensors").keys() == {"mean", "config", "height", "width"}


def test_scores_from_maps_keep_the_maps_precision() -> None:
    maps = np.full((2, 3, 4), 17.0)
    maps[1, 2, 3] += 1e-12
    scored = Scored.from_maps(maps)
    assert scored.scores[1] > scored.scores[0]
    assert scored.scores.dtype == np.float64
    assert maps_of(scored).dtype == np.float32
    for shape in ((3, 4), (2, 3, 4, 1), (2, 0, 4)):
        with pytest.raises(BadScores, match="must be"):
            Scored.from_maps(np.zeros(shape))


def test_a_class_without_the_methods_of_a_detector_is_refused(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text(MINE.replace("def save", "def store").replace("def card", "def cart"))
    with pytest.raises(ModelError, match="does not define save, card; "):
        registry.create(registry.resolve("my_detectors:Brightest", {}), InputSize(32, 48), CONTEXT)
    monkeypatch.delitem(sys.modules, "my_detectors")
    module.write_text(SHORT.replace("def score", "def scored"))
    with pytest.raises(ModelError, match="does not define score; "):
        registry.create(registry.resolve("my_detectors:Deviation", {}), InputSize(32, 48), CONTEXT)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import fails: nothing of it may be imported to plan a run."""
    folder = tmp_path / "my_package"
    (folder / "models").mkdir(parents=True)
    for name in ("__init__.py", "models/__init__.py"):
        (folder / name).write_text("raise AssertionError('imported')")
    (folder / "models" / "mine.py").write_text(MINE)
    (folder / "helpers.py").write_text("FACTOR = 2")
    (folder / "notes.txt").write_text("not code")
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def code_of(name: str) -> Mapping[str, str]:
    return registry.resolve(name, {}).weights


@pytest.mark.parametrize(
    ("file", "changes"),
    [("helpers.py", True), ("__init__.py", True), ("models/mine.py", True), ("notes.txt", False)],
)
def test_a_changed_helper_is_another_detector(package: Path, file: str, changes: bool) -> None:
    before = code_of("my_package.models.mine:Brightest")
    path = package / file
    path.write_text(path.read_text() + "\n")
    assert (code_of("my_package.models.mine:Brightest") != before) is changes


def test_a_moved_or_added_helper_is_another_detector(package: Path) -> None:
    codes = [code_of("my_package.models.mine:Brightest")]
    (package / "helpers.py").rename(package / "helper.py")
    codes.append(code_of("my_package.models.mine:Brightest"))
    (package / "more.py").write_text("")
    codes.append(code_of("my_package.models.mine:Brightest"))
    (package.parent / "outside.py").write_text("FACTOR = 3")
    assert len({code["code"] for code in codes}) == 3
    assert code_of("my_package.models.mine:Brightest") == codes[-1]


def test_what_is_imported_from_beside_a_module_counts(module: Path) -> None:
    def code() -> str:
        return code_of("my_detectors:Brightest")["code"]

    beside = module.parent / "beside.py"
    module.write_text(f"import beside\n{MINE}")
    codes = [code()]
    beside.write_text("from deeper.inner import FACTOR")
    codes.append(code())
    deeper = module.parent / "deeper"
    deeper.mkdir()
    (deeper / "inner.py").write_text("FACTOR = 2")
    codes.append(code())
    (deeper / "inner.py").write_text("FACTOR = 3 +")
    codes.append(code())
    assert len(set(codes)) == 4
    (module.parent / "unrelated.py").write_text("FACTOR = 4")
    assert code() == codes[-1]


def test_a_class_in_a_package_without_init_files(package: Path) -> None:
    for path in package.rglob("__init__.py"):
        path.unlink()
    before = code_of("my_package.models.mine:Brightest")
    (package / "helpers.py").write_text("FACTOR = 3")
    spec = registry.resolve("my_package.models.mine:Brightest", {})
    assert spec.weights != before
    assert registry.create(spec, InputSize(32, 48), CONTEXT)


def test_a_changed_helper_gives_other_units(
    package: Path, tmp_path: Path, put_line: Callable[[Store, str], Manifest]
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.create()
    put_line(store.sub("lines"), "strip")
    models = (ModelChoice(name="my_package.models.mine:Brightest"), ModelChoice(name="fake"))
    experiment = Experiment(name="night", store=store.uri(), lines=("strip",), models=models, squashed_twins=False)
    before = {unit.model: unit.unit_id for unit in make_plan(experiment).units}
    (package / "helpers.py").write_text("FACTOR = 3")
    after = {unit.model: unit.unit_id for unit in make_plan(experiment).units}
    assert [name for name in before if before[name] != after[name]] == ["my_package.models.mine:Brightest"]


def test_modules_and_classes_that_do_not_exist(module: Path) -> None:
    with pytest.raises(InputError, match="no Python module 'my_detector'"):
        registry.resolve("my_detector:Brightest", {})
    with pytest.raises(UnknownName, match="did you mean 'Brightest'"):
        registry.resolve("my_detectors:Brightes", {})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"a = 1\nclass Brightest:\n", r"my_detectors\.py:2 is not valid Python: expected an indented block"),
        (b"a = 1\nb = '\0'\n", r"my_detectors\.py:2 is not valid Python: it has a null byte"),
        (b"a = '\xff'\n", r"my_detectors\.py.* is not valid Python: .*utf-8"),
        (b"", r"unknown class in my_detectors\.py 'Brightest'; there are none$"),
    ],
)
def test_a_module_that_is_not_valid_is_one_message(module: Path, code: bytes, said: str) -> None:
    module.write_bytes(code)
    with pytest.raises(InputError, match=said):
        registry.resolve("my_detectors:Brightest", {})


def test_an_entry_point(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "registered", lambda: {"brightest": "my_detectors:Brightest"})
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


def test_glass_of_anomalib_on_the_default_backbone() -> None:
    spec = registry.resolve("anomalib:Glass", {"steps": 1, "batch": 2, "init": {"input_shape": [64, 64]}})
    detector = registry.create(spec, InputSize(64, 64), CONTEXT)
    detector.fit(Images(2, 64, 64), CONTEXT)
    found = detector.score(Images(2, 64, 64, seed=1).pixels)
    assert np.isfinite(found.scores).all()
    assert detector.card().backbone == "tf_efficientnet_lite0"


def test_a_network_of_anomalibs_own_is_not_called_raybenchs() -> None:
    spec = registry.resolve(
        "anomalib:Ganomaly", {"steps": 1, "batch": 2, "init": {"n_features": 4, "latent_vec_size": 4}}
    )
    detector = registry.create(spec, InputSize(64, 64), CONTEXT)
    detector.fit(Images(2, 64, 64), CONTEXT)
    assert detector.card().backbone == "anomalib's own"
    assert "ImageNet" not in detector.card().weights_note


def test_a_model_of_anomalib_that_fetches_its_backbone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    detector = registry.create(registry.resolve("anomalib:UniNet", {}), InputSize(64, 64), CONTEXT)
    with pytest.raises(ModelError, match=r"downloads nothing: put the file at .*wide_resnet50_2"):
        detector.fit(Images(2, 64, 64), CONTEXT)


def test_a_backbone_of_anomalib_lies_in_a_folder_that_names_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = uuid.uuid4().hex
    names = iter([f"{unused}vit", unused])
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: names)
    with neutral_folder() as folder:
        assert folder.endswith(unused)
        assert not Path(tempfile.gettempdir(), f"tmp{unused}vit").exists()
    (tmp_path / "Evita").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "Evita"))
    with pytest.raises(ModelError, match=r"'vit' in .*set TMPDIR"):
        neutral_folder()


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
