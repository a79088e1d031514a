"""Tasks in flight: what each is for, which of them have ended, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import ray

from raybench.errors import TimeLimit
from raybench.runs.records import Failure, Phase
from raybench.scheduler.tasks import Outcome, failure_of, retry_reason

WAIT_S = 0.5
ROUND_S = 0.02
Key = TypeVar("Key")


class Window(Generic[Key]):
    """Submitted tasks that nobody has received yet. Iterates over their keys: what each task is for."""

    def __init__(self) -> None:
        self._keys: dict[Any, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    @property
    def references(self) -> list[Any]:
        """Ray's references, in the order of submission."""
        return list(self._keys)

    def submit(self, key: Key, reference: Any) -> None:
        """Add the task that Ray returned `reference` for."""
        self._keys[reference] = key

    def take(self, references: Iterable[Any]) -> Iterator[tuple[Key, Any]]:
        """Remove the tasks of this window that are among `references`; yield them with their keys."""
        for reference in references:
            if reference in self._keys:
                yield self._keys.pop(reference), reference

    def take_if(self, wanted: Callable[[Key], bool]) -> list[tuple[Key, Any]]:
        """Remove the tasks with a wanted key; return them with their references."""
        return list(self.take([reference for reference, key in self._keys.items() if wanted(key)]))


def wait(*windows: Window[Any]) -> list[Any]:
    """Wait up to WAIT_S for the first task to end; return the references of all that have ended ROUND_S later.

    Tasks that wait for a slot have been submitted already, so no slot is idle meanwhile, and each round costs the
    driver some milliseconds.
    """
    running = [reference for window in windows for reference in window.references]
    first, _ = ray.wait(running, num_returns=1, timeout=WAIT_S)
    if not first or len(running) == 1:
        return first
    time.sleep(ROUND_S)
    ended, _ = ray.wait(running, num_returns=len(running), timeout=0)
    return ended


def outcome_of(
    reference: Any, phase: Phase, attempt: int, recorded: Callable[[], Failure | None] = lambda: None
) -> Outcome:
    """Return the outcome of an ended task; a lost worker or node becomes a Failure.

    Args:
        reference: Ray's, to an Outcome.
        phase: of the task.
        attempt: its number.
        recorded: reads the failure that a worker leaves in the store when it ends itself at the time limit. One of
            another attempt does not count.
    """
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        failure = recorded()
        if failure and (failure.error_type, failure.attempt) == (TimeLimit.__name__, attempt):
            return Outcome(0.0, failure)
        return Outcome(0.0, failure_of(phase, error, attempt), retry_reason(error))
    return outcome
