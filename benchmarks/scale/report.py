"""The report of a finished run of 10,000 units in a folder."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.resume import MODELS, prepare
from benchmarks.scale.figures import Report
from raybench.report.publish import publish_again
from raybench.runs.ledger import append_to_ledger
from raybench.runs.run import RunStore

LINES, SEEDS = 100, 10


def measure() -> Report:
    """Make the run, then compare its units and write the report."""
    with tempfile.TemporaryDirectory() as name:
        plan = prepare(Path(name), LINES * MODELS * SEEDS, LINES, f"{name}/store")
        run = RunStore.of(plan)
        append_to_ledger(run, [unit.unit_id for unit in plan.units])
        load, cpu, wall = os.getloadavg()[0], time.process_time(), time.perf_counter()
        publish_again(plan)
        return Report(
            lines=LINES,
            models=MODELS,
            seeds=SEEDS,
            images=sum(shard.rows for shard in plan.manifests["line-0"].scored_shards),
            cpu_s=round(time.process_time() - cpu, 1),
            wall_s=round(time.perf_counter() - wall, 1),
            page_mb=round(len(run.get_report("index.html")) / 1e6, 1),
            load=round(load, 1),
        )
