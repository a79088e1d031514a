from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.perturbations import LEFT_OUT, NAMED
from benchmarks.signals import INVISIBLE
from benchmarks.visible import Usual
from raybench.analysis.anomaly_types import AnomalyType, ReferenceBank, build_reference_bank, classify
from raybench.analysis.anomaly_types.classifier import AnomalyTypeClassifier, read_samples, write_samples
from raybench.analysis.anomaly_types.perturbations import CHANGES, jittered, perturb
from raybench.analysis.anomaly_types.references import sample
from raybench.analysis.anomaly_types.views import Image
from raybench.cli.demo import STRIP_HEIGHT, STRIP_WIDTH, Sizes, write_lines, write_strips
from raybench.data.decode import decode_image
from raybench.data.manifest import read_manifest
from raybench.data.pack import PackOptions, pack
from raybench.store import open_store
from tests.support.made_run import few_samples

SHARED = Path(__file__).parents[3] / "shared" / "data"


def read(paths: Sequence[Path]) -> Iterator[Image]:
    return (decode_image(path.read_bytes()) for path in paths)


def share_right(line: str, images: Sequence[Image], references: ReferenceBank) -> Mapping[str, float]:
    """By kind, over all that is NAMED and can be seen on the line."""
    right: dict[str, list[bool]] = {kind: [] for kind in NAMED}
    for kind, changes in NAMED.items():
        for change in changes:
            name = change.__name__
            for number, image in enumerate(images):
                rng = np.random.default_rng(zlib.crc32(f"{name} {number}".encode()))
                made = None if name in INVISIBLE.get(line, ()) else perturb(image, change, rng)
                if made is not None:
                    right[kind].append(classify(made, references).kind == kind)
    return {kind: float(np.mean(answers)) for kind, answers in right.items() if answers}


@pytest.fixture(scope="module")
def strip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_strips(tmp_path_factory.mktemp("signals"), Sizes(42, 6, 12, 0))


@pytest.fixture(scope="module")
def strips_known(strip_folder: Path) -> ReferenceBank:
    """What is known of the strips, learnt from half as many images as usual."""
    with few_samples(9):
        return ReferenceBank.of(read(sorted((strip_folder / "train" / "good").iterdir())))


@pytest.fixture(scope="module")
def ok_strips(strip_folder: Path) -> list[Image]:
    return list(read(sorted((strip_folder / "test" / "good").iterdir())))


def moved(image: Image, dx: int, dy: int) -> Image:
    matrix = np.array([[1.0, 0, dx], [0, 1.0, dy]])
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def test_made_anomalies_of_strips_are_told_apart(strips_known: ReferenceBank, ok_strips: list[Image]) -> None:
    found = share_right("strip", ok_strips[:2], strips_known)
    assert set(found) == set(NAMED)
    assert np.mean(list(found.values())) >= 0.9
    assert min(found.values()) >= 0.8


def test_scratches_are_defects_and_missing_holes_are_layout(strips_known: ReferenceBank, strip_folder: Path) -> None:
    expected = {"scratch": "defect", "missing_hole": "layout"}
    answers = [
        classify(image, strips_known).kind == kind
        for name, kind in expected.items()
        for image in read(sorted((strip_folder / "test" / name).iterdir()))
    ]
    assert np.mean(answers) >= 0.9


@pytest.mark.parametrize(("dx", "dy", "words"), [(40, 0, "right"), (-40, 0, "left"), (0, 30, "down"), (0, -30, "up")])
def test_a_shift_is_told_in_pixels(
    dx: int, dy: int, words: str, strips_known: ReferenceBank, ok_strips: list[Image]
) -> None:
    found = classify(moved(ok_strips[0], dx, dy), strips_known)
    assert found.kind == "layout"
    told = re.search(rf"(\d+) px (?:to the )?{words}", found.evidence)
    assert told is not None, found.evidence
    assert int(told[1]) == pytest.approx(abs(dx + dy), abs=8)  # strips themselves lie up to 3 px aside


