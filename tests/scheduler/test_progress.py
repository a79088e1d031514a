from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from raybench.config.experiment import Resources
from raybench.runs.cost_model import CostEstimate
from raybench.runs.records import Phase
from raybench.scheduler import progress
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.capacity import Node, capacity_of
from raybench.scheduler.estimate import Schedule, estimate_schedule, step_seconds
from raybench.scheduler.gpu_share import GpuShares
from tests.support.backlog import manifest, unit

LINES = {"a": manifest("a", 4)}


@pytest.mark.parametrize("known", [True, False])
def test_a_log_says_how_long_it_still_takes(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten units of 60 s of training, 4 × 5 s of scoring and 20 s of timing; one has been trained in half a minute."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    units = [unit("a", seed) for seed in range(10)]
    seconds: dict[Phase, float] = {"train": 60.0, "score": 20.0, "measure": 20.0}
    cost = CostEstimate(seconds, "recorded", True) if known else CostEstimate({}, "nothing", False)
    schedule = Schedule(units, LINES, {}, {each.unit_id: cost for each in units})
    capacity = capacity_of(Resources(), [Node("n", 2, 0)])
    backlog = Backlog(units, LINES, {})
    backlog.step_s = step_seconds(schedule, estimate_schedule(schedule, capacity, GpuShares(0.0)), backlog)
    assert backlog.step_s == ({"train": 60.0, "score": 5.0, "measure": 20.0} if known else {})
    written = io.StringIO()
    with progress.shown(Console(file=written, width=80)) as watch:
        watch(backlog)
        job = backlog.take(busy=False)
        assert job is not None
        backlog.finish(job)
        now[0] += 31.0
        watch(backlog)
    first, second = written.getvalue().splitlines()
    assert first == "train 0/10, score 0/40, measure 0/10, 0.0 img/s"
    left = ", about 8 min left" if known else ""  # 31 s × 940 / 60
    assert second == f"train 1/10, score 0/40, measure 0/10, 0.0 img/s{left}"
    assert len(second) < 80
