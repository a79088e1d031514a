"""A model that misbehaves fails its own unit only, and the row says what happened."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.analysis.rows import BoardRow
from raybench.config.experiment import Experiment, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.runs.records import Failure
from raybench.scheduler.runner import run_plan
from tests.support.results import done

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

HANGING: dict[str, dict[str, Any]] = {"hangs-fit": {"hang_in": "fit"}, "hangs-score": {"hang_in": "score"}}
POISON: dict[str, dict[str, Any]] = {
    "nan": {"nan_in_score": True},
    "shape": {"wrong_shape": True},
    "image": {"poison_above": 100},
    "memory": {"mb_per_image": 100.0, "memory_mb": 64.0},
    "batches": {"mb_per_image": 6.0, "memory_mb": 16.0},
    "good": {},
}


@pytest.fixture(scope="module")
def outcome() -> dict[str, BoardRow]:
    """The rows of two runs, made by the first test that asks: a busy machine must not take a slow unit for a hang.

    What hangs comes second: by then the processes have imported what they need, and the limit may be short.
    """
    return {}


@pytest.fixture
def rows(outcome: dict[str, BoardRow], experiment: Experiment) -> dict[str, BoardRow]:
    if not outcome:
        for configs, limit_s in ((POISON, None), (HANGING, 10.0)):
            models = tuple(ModelChoice(name="fake", label=name, config=config) for name, config in configs.items())
            resources = Resources(measure_s=0.05, unit_timeout_s=limit_s, retries=0)
            chosen = experiment.model_copy(update={"models": models, "resources": resources})
            outcome.update({row.model: row for row in run_plan(make_plan(chosen)).board.rows})
    return outcome


def failure(rows: dict[str, BoardRow], name: str) -> Failure:
    assert len(rows[name].failures) == 1
    return rows[name].failures[0]


@pytest.mark.parametrize("name", ["good", "batches"])
def test_the_others_finish(rows: dict[str, BoardRow], name: str) -> None:
    assert rows[name].failures == ()
    assert done(rows[name]).quality == done(rows["good"]).quality


@pytest.mark.parametrize(("name", "phase"), [("hangs-fit", "train"), ("hangs-score", "train")])
def test_a_hang_is_a_row_that_says_where(rows: dict[str, BoardRow], name: str, phase: str) -> None:
    found = failure(rows, name)
    assert (found.error_type, found.phase, found.attempt) == ("TimeLimit", phase, 1)
    assert "unit_timeout_s" in found.message
    assert "threading.Event().wait()" in found.traceback


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nan", "1 of 1 scores are not finite"),
        ("shape", "scores of shape (1, 1) for 1 images; it must be (1,)"),
        ("image", "a heat map holds values that are not finite"),
    ],
)
def test_the_image_is_named(rows: dict[str, BoardRow], name: str, said: str) -> None:
    found = failure(rows, name)
    assert found.error_type == "BadScores"
    assert found.message.startswith("image '")
    assert said in found.message
    assert "fake_detector.py" in found.traceback or "batches.py" in found.traceback


def test_memory_that_no_smaller_batch_saves_is_a_row(rows: dict[str, BoardRow]) -> None:
    found = failure(rows, "memory")
    assert found.error_type == "MemoryError"
    assert "alone does not fit" in found.message
