"""Tasks in flight, without a cluster: any object does for a reference."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from raybench.runs.records import Failure
from raybench.scheduler.tasks import Outcome
from raybench.scheduler.window import Window, outcome_of, wait


def lose_the_worker(reference: Any) -> Outcome:
    raise ray.exceptions.WorkerCrashedError


def recorded(error_type: str, attempt: int) -> Failure:
    return Failure("score", error_type, "no end", "", attempt)


def test_a_window_gives_back_what_each_task_is_for() -> None:
    window = Window[str]()
    for key, reference in (("a", 1), ("b", 2), ("c", 3)):
        window.submit(key, reference)
    assert (list(window), window.references, len(window)) == (["a", "b", "c"], [1, 2, 3], 3)
    assert list(window.take([3, 9, 1])) == [("c", 3), ("a", 1)]
    assert list(window) == ["b"]
    assert list(window.take([3, 1])) == []
    assert not Window[str]()


def test_all_that_have_ended_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ray_wait(running: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        asked.append(num_returns)
        return (running[:num_returns] if num_returns == 1 else running[:2]), []

    monkeypatch.setattr(ray, "wait", ray_wait)
    first, second = Window[str](), Window[str]()
    first.submit("a", 1)
    assert wait(first, second) == [1]
    assert asked == [1]  # one task is no reason to ask again
    second.submit("b", 2)
    second.submit("c", 3)
    assert wait(first, second) == [1, 2]
    assert asked == [1, 1, 3]


def test_a_lost_worker_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lose_the_worker)
    outcome = outcome_of(None, "score", 2)
    assert outcome.failure is not None
    assert (outcome.failure.phase, outcome.failure.error_type, outcome.failure.attempt) == (
        "score",
        "WorkerCrashedError",
        2,
    )
    assert outcome.retry_reason == "worker_died"


@pytest.mark.parametrize(
    ("error_type", "attempt", "counts"), [("TimeLimit", 2, True), ("TimeLimit", 1, False), ("ModelError", 2, False)]
)
def test_the_time_limit_of_this_attempt_is_what_ended_a_worker(
    monkeypatch: pytest.MonkeyPatch, error_type: str, attempt: int, counts: bool
) -> None:
    monkeypatch.setattr(ray, "get", lose_the_worker)
    left = recorded(error_type, attempt)
    outcome = outcome_of(None, "score", 2, lambda: left)
    assert (outcome.failure == left) == counts
    assert (outcome.retry_reason is None) == counts  # a hang is not tried again


def test_an_outcome_that_arrives_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Outcome(1.5)
    monkeypatch.setattr(ray, "get", lambda reference: answer)
    assert outcome_of(None, "score", 1, lambda: pytest.fail("nothing was lost")) is answer
