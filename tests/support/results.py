"""Results of made-up units."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from raybench.data.geometry import Input
from raybench.metrics.heatmap_contrast import HeatmapQuality
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Quality, Speed, Threshold
from raybench.metrics.pixel import PixelQuality
from raybench.runs.records import Counts, ModelSize, UnitResult

NONE = Estimate(None, reason="no masks")


def images(gap: float, noise: float = 0.0, ng: int = 40) -> ImageScores:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(gap, 1, ng)])
    scores += noise * np.random.default_rng(1).normal(size=len(scores))
    ids = [f"{number:03}" for number in range(len(scores))]
    return ImageScores.of(ids, ["ok"] * 40 + ["ng"] * ng, scores.tolist())


def result(model: str, scores: ImageScores, ms: float = 10.0, au_pro: Estimate = NONE, seed: int = 0) -> UnitResult:
    found = image_quality(scores, THRESHOLD)
    return UnitResult(
        unit_id=f"{model}-{seed}",
        line="bolt",
        model=model,
        seed=seed,
        provenance="imagenet",
        input=Input("native", 64, 128, 300, 600),
        counts=Counts(80, 20, 40, 40, 0),
        threshold=THRESHOLD,
        quality=Quality(**vars(found), **dict.fromkeys(PIXELS, NONE) | {"au_pro": au_pro}),
        speed=Speed(ms, ms, ms, 2 * ms, 100.0, 8, "cpu", "float32", 1),
        size=ModelSize(5.0, 100),
        train_s=3.0,
    )


THRESHOLD = Threshold(2.0, 19, 0.05, 0.05, 1.0)


PIXELS = [each.name for part in (PixelQuality, HeatmapQuality) for each in fields(part)]
