from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from raybench.analysis.robustness import (
    AS_TAKEN,
    DRAWS,
    JudgedModel,
    choose_images,
    conclude,
    robustness_frame,
    robustness_points,
)
from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import clopper_pearson
from raybench.metrics.numbers import Threshold
from raybench.metrics.ranking import paired_difference
from raybench.runs.robustness import MeasuredRobustness
from tests.support.results import FAILURE

NAMES = [f"{at:03}.png" for at in range(160)]
LABELS = ["ok"] * 80 + ["ng"] * 80
NOISE = np.random.default_rng(0).normal(size=160)
SCORES = NOISE + 4 * (np.array(LABELS) == "ng")
IMAGES = ImageScores.of(NAMES, LABELS, SCORES.tolist())
THRESHOLD = Threshold(2.0, 40, 0.05, 0.05)
SHA256 = dict.fromkeys(NAMES[40:120], "s")
"""Of the images that were perturbed: 40 OK and 40 NG."""


def model(detector_id: str = "d") -> JudgedModel:
    return JudgedModel(detector_id, IMAGES, THRESHOLD)


def scores_of(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(NAMES, values, strict=True) if name in SHA256}


BRIGHT = SCORES + 3  # all images are flagged, and as well separated as before
BLIND = np.random.default_rng(1).permutation(NOISE)


def test_numbers_are_those_of_the_perturbed_images_beside_the_same_ones_as_taken() -> None:
    measured = MeasuredRobustness(SHA256, {"d": {"brighter 20 %": scores_of(BRIGHT), "blur 1 %": scores_of(BLIND)}})
    points = {point.perturbation: point for point in robustness_points({"padim": model()}, measured)}
    assert list(points) == [AS_TAKEN, "brighter 20 %", "blur 1 %"]
    truth, some = np.array(LABELS)[40:120] == "ng", slice(40, 120)
    for name, values in ((AS_TAKEN, SCORES), ("brighter 20 %", BRIGHT), ("blur 1 %", BLIND)):
        assert points[name].image_auroc.value == pytest.approx(roc_auc_score(truth, values[some]))
        alarms = values[some][~truth] > 2.0
        assert points[name].false_alarm_rate.value == alarms.mean()
        found = points[name].false_alarm_rate
        assert (found.low, found.high) == pytest.approx(clopper_pearson(int(alarms.sum()), 40))
        assert points[name].recall.value == (values[some][truth] > 2.0).mean()
    assert points["brighter 20 %"].lower.value == 0
    blind = ImageScores.of(NAMES[some], LABELS[some], BLIND[some].tolist())
    as_taken = ImageScores.of(NAMES[some], LABELS[some], SCORES[some].tolist())
    assert points["blur 1 %"].lower == paired_difference([as_taken], [blind], DRAWS)
    assert (points["blur 1 %"].lower.low or 0) > 0.2


def test_what_a_model_surely_does_not_bear_is_said() -> None:
    measured = MeasuredRobustness(
        SHA256,
        {
            "d": {"brighter 20 %": scores_of(BRIGHT), "blur 1 %": scores_of(BLIND)},
            "e": {"noise 2 %": scores_of(SCORES)},
            "f": {"noise 2 %": scores_of(SCORES)},
        },
        {"f": {"shift 2 %": FAILURE}},
    )
    models = {"padim": model(), "dfm": model("e"), "broken": model("f"), "not measured": model("g")}
    points = robustness_points(models, measured)
    assert conclude(points, 0.02) == [
        "padim: image AUROC falls by more than 0.02 (blur 1 %); more than 0.05 of OK images are false alarms "
        "(brighter 20 %)",
        "dfm: no perturbation surely lowers image AUROC by more than 0.02 or lifts false alarms above 0.05",
        "broken: 1 of 2 could not be measured",
    ]
    frame = robustness_frame(points)
    assert frame.loc[("broken", "shift 2 %"), "failure"] == f"{FAILURE.error_type}: {FAILURE.message}"
    assert frame["image_auroc"].isna().sum() == 1
    assert frame.loc[("dfm", "noise 2 %"), "lower"] == 0


def test_labels_of_today_judge_the_scores_and_changed_images_do_not_count() -> None:
    measured = MeasuredRobustness(SHA256, {"d": {"blur 1 %": scores_of(BLIND)}})
    today = measured.of_today({**SHA256, NAMES[40]: "another file", NAMES[0]: "s"})
    labels = ["unknown" if name == NAMES[41] else label for name, label in zip(NAMES, LABELS, strict=True)]
    relabelled = JudgedModel("d", ImageScores.of(NAMES, labels, SCORES.tolist()), THRESHOLD)
    assert [point.image_auroc.n for point in robustness_points({"padim": relabelled}, today)] == [78, 78]
    assert robustness_points({"padim": model()}, measured.of_today({})) == []


def test_false_alarms_that_are_there_as_taken_are_not_blamed_on_a_perturbation() -> None:
    loose = JudgedModel("d", IMAGES, replace(THRESHOLD, value=-0.5))  # as a person may move it
    measured = MeasuredRobustness(SHA256, {"d": {"noise 2 %": scores_of(SCORES), "brighter 20 %": scores_of(BRIGHT)}})
    points = robustness_points({"padim": loose}, measured)
    as_taken = points[0].false_alarm_rate.value or 0.0
    assert as_taken > 0.2
    (said,) = conclude(points, 0.02)
    assert said == (
        f"padim: more than {as_taken:.2g}, as on the images as taken, of OK images are false alarms (brighter 20 %)"
    )


def test_half_of_the_images_are_ok_and_a_larger_number_adds_to_them() -> None:
    few, more = choose_images(IMAGES, 20), choose_images(IMAGES, 60)
    assert set(few) < set(more)
    assert len(few) == 20
    assert len(set(few) & set(NAMES[:80])) == 10
    fewer_ng = ImageScores.of(NAMES[:85], LABELS[:85], SCORES[:85].tolist())
    assert len(choose_images(fewer_ng, 60)) == 35
    counts = ImageScores.of(NAMES, LABELS, SCORES.tolist(), counts=[at % 2 == 0 for at in range(160)])
    assert not set(choose_images(counts, 160)) & set(NAMES[1::2])


def test_a_later_command_adds_its_detectors_unless_it_took_other_images() -> None:
    first = MeasuredRobustness(SHA256, {"d": {"blur 1 %": scores_of(BLIND)}}, {"e": {"blur 1 %": FAILURE}})
    again = MeasuredRobustness(SHA256, {"e": {"blur 1 %": scores_of(BLIND)}})
    merged = first.merge(again)
    assert set(merged.scores) == {"d", "e"}
    assert merged.failures == {}
    other = MeasuredRobustness({NAMES[0]: "s"}, {"e": {}})
    assert first.merge(other) == other
