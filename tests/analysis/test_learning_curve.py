from __future__ import annotations

import numpy as np
import pytest

from raybench.analysis.learning_curve import conclude, curve_frame, curve_points
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.ranking import paired_difference
from raybench.runs.records import UnitResult
from tests.support.results import made_unit

NOTHING = Estimate(None, reason="not measured")
NAMES = [f"{at:03}" for at in range(300)]
LABELS = ["ok"] * 200 + ["ng"] * 100


def finished(signal: float, limit: float | None = 3.0) -> tuple[UnitResult, ImageScores]:
    """A model whose scores of NG images are higher by `signal`; the noise is the same for all."""
    noise = np.random.default_rng(0).normal(size=300)
    images = ImageScores.of(NAMES, LABELS, (noise + signal * np.array([label == "ng" for label in LABELS])).tolist())
    threshold = Threshold(limit, 20, 0.05, 0.05)
    return made_unit("u", "bottle", "padim", threshold=threshold, **vars(image_quality(images, threshold, 200))), images


def test_a_curve_says_from_where_on_more_images_do_not_help() -> None:
    sizes = {10: finished(1.0, None), 25: finished(3.0), 120: finished(3.0)}
    points = curve_points({images: {"padim": found} for images, found in sizes.items()})
    assert [point.images for point in points] == [10, 25, 120]
    assert [point.has_threshold for point in points] == [False, True, True]
    assert points[0].more == paired_difference([sizes[120][1]], [sizes[10][1]])
    assert points[0].more.value == pytest.approx(0.2, abs=0.08)
    assert conclude(points, 0.02) == [
        "padim: 25 OK images are enough: with all 120 the image AUROC is at most 0.02 higher (95 %)"
    ]
    rows = curve_frame(points).to_dict("index")
    assert rows[("padim", 25)]["image_auroc"] == rows[("padim", 120)]["image_auroc"]
    assert rows[("padim", 10)]["more_low"] > 0.1


def test_what_is_open_is_said() -> None:
    points = curve_points({10: {"padim": finished(1.0)}, 120: {"padim": finished(3.0), "dfm": finished(2.0)}})
    assert [(point.model, point.images) for point in points] == [("padim", 10), ("padim", 120), ("dfm", 120)]
    assert conclude(points, 0.02) == [
        "padim: it is open whether fewer than all 120 OK images are enough",
        "dfm: it is open whether fewer than all 120 OK images are enough",
    ]
