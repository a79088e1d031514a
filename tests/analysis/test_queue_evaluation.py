from __future__ import annotations

import numpy as np
import pytest

from raybench.analysis.flags import ScoredImage, build_flags
from raybench.analysis.queue import rank_flags
from raybench.analysis.queue_evaluation import evaluate_queue
from raybench.metrics.descriptors import SIZE, Descriptors
from raybench.metrics.intervals import clopper_pearson

KINDS = {"hole": 12, "cut": 3, "stain": 1}


def seen() -> tuple[list[ScoredImage], Descriptors]:
    """30 OK images, and NG ones of three kinds whose images are alike; the most frequent kind scores highest. One OK
    image is flagged by mistake."""
    rng = np.random.default_rng(0)
    looks = {kind: rng.normal(size=SIZE) for kind in (*KINDS, "")}
    found, ids, types, values = [], [], [], []
    for kind, count in {**KINDS, "": 30}.items():
        for at in range(count):
            image_id, excess = f"{kind or 'ok'}{at:02}", {"hole": 3.0, "cut": 2.0, "stain": 1.5, "": -1.0}[kind]
            if image_id == "ok00":
                excess = 0.5
            found.append(ScoredImage("bolt", image_id, "ng" if kind else "ok", {"a": excess + at / 100}))
            ids.append(image_id)
            types.append(kind)
            values.append((looks[kind] + rng.normal(0, 0.05, SIZE)).astype(np.float32))
    return found, Descriptors.of(ids, types, values)


def test_what_a_budget_buys_beside_score_alone_and_chance() -> None:
    images, traits = seen()
    queue = rank_flags(build_flags(images), traits, 4)
    found = evaluate_queue(queue, images, traits, 4, checked=20)
    assert (found.line, found.budget, found.flagged, found.picked) == ("bolt", 4, len(queue), len(queue))
    assert (found.precision.value, found.precision.n) == (0.75, 4)  # one of each kind, and the one OK image
    assert (found.precision.low, found.precision.high) == clopper_pearson(3, 4)
    assert found.by_score.value == 1.0
    assert found.at_random.value == pytest.approx(16 / 46)
    draws = np.random.default_rng(1).hypergeometric(16, 30, 4, 20_000) / 4
    assert found.at_random.low is not None
    assert found.at_random.high is not None
    inside = (draws >= found.at_random.low) & (draws <= found.at_random.high)
    assert inside.mean() >= 0.95
    assert (found.types, found.spread.types, found.spread_by_score.types) == (3, 3, 1)
    assert found.spread.reach is not None
    assert found.spread_by_score.reach is not None
    assert found.spread.reach < found.spread_by_score.reach
    assert "75% (19%–99%) of the first 4 are NG; by score alone 100%" in found.sentence
    assert "3 of 3 defect types, by score alone 1" in found.sentence
    assert "0 of 20 OK training images held back are suspicious" in found.sentence


def test_the_same_whatever_the_order() -> None:
    images, traits = seen()
    queue = rank_flags(build_flags(images), traits, 4)
    assert evaluate_queue(queue, images[::-1], traits, 4, 0) == evaluate_queue(queue, images, traits, 4, 0)


@pytest.mark.parametrize(
    ("label", "why"), [("ok", "no NG images"), ("ng", "no OK images"), ("unknown", "no NG images")]
)
def test_without_labels_of_both_kinds_there_is_no_share(label: str, why: str) -> None:
    images = [ScoredImage("bolt", str(at), label, {"a": at - 5.0}) for at in range(10)]
    found = evaluate_queue([], images, Descriptors.empty(), 5, 0)
    assert found.precision.value is found.by_score.value is found.at_random.value is None
    assert why in (found.precision.reason or "")
    assert "hidden" not in found.sentence


def test_no_flags_and_no_traits_are_said() -> None:
    quiet = [ScoredImage("bolt", str(at), "ok" if at else "ng", {"a": -3.0}) for at in range(5)]
    assert evaluate_queue([], quiet, Descriptors.empty(), 5, 0).precision.reason == "no image is flagged"
    images = [*seen()[0], ScoredImage("bolt", "new", "unknown", {"a": 2.0})]
    queue = rank_flags(build_flags(images), Descriptors.empty(), 4)
    found = evaluate_queue(queue, images, Descriptors.empty(), 4, 0)
    assert "1 image flagged, 1 picked by usefulness alone" in found.sentence
    assert (found.spread.types, found.spread.reach) == (None, None)
