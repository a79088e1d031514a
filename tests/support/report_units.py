"""Units of a line whose names are hostile, for the report."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from raybench.data.geometry import Input
from raybench.metrics.heatmap_contrast import HeatmapQuality
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.metrics.pixel import PixelQuality
from raybench.runs.records import Counts, ModelSize, UnitResult

EVIL = '<script>alert("x")</script>|'


NONE = Estimate(None, reason="no masks")


PIXELS = [each.name for part in (PixelQuality, HeatmapQuality) for each in fields(part)]


def unit(model: str, gap: float, seed: int) -> tuple[UnitResult, ImageScores]:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0, 1, 30), rng.normal(gap, 1, 30)])
    ids = [f"{number:03}" for number in range(60)]
    images = ImageScores.of(ids, ["ok"] * 30 + ["ng"] * 30, scores.tolist())
    threshold = Threshold(2.0, 19, 0.05, 0.05, 1.0)
    found = image_quality(images, threshold)
    result = UnitResult(
        unit_id=model,
        line=EVIL,
        model=model,
        seed=0,
        provenance="imagenet",
        weights_note="notes",
        input=Input("native", 64, 64, 100, 100),
        counts=Counts(80, 20, 30, 30, 0),
        threshold=threshold,
        quality=Quality(**vars(found), **dict.fromkeys(PIXELS, NONE)),
        regions=RegionRecall(Estimate(0.5, 0.4, 0.6, 10), {EVIL: Estimate(0.5, 0.4, 0.6, 10)}, {}),
        speed=Speed(10.0 + seed, 11.0, 10.0, 20.0, 90.0, 8, "box", "float32", 2),
        size=ModelSize(12.5, 1000),
        train_s=1.0,
    )
    return result, images
