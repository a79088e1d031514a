"""Thresholds from the OK images of the test split, for lines that have changed since their training images were taken.

Held-back OK training images say what OK images looked like then. Where test OK images differ, a threshold that is set
on them holds for images of today. Its false-alarm rate is then measured by cross-fitting: each fifth of the images is
compared with the threshold that the others set, so no image judges a threshold that it has set itself.
"""

from __future__ import annotations

from dataclasses import replace

from raybench.errors import InputError
from raybench.metrics.image import ImageScores, share_above, share_of
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import conformal_threshold, cross_fitted_alarms
from raybench.runs.records import QualityRecord, TrainRecord, UnitResult
from raybench.runs.run import RunStore

TEST_OK = "test_ok"


def threshold_from_test(images: ImageScores, budget: float) -> Threshold:
    """Return the threshold that the OK images of the test split set.

    Args:
        images: Scores of the test split.
        budget: The false-alarm rate asked for.
    """
    is_ok = images.counted("ok")
    threshold = conformal_threshold(images.scores[is_ok], budget, images.groups[is_ok])
    return replace(threshold, note=threshold.note.replace("held-back OK images", "OK test images"))


def judge_by_test(result: UnitResult, images: ImageScores) -> UnitResult:
    """Return a unit's result with the threshold of the test split, and the recall and false-alarm rate that follow.

    Args:
        result: The result of a finished unit.
        images: Its image scores.
    """
    threshold = threshold_from_test(images, result.trained.threshold.budget)
    quality = replace(
        result.judged.quality,
        recall=share_above(images, "ng", threshold),
        false_alarm_rate=share_of(
            cross_fitted_alarms(images.of_label("ok"), images.groups_of("ok"), threshold.budget),
            images.groups_of("ok"),
            "OK",
        ),
    )
    return replace(
        result,
        trained=replace(result.trained, threshold=threshold),
        judged=replace(result.judged, quality=quality),
    )


def read_threshold(run: RunStore, unit_id: str, trained: TrainRecord, source: str) -> Threshold:
    """Return the threshold that a trained unit is used with.

    Args:
        run: The run that trained the unit.
        unit_id: Its identity.
        trained: Its train record.
        source: `threshold.from` of the experiment.

    Raises:
        InputError: The test split sets the threshold, and is not scored yet.
    """
    if source != TEST_OK:
        return trained.threshold
    merged = run.read(unit_id, "quality", QualityRecord)
    if merged is None:
        raise InputError("the test images that set the threshold are not scored yet; run the experiment first")
    return threshold_from_test(ImageScores.from_bytes(run.get_blob(merged.images)), trained.threshold.budget)
