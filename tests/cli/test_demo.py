from __future__ import annotations

from pathlib import Path

import cv2

from raybench.cli.demo import MODELS, STEPS, Sizes, experiment, write_lines
from raybench.data.pack import pack
from raybench.detectors import registry
from raybench.store import open_store


def test_every_line_packs_whole(tmp_path: Path) -> None:
    sizes = Sizes(6, 3, 4, 2)
    lines = open_store(str(tmp_path / "lines"))
    for line, folder in write_lines(tmp_path / "images", sizes).items():
        manifest = pack(open_store(str(folder)), lines, line)
        expected = {"train/ok": 6, "test/ok": 3, "test/ng": 4} | (
            {"unlabelled/unknown": 2} if line.startswith("solar") else {}
        )
        assert dict(manifest.counts) == expected
        assert manifest.rejects == ()
        assert manifest.masks == (4 if line == "strip" else 0)
    assert manifest.median_height != manifest.median_width


def test_the_same_images_every_time(strips: Path, tmp_path: Path) -> None:
    again = write_lines(tmp_path, Sizes(24, 6, 6, 0))["strip"]
    for path in sorted(strips.rglob("*.png")):
        assert (again / path.relative_to(strips)).read_bytes() == path.read_bytes()


def test_masks_lie_on_the_defects(strips: Path) -> None:
    clean = cv2.imread(str(strips / "train" / "good" / "000.png"), cv2.IMREAD_GRAYSCALE)
    for path in sorted((strips / "test" / "missing_hole").glob("*.png")):
        mask = cv2.imread(str(strips / "ground_truth" / "missing_hole" / f"{path.stem}_mask.png"), cv2.IMREAD_GRAYSCALE)
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        assert mask is not None
        assert clean is not None
        assert clean[mask > 0].mean() < 80 < image[mask > 0].mean()


def test_all_models_so_far_are_compared() -> None:
    assert set(MODELS) == set(registry.default_names())
    assert {model.name for model in experiment("s3://b").models} == set(MODELS)


def test_training_is_counted_in_steps() -> None:
    """A budget in seconds gives other models on a busy machine."""
    assert experiment("s3://b").train_budget_s is None
    assert {name for name in MODELS if registry.resolve(name, {}, "cpu").config.get("steps")} == set(STEPS)