def test_a_change_of_brightness_is_told_as_a_factor(strips_known: ReferenceBank, ok_strips: list[Image]) -> None:
    found = classify(np.rint(ok_strips[0] * 0.6).astype(np.uint8), strips_known)
    assert found.kind == "lighting"
    assert found.confidence > 0.7


def test_a_defect_is_told_by_place_and_size(strips_known: ReferenceBank, ok_strips: list[Image]) -> None:
    image = ok_strips[0].copy()
    cv2.rectangle(image, (20, 160), (60, 166), (20, 20, 20), -1)
    found = classify(image, strips_known)
    assert found.kind == "defect"
    told = re.search(r"of (\d+)×(\d+) px at \((\d+), (\d+)\)", found.evidence)
    assert told is not None, found.evidence
    width, height, x, y = map(int, told.groups())
    assert 20 <= width <= 60
    assert 4 <= height <= 24
    assert 15 <= x <= 65
    assert 150 <= y <= 176


def test_what_is_unlike_everything_is_still_answered(strips_known: ReferenceBank) -> None:
    rng = np.random.default_rng(0)
    odd = (
        np.zeros((STRIP_HEIGHT, STRIP_WIDTH, 3), np.uint8),
        np.full((1, 1, 3), 255, np.uint8),
        rng.integers(0, 256, (700, 90, 3), dtype=np.uint8),
    )
    for image in odd:
        found = classify(image, strips_known)
        assert isinstance(found, AnomalyType)
        assert 1 / 3 <= found.confidence <= 1
        assert found.evidence


def test_an_answer_depends_on_nothing_but_the_image(strips_known: ReferenceBank, ok_strips: list[Image]) -> None:
    before = ok_strips[2].copy()
    assert classify(ok_strips[2], strips_known) == classify(ok_strips[2], strips_known)
    np.testing.assert_array_equal(ok_strips[2], before)


def test_references_need_enough_images(ok_strips: list[Image]) -> None:
    with pytest.raises(ValueError, match="6 OK images"):
        ReferenceBank.of(ok_strips[:3])


def test_flat_and_equal_references_do_not_fail() -> None:
    flat = np.full((60, 80, 3), 128, np.uint8)
    known = ReferenceBank.of([flat] * 6)
    assert classify(flat, known).kind in ("defect", "uncertain")
    assert classify(np.full((60, 80, 3), 60, np.uint8), known).kind == "lighting"


def test_where_nothing_else_can_be_seen_all_are_defects(strips_known: ReferenceBank, ok_strips: list[Image]) -> None:
    blind = AnomalyTypeClassifier(strips_known.classifier.limits, [])
    features = strips_known.extract(ok_strips[0])
    assert blind.probabilities(features) == {"defect": 1.0, "layout": 0.0, "lighting": 0.0}


@few_samples(3)
def test_the_same_images_make_the_same_references(strip_folder: Path, ok_strips: list[Image]) -> None:
    train = [image[::2, ::2] for image in read(sorted((strip_folder / "train" / "good").iterdir())[:6])]
    first, again = (ReferenceBank.of(train) for _ in range(2))
    np.testing.assert_array_equal(first.samples.logs, again.samples.logs)
    assert classify(ok_strips[3], first) == classify(ok_strips[3], again)


def test_a_sample_is_fair_bounded_and_the_same_every_time() -> None:
    kept = sample(range(100), 10)
    assert len(set(kept)) == 10
    assert sample(range(100), 10) == kept
    assert sample(range(7), 10) == list(range(7))
    drawn = np.concatenate([sample(range(20), 5, seed) for seed in range(400)])
    counts = np.bincount(drawn, minlength=20)
    assert counts.min() > 60  # 100 expected of each
    assert counts.max() < 140


