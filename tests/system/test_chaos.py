"""A short `make chaos`: faults that need several raylets and drivers as processes, each once, on a real S3 server."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from benchmarks.chaos import chaos, prepare, summary
from benchmarks.faults.world import world

KINDS = {"loss of a node", "kill -9 of the driver", "a second driver at once", "disk full in the cache"}
SECONDS = 500.0


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_faults_change_nothing_but_times() -> None:
    survive(KINDS)


@pytest.mark.long  # test_runner.py has a worker that dies, and test_store_faults.py a server that does
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_processes_that_die_change_nothing_but_times() -> None:
    survive({"kill -9 of a worker in measure", "kill -9 of the S3 server"})


def survive(wanted: set[str]) -> None:
    """Inject each of these kinds of faults once."""
    said: list[str] = []
    with world() as at:
        kinds = wanted - ({"disk full in the cache"} if at.no_tmpfs else set())
        ground = replace(
            prepare(at, measure_s=0.3, signals=0, inspect=False), once=frozenset(kinds), between_s=(0.2, 1.0)
        )
        counts, rounds = chaos(ground, len(kinds), seed=7, until=time.monotonic() + SECONDS, say=said.append)
    told = "\n".join([*said, *summary(rounds)])
    assert [done.wrong for done in rounds] == [[] for _ in rounds], told
    assert counts == dict.fromkeys(kinds, 1), told
    assert all(done.commits for done in rounds), told
