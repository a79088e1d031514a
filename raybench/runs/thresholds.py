"""The threshold that a unit is used with, by what the experiment says at the time of the comparison.

A detector is trained with the threshold of its held-back OK images. Where a line has changed since its training images
were taken, the OK images of the test split can set it: a false-alarm rate is then measured by cross-fitting, in which
each fifth of the images is compared with the threshold that the others set, so no image judges a threshold that it has
set itself. And a person may move it, in the report or in the experiment file. None of this trains or scores anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from raybench.config.experiment import ThresholdChoice
from raybench.errors import InputError
from raybench.metrics.exchangeability import ThresholdTest, assess_threshold
from raybench.metrics.image import ImageScores, share_above, share_of
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.threshold import conformal_threshold, cross_fitted_alarms, score_at_excess
from raybench.runs.records import QualityRecord, TrainRecord, UnitResult
from raybench.runs.run import RunStore

TEST_OK = "test_ok"


def place_threshold(
    threshold: Threshold, choice: ThresholdChoice, images: ImageScores, held_out: ImageScores
) -> Threshold:
    """Return the threshold that an experiment asks for.

    Args:
        threshold: The threshold that the detector was trained with.
        choice: What the experiment says.
        images: Scores of the test split.
        held_out: Scores of the held-back OK images.
    """
    budget = threshold.budget if choice.promised is None else choice.promised
    if choice.source == TEST_OK:
        is_ok = images.counted("ok")
        placed = conformal_threshold(images.scores[is_ok], budget, images.groups[is_ok])
        return replace(placed, note=placed.note.replace("held-back OK images", "OK test images"))
    if choice.promised is not None:
        return conformal_threshold(held_out.scores, budget, held_out.groups)
    if not choice.promises_nothing or threshold.value is None:
        return threshold
    if choice.excess is not None:
        value = score_at_excess(choice.excess, threshold)
    else:
        ng = np.sort(images.of_label("ng"))[::-1]
        if not len(ng):
            return replace(threshold, note=f"{threshold.note}; not {choice}: no NG images in the test split")
        found = ng[math.ceil((choice.recall or 0.0) * len(ng) - 1e-9) - 1]  # rounding may lift the product
        # Half-way to the next lower score, so that the rounding of another runtime decides no image otherwise.
        lower, just_below = images.scores[images.scores < found], np.nextafter(found, -np.inf)
        value = float(min((found + lower.max()) / 2, just_below) if len(lower) else just_below)
    return replace(threshold, value=value, promised=1.0, note=f"{choice}, where it promises nothing")


def judge_at(result: UnitResult, choice: ThresholdChoice, images: ImageScores, held_out: ImageScores) -> UnitResult:
    """Return a unit's result with the threshold that an experiment asks for, and the recall and false-alarm rate there.

    Args:
        result: The result of a finished unit.
        choice: What the experiment says.
        images: Its image scores.
        held_out: Scores of its held-back OK images.
    """
    if choice == ThresholdChoice():
        return result
    threshold = place_threshold(result.trained.threshold, choice, images, held_out)
    quality = replace(
        result.judged.quality,
        recall=share_above(images, "ng", threshold),
        false_alarm_rate=_false_alarm_rate(images, threshold, choice),
    )
    return replace(
        result,
        trained=replace(result.trained, threshold=threshold),
        judged=replace(result.judged, quality=quality),
    )


def _false_alarm_rate(images: ImageScores, threshold: Threshold, choice: ThresholdChoice) -> Estimate:
    if choice.source != TEST_OK:
        return share_above(images, "ok", threshold)
    groups = images.groups_of("ok")
    return share_of(cross_fitted_alarms(images.of_label("ok"), groups, threshold.budget), groups, "OK")


@dataclass(frozen=True)
class UsedThreshold:
    """The threshold that a trained unit is used with, and what is known of it."""

    threshold: Threshold
    alarms: Estimate | None = None
    """Its false-alarm rate on OK test images; None where they set the threshold themselves, or are not scored yet."""
    test: ThresholdTest | None = None
    """How improbable their scores are; None where nothing can be tested."""


def read_threshold(run: RunStore, unit_id: str, trained: TrainRecord, choice: ThresholdChoice) -> UsedThreshold:
    """Return the threshold that a trained unit is used with.

    Args:
        run: The run that trained the unit.
        unit_id: Its identity.
        trained: Its train record.
        choice: What the experiment says.

    Raises:
        InputError: The test split sets the threshold, and is not scored yet.
    """
    merged = run.read(unit_id, "quality", QualityRecord)
    if merged is None:
        if choice.source == TEST_OK or choice.recall is not None:
            raise InputError("the test images that set the threshold are not scored yet; run the experiment first")
        images = ImageScores.empty()
    else:
        images = ImageScores.from_bytes(run.get_blob(merged.images))
    held_out = ImageScores.from_bytes(run.get_blob(trained.held_out))
    threshold = place_threshold(trained.threshold, choice, images, held_out)
    if merged is None or choice.source == TEST_OK:
        return UsedThreshold(threshold)
    test = None if choice.promises_nothing else assess_threshold(held_out, images, threshold)
    return UsedThreshold(threshold, share_above(images, "ok", threshold), test)