def test_references_of_a_packed_line_are_its_ok_training_images(
    strip_folder: Path, strips_known: ReferenceBank, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    pack(open_store(str(strip_folder)), store, "strip", PackOptions(shard_rows=3))
    manifest = read_manifest(store, "strip")
    known = build_reference_bank(store, manifest, strips_known.samples, count=8)
    assert known is not None
    assert len(known.statistics.views) == 8
    assert known.size == (152, 243)  # as many pixels as 192 x 192, and the shape of a strip
    assert build_reference_bank(store, manifest, count=3) is None


@few_samples(3)
def test_what_was_learnt_once_is_kept_and_answers_the_same(
    strip_folder: Path, ok_strips: list[Image], tmp_path: Path
) -> None:
    lines = open_store(str(tmp_path))
    pack(open_store(str(strip_folder)), lines, "strip")
    manifest = read_manifest(lines, "strip")
    assert read_samples(lines, manifest) is None
    fresh = build_reference_bank(lines, manifest, count=6)
    assert fresh is not None
    write_samples(lines, manifest, fresh.samples)
    kept = read_samples(lines, manifest)
    assert kept is not None
    again = build_reference_bank(lines, manifest, kept, count=6)
    assert again is not None
    assert again.samples is kept
    assert classify(ok_strips[1], again) == classify(ok_strips[1], fresh)
    assert read_samples(lines, replace(manifest, white_level=4095)) is None
    lines.put("strip/signals.npz", b"cut off")
    assert read_samples(lines, manifest) is None


def test_a_perturbation_is_visible_and_repeatable(ok_strips: list[Image]) -> None:
    for change in (change for table in (CHANGES, LEFT_OUT) for changes in table.values() for change in changes):
        first, again = (perturb(ok_strips[0], change, np.random.default_rng(3)) for _ in range(2))
        assert first is not None
        assert again is not None
        assert first.shape == ok_strips[0].shape
        assert (first != ok_strips[0]).any()
        np.testing.assert_array_equal(first, again)
    (gain,) = (change for change in CHANGES["lighting"] if change.__name__ == "gain")
    assert perturb(np.zeros((64, 64, 3), np.uint8), gain, np.random.default_rng(0)) is None


def test_what_is_left_out_is_not_learnt_from() -> None:
    for kind, changes in LEFT_OUT.items():
        assert not set(changes) & set(CHANGES[kind])
    for kind, changes in NAMED.items():
        assert set(changes) <= set(CHANGES[kind])


def test_jitter_is_slight(ok_strips: list[Image]) -> None:
    image = ok_strips[0]
    made = [jittered(image, np.random.default_rng(seed)) for seed in range(10)]
    means = [float(one.mean()) / float(image.mean()) for one in made]
    assert max(means) - min(means) > 0.02
    assert 0.75 < min(means) < max(means) < 1.3


def test_what_ok_images_show_as_well_cannot_be_seen(strip_folder: Path, ok_strips: list[Image]) -> None:
    train = list(read(sorted((strip_folder / "train" / "good").iterdir())))
    usual = Usual.of(train)
    assert 0 < np.mean([usual.is_left_by(image) for image in train]) < 0.1
    assert all(usual.is_left_by(np.rint(image * 0.6).astype(np.uint8)) for image in ok_strips)
    varied = Usual.of(np.rint(image * factor).astype(np.uint8) for image in train for factor in (0.4, 0.7, 1.0))
    assert not any(varied.is_left_by(np.rint(image * 0.6).astype(np.uint8)) for image in ok_strips)


@pytest.mark.long  # as on the strips, on real images
def test_made_anomalies_of_solar_cells_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset", reason="the ELPV images are not installed")
    folder = write_lines(tmp_path, Sizes(42, 2, 1, 0))["solar-mono"]
    rows = [line.split(",") for line in (folder / "images.csv").read_text().splitlines()[1:]]
    train, test = (
        [folder / path for path, split, label in rows if (split, label) == (of, "ok")] for of in ("train", "test")
    )
    found = share_right("solar-mono", list(read(test)), ReferenceBank.of(read(train)))
    assert np.mean(list(found.values())) >= 0.8


@pytest.mark.long  # as on the strips, on real images
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real product lines are not here")
def test_real_defects_of_tires_are_called_defects() -> None:
    line = SHARED / "mvtec3d_tire"
    known = ReferenceBank.of(read(sorted((line / "train" / "good").iterdir())[::3]))
    ng = [path for path in sorted((line / "test").glob("*/*"))[::5] if path.parent.name != "good"]
    assert np.mean([classify(image, known).kind == "defect" for image in read(ng)]) >= 0.85
