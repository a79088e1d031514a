"""A line's detector as a file for production: ONNX and OpenVINO, checked against the original detector."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np

from raybench.analysis.findings import finished_on
from raybench.analysis.rows import merge_seeds
from raybench.analysis.select import reported_board, select_unit
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import Pixels, decode_deep, eight_bit, is_grey, level_table
from raybench.data.geometry import GREY, box_of, padding_of, to_network, to_source
from raybench.data.line import Line
from raybench.data.manifest import Manifest
from raybench.data.roi import fill_outside, kept_in_network, level_outside, roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.detectors import onnx_file
from raybench.detectors.onnx_file import Outputs, Scorer
from raybench.detectors.onnx_graph import Source, write_onnx
from raybench.detectors.protocol import Detector
from raybench.errors import InputError, ModelError
from raybench.metrics.numbers import Threshold
from raybench.metrics.roi import Roi
from raybench.report.export_check import TOLERANCE, CheckImages, largest_difference
from raybench.report.model_card import model_card
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore
from raybench.runs.thresholds import read_threshold
from raybench.worker.batches import ScoredBatch
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.heatmaps import inside_only

CHECKED_IMAGES = 8
STORED_IMAGES = 4
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Exported:
    """An exported detector."""

    line: str
    model: str
    files: tuple[Path, ...]
    difference: float
    """Largest relative difference to the detector's scores and heat maps."""
    images: int
    """Number of the line's images that were compared."""
    shape: tuple[int, ...]
    """Shape of the file's input: (1, height, width, channels)."""
    dtype: str
    """Type of the file's input: uint8 or uint16."""


