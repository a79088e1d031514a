"""A short version of `make chaos`: a few faults of a seeded schedule, on several raylets and the real S3 server."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks.chaos import chaos, summary
from benchmarks.faults.world import world

FAULTS, SECONDS = 6, 400.0


@pytest.mark.cluster
@pytest.mark.skipif(
    "RAYBENCH_CHAOS" not in os.environ, reason="takes minutes of two quiet cores; RAYBENCH_CHAOS=1 runs it"
)
def test_faults_change_nothing_but_times() -> None:
    said: list[str] = []
    with world() as at:
        counts, rounds = chaos(at, FAULTS, seed=7, until=time.monotonic() + SECONDS, say=said.append)
    told = "\n".join([*said, *summary(rounds)])
    assert [done.wrong for done in rounds] == [[] for _ in rounds], told
    assert counts.total() >= 1, told
    assert all(done.commits for done in rounds), told
