"""A finished run that tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from raybench.config.experiment import Experiment
from raybench.report.console import RunSummary
from raybench.store import Store


@dataclass(frozen=True)
class FinishedRun:
    """A run with all of its units done."""

    experiment: Experiment
    """What was run."""
    store: Store
    """The store of the experiment."""
    summary: RunSummary
    """What the run returned."""


@contextlib.contextmanager
def restored(store: Store) -> Iterator[None]:
    """Put back, when the block ends, what it changes in the store."""
    before = {item.key: store.get(item.key) for item in store.list()}
    yield
    after = [item.key for item in store.list()]
    for key in after:
        if key not in before:
            store.delete(key)
    for key, content in before.items():
        if key not in after or store.get(key) != content:
            store.put(key, content)
