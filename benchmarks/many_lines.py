"""The report of a made board with many lines: how long it takes to build and how large the page is.

python -m benchmarks.many_lines --lines 200 --images 60
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from raybench.analysis.board import BoardContext, build_board
from raybench.analysis.findings import HeldOut
from raybench.analysis.flags import Flag, ScoredImage, build_flags, collect_scores, top_images
from raybench.data.geometry import Input
from raybench.metrics.image import ImageScores, Ranked
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.metrics.small_maps import heat_codes
from raybench.report.gallery import THUMBNAIL_SIDE, HeatMap, Picture, outline_path, shrink
from raybench.report.html import render
from raybench.report.pictures import beside_per_line, models_per_line, pictures_per_line, queue_per_line
from raybench.runs.records import FailedUnit, Failure, ImageCounts, ModelSize, UnitResult
from raybench.runs.run import versions
from tests.support.results import made_unit

MODELS = (
    "cflow", "dfm", "draem", "efficient_ad", "fastflow", "padim", "patchcore", "reverse_distillation", "stfpm",
    "supersimplenet",
)  # fmt: skip
FAILING = 0.01
HEIGHT, WIDTH = 240, 320

T = TypeVar("T")


def made(line: int, model: int, images: int) -> tuple[UnitResult | FailedUnit, ImageScores | None]:
    """One unit: models differ, lines are harder or easier, and one in a hundred fails."""
    rng = np.random.default_rng([line, model])
    name, unit_id = f"line-{line:03}", f"{line:010}{model:010}"
    if rng.random() < FAILING:
        failure = Failure("train", "ModelError", "made to fail", "Traceback", 1)
        return FailedUnit(unit_id, name, MODELS[model], 0, failure), None
    half = images // 2
    gap = 0.4 * (line % 10) + 0.15 * model
    scores = rng.normal(0, 1, 2 * half) + np.repeat([0.0, gap], half)
    ids = [f"test/{at:05}.png" for at in range(2 * half)]
    scored = ImageScores.of(ids, ["ok"] * half + ["ng"] * half, scores.tolist())
    ones = np.ones((1, half))
    auroc = float(Ranked(scored.of_label("ok"), scored.of_label("ng")).all(ones, ones)[0, 0])
    number = Estimate(auroc, max(0.0, auroc - 0.05), min(1.0, auroc + 0.05), 2 * half)
    result = made_unit(
        unit_id,
        name,
        MODELS[model],
        weights_note="made up",
        input=Input("native", 224, 320, HEIGHT, WIDTH),
        test=ImageCounts(half, half, half, 0),
        train_ok=160,
        held_out_ok=40,
        threshold=Threshold(2.0, 40, 0.05, 0.05, 0.0),
        quality=Quality(**{field.name: number for field in fields(Quality)}),
        regions=RegionRecall(number, {"scratch": number}, {"large": number}),
        speed=Speed(10.0 + model, 12.0, 3.0, 14.0, 90.0, 8, "made up", "float32", 2),
        size=ModelSize(10.0 + model, 1_000_000),
        train_s=30.0,
    )
    return result, scored


def pictures(seen: list[ScoredImage], lines: int) -> Iterator[Picture]:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(128, 120, (HEIGHT, WIDTH)), (0, 0), 3)  # as detailed as a photograph
    image = np.repeat(noise[..., np.newaxis], 3, axis=2).clip(0, 255).astype(np.uint8)
    heat = np.zeros((60, 96), np.float32)
    heat[20:40, 30:50] = 3.0
    maps = tuple(HeatMap(model, heat_codes(heat, 0.0, 1.0), 127) for model in MODELS[: models_per_line(lines)])
    mask = outline_path(cv2.resize(heat, (WIDTH, HEIGHT)) > 1)
    count = pictures_per_line(lines)
    for _, images in itertools.groupby(top_images(seen, count + beside_per_line(lines)), key=lambda one: one.line):
        for place, one in enumerate(images):
            beside = place >= count
            yield Picture(one.line, one.image_id, one.label, one.excess, image, mask, maps, is_beside=beside)


def thumbnails(flags: list[Flag], shown: list[Picture], lines: int) -> Iterator[Picture]:
    """Pictures of the queue that are not in the galleries."""
    known = {(picture.line, picture.image_id) for picture in shown if not picture.is_beside}
    for _, queue in itertools.groupby(flags, key=lambda flag: flag.line):
        for flag in itertools.islice(queue, queue_per_line(lines)):
            if (flag.line, flag.image_id) not in known:
                image = shrink(shown[0].image, THUMBNAIL_SIDE)
                yield Picture(flag.line, flag.image_id, flag.label, {}, image, sha256="0" * 64, is_thumbnail=True)


def timed(what: str, step: Callable[[], T]) -> T:
    started, cpu = time.perf_counter(), time.process_time()
    found = step()
    print(f"{what:<8}{time.perf_counter() - started:8.1f} s, {time.process_time() - cpu:6.1f} s of CPU", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--images", type=int, default=60, help="test images per line")
    parser.add_argument("--out", type=Path, default=Path("out/many-lines.html"))
    asked = parser.parse_args()
    units = [made(line, model, asked.images) for line in range(asked.lines) for model in range(len(MODELS))]
    results = [result for result, _ in units]
    scores = {result.unit_id: scored for result, scored in units if scored is not None}
    context = BoardContext("many-lines", "2026-11-25T00:00:00+00:00", "0" * 64, versions(), 0.05)
    board = timed("board", lambda: build_board(results, scores, context))
    seen = timed("images", lambda: collect_scores([one for one in results if isinstance(one, UnitResult)], scores))
    # As if nothing were labelled, so that the queue is as long as it may get.
    flags = timed("flags", lambda: build_flags([replace(image, label="unknown") for image in seen]))
    shown = list(pictures(seen, asked.lines))
    shown += thumbnails(flags, shown, asked.lines)
    limit, ok = Threshold(2.0, 40, 0.05, 0.05, 0.0), np.random.default_rng(1).normal(-1, 0.5, 40).tolist()
    held_out = {
        line: {model: HeldOut(0, limit, tuple(ok), tuple(range(40))) for model in MODELS} for line in board.lines
    }
    page = timed("page", lambda: render(board, flags, shown, seen, held_out=held_out))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(page, encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    made_of = f"{asked.lines} lines × {len(MODELS)} models × {asked.images} images"
    print(f"{made_of}: page {len(page) / 1e6:.1f} MB, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