def export(
    plan: Plan, line: str, model: str | None, folder: Path, cache_dir: Path, size: Size | None = None
) -> Exported:
    """Write `<line>-<model>.onnx`, OpenVINO's `.xml` and `.bin` if it is installed, `.json`, `.check.npz` and `.md`.

    Args:
        plan: The experiment.
        line: Product line.
        model: A label of the experiment. None: the model that the verdict names.
        folder: Where the files are written.
        cache_dir: Cache of the node.
        size: Height and width of the images that the files take. None: those of the line's images, all of one size.

    Raises:
        InputError: There is no such line or model, no verdict names one, it is not trained, or the images of the line
            have several sizes, depths or regions of interest.
        ModelError: The model cannot be exported, or the file scores differently.
    """
    run = RunStore.of(plan)
    unit = select_unit(plan, line, model)
    trained = run.read(unit.detector_id, "train", TrainRecord)
    if trained is None:
        raise InputError(f"{unit} is not trained yet; run the experiment first")
    threshold = read_threshold(run, unit.unit_id, trained, plan.experiment.on(line).threshold).threshold
    trained = replace(trained, threshold=threshold)
    packed = plan.line(line)
    roi = _only_roi(packed)
    images = sample_images(packed, size or _only_size(packed.manifest))
    site = WorkerContext(run, plan.lines_of(line), cache_dir, "cpu", 1)
    detector = cached_detector(unit, trained, site)
    source = _source(unit, packed.manifest, images[0], roi)
    if roi and getattr(detector, "scores_by_peak", False):
        source = replace(source, scored=kept_in_network(roi, fit_of(unit)))
    expected = [_evaluate(detector, unit, packed.manifest, image, threshold.value, roi) for image in images]
    name = f"{line}-{unit.model}" + (f"-{size[0]}x{size[1]}" if size else "")
    unit_of_score = _unit_of_score(threshold)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # files that fail the check are not left behind
        onnx = Path(temporary) / f"{name}.onnx"
        try:
            write_onnx(detector, source, threshold.value, onnx)
        except ModelError as error:
            raise ModelError(f"{unit}: {error}") from error
        files, scorers = _runtimes(onnx)
        found = [
            (scorer.score(image), outputs)
            for scorer in scorers
            for image, outputs in zip(images, expected, strict=True)
        ]
        difference = float(np.max([largest_difference(*pair, unit_of_score) for pair in found]))
        if not difference <= TOLERANCE:
            raise ModelError(f"{unit}: the exported file scores otherwise, by {difference:.2g} of its value")
        some = slice(None, None, -(-len(images) // STORED_IMAGES))
        check = CheckImages.of(images[some], expected[some], threshold.value, unit_of_score).save(onnx)
        about = onnx.with_suffix(".json")
        checked = {"images": len(images), "largest_relative_difference": difference}
        described = _about(unit, packed.manifest, trained, source) | {"checked": checked}
        about.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        card = onnx.with_suffix(".md")
        card.write_text(_card(plan, unit, described), encoding="utf-8")
        files = [file.replace(folder / file.name) for file in (*files, check, card, about)]
    return Exported(line, unit.model, tuple(files), difference, len(images), source.shape, source.dtype)


def _card(plan: Plan, unit: Unit, about: Mapping[str, object]) -> str:
    """Return the model card of an exported unit, with its numbers if it is finished and reported."""
    finished = (each for each in finished_on(plan, unit.line) if each.unit.unit_id == unit.unit_id)
    row = next((merge_seeds([each.result]) for each in finished), None)
    return model_card(unit, row, reported_board(RunStore.of(plan)), about)


def _unit_of_score(threshold: Threshold) -> float:
    """Return the distance of the threshold from the score of a typical OK image. Infinity if there is none."""
    if threshold.value is None or threshold.typical is None or threshold.value <= threshold.typical:
        return float("inf")
    return threshold.value - threshold.typical


def _runtimes(onnx: Path) -> tuple[list[Path], list[Scorer]]:
    """Convert an ONNX file to OpenVINO if it is installed. Returns all files, and a scorer of each runtime."""
    files, scorers = [onnx], [onnx_file.onnx_scorer(onnx)]
    if onnx_file.has_openvino():
        openvino = onnx.with_suffix(".xml")
        onnx_file.write_openvino(onnx, openvino)
        files += [openvino, onnx.with_suffix(".bin")]
        scorers.append(onnx_file.openvino_scorer(openvino))
    return files, scorers


def _only_size(manifest: Manifest) -> Size:
    least, most = (manifest.min_height, manifest.min_width), (manifest.max_height, manifest.max_width)
    if least != most:
        sizes = " to ".join("x".join(map(str, size)) for size in (least, most))
        raise InputError(
            f"the images of {manifest.line} have several sizes, {sizes} (height x width), and an exported file takes "
            "one: name it with --size HEIGHTxWIDTH"
        )
    return least


def _only_roi(line: Line) -> Roi | None:
    """Return the region of interest of all images of a line. None if all of them is looked at."""
    if line.manifest.roi is None:
        return None
    if not line.manifest.roi.shared:
        raise InputError(
            f"images of {line.name} have regions of interest of their own, and an exported file has one: pack the "
            "images of each region as a line"
        )
    return roi_of(next(read_rows(line.store, line.manifest.shards[0], images=False)))


def sample_images(line: Line, size: Size) -> list[Pixels]:
    """Return some NG and OK images of one size as a program reads them, to check an exported file.

    Args:
        line: The line.
        size: Height and width of the images in pixels.

    Returns:
        Up to CHECKED_IMAGES images of one type: (H, W, 1) if all are grey, otherwise (H, W, 3) RGB.

    Raises:
        InputError: The line has no image of this size, or some of 8 and some of 16 bits.
    """
    ng = itertools.islice(_rows(line, "ng", size), CHECKED_IMAGES // 2)
    rows = list(itertools.islice(itertools.chain(ng, _rows(line, "ok", size)), CHECKED_IMAGES))
    if not rows:
        raise InputError(f"{line.name} has no image of {size[0]}x{size[1]} pixels (height x width) to check the file")
    images = [decode_deep(row.image) for row in rows]
    if len({image.dtype for image in images}) > 1:
        raise InputError(
            f"{line.name} has images of 8 and of 16 bits, and an exported file takes one kind: "
            "pack the images of one camera as a line"
        )
    channels = 1 if all(is_grey(row.image) for row in rows) else 3
    return [np.ascontiguousarray(image[..., :channels]) for image in images]


def _rows(line: Line, label: str, size: Size) -> Iterator[ImageRow]:
    """Yield the images of the line with this label and size, those of the test split first."""
    for shard in line.manifest.shards:
        if f"{shard.split}/{label}" not in line.counts:
            continue
        listed = read_rows(line.store, shard, images=False)
        ids = {row.image_id for row in listed if row.label == label and (row.height, row.width) == size}
        if ids:
            yield from read_rows(line.store, shard, only=ids)


def _source(unit: Unit, manifest: Manifest, image: Pixels, roi: Roi | None) -> Source:
    """Describe images of the size and type of `image`."""
    height, width, channels = image.shape
    is_deep = image.dtype == np.uint16
    levels = level_table(manifest.white_level, manifest.black_level) if is_deep else None
    fit = fit_of(unit)
    box, inside = astuple(box_of(fit, height, width)), None if roi is None else roi.inside
    return Source(height, width, channels, levels, box, padding_of(fit), inside, GREY)


def _evaluate(
    detector: Detector, unit: Unit, manifest: Manifest, image: Pixels, threshold: float | None, roi: Roi | None
) -> Outputs:
    """Score an image as `worker.score` does."""
    fit, (height, width, channels) = fit_of(unit), image.shape
    rgb = np.repeat(eight_bit(image, manifest.white_level, manifest.black_level), 3 // channels, axis=2)
    pixels = to_network(fill_outside(rgb, roi), fit)[np.newaxis]
    found = detector.score(pixels)
    scored = inside_only(ScoredBatch(range(1), pixels, found.heatmaps, lambda: found), [roi], fit, detector).scored()
    heatmap = None
    if scored.heatmaps is not None:
        inside = None if roi is None else roi.inside
        heatmap = level_outside(to_source(scored.heatmaps[0], fit, height, width), inside)
    score = float(scored.scores[0])
    return Outputs(score, heatmap, None if threshold is None else score > threshold)


def _about(unit: Unit, manifest: Manifest, trained: TrainRecord, source: Source) -> dict[str, object]:
    return {
        "line": unit.line,
        "model": unit.model,
        "detector": unit.detector,
        "unit_id": unit.unit_id,
        "input": {
            "name": onnx_file.INPUT,
            "shape": source.shape,
            "dtype": source.dtype,
            "channels": "grey" if source.channels == 1 else "RGB",
        },
        "levels": None if source.levels is None else {"black": manifest.black_level, "white": manifest.white_level},
        "region_of_interest": None if source.roi is None else {"share": float(source.roi.mean())},
        "outputs": onnx_file.OUTPUTS,
        "threshold": asdict(trained.threshold),
        "weights": trained.weights_note,
    }
