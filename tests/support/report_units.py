"""Units of a line whose names are hostile, for the report."""

from __future__ import annotations

import numpy as np

from raybench.data.geometry import Input
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, RegionRecall, Speed
from raybench.runs.records import ImageCounts, ModelSize, UnitResult
from tests.support.results import THRESHOLD, made_unit

EVIL = '<script>alert("x")</script>|'


def unit(model: str, gap: float, seed: int) -> tuple[UnitResult, ImageScores]:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0, 1, 30), rng.normal(gap, 1, 30)])
    ids = [f"{number:03}" for number in range(60)]
    images = ImageScores.of(ids, ["ok"] * 30 + ["ng"] * 30, scores.tolist())
    result = made_unit(
        model,
        EVIL,
        model,
        weights_note="notes",
        input=Input("native", 64, 64, 100, 100),
        test=ImageCounts(30, 30, 0, 0),
        regions=RegionRecall(Estimate(0.5, 0.4, 0.6, 10), {EVIL: Estimate(0.5, 0.4, 0.6, 10)}, {}),
        speed=Speed(10.0 + seed, 11.0, 10.0, 20.0, 90.0, 8, "box", "float32", 2),
        size=ModelSize(12.5, 1000),
        train_s=1.0,
        **vars(image_quality(images, THRESHOLD)),
    )
    return result, images
