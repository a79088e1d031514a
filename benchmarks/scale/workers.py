"""Real detectors on one worker and on two, of one core each: how much more the second one gets done.

Needs a quiet machine with two cores or more: workers, merging, driver and Ray's own processes share them. Timing is
left out: it is repeated where the machine is not quiet, and nodes that are processes of one machine disturb each other.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.scale.figures import Workers
from benchmarks.scale.raylets import raylets
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.data.pack import PackOptions, pack
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store

MODEL = "reverse_distillation"
LINES = 2
SHARD_ROWS = 16
SIZES = Sizes(train_ok=64, test_ok=64, test_ng=64, unlabelled=0)


class Merged:
    """Called by the runner in each of its rounds. seconds: from the first round until no unit was left to merge."""

    def __init__(self) -> None:
        self._started, self.seconds = time.perf_counter(), 0.0

    def __call__(self, backlog: Backlog) -> None:
        tally = backlog.tallies["aggregate"]
        if tally.done == tally.total and not self.seconds:
            self.seconds = time.perf_counter() - self._started


def measure(seeds: int, sizes: Sizes = SIZES) -> Workers:
    """LINES × `seeds` units on each number of workers."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(str(folder / "store"))
        images = write_strips(folder / "images", sizes)
        for number in range(LINES):
            pack(open_store(str(images)), store.sub("lines"), f"strip-{number}", PackOptions(shard_rows=SHARD_ROWS))
        taken = {}
        for nodes in (1, 2):
            here = folder / str(nodes)
            here.mkdir()
            taken[nodes] = _seconds(store, nodes, seeds, here)
    units, scored = LINES * seeds, sizes.test_ok + sizes.test_ng
    return Workers(MODEL, units, units * scored, round(taken[1], 1), round(taken[2], 1), round(load, 1))


def _seconds(store: Store, nodes: int, seeds: int, folder: Path) -> float:
    """From the first task until the last unit is merged, on workers that have imported all and decoded the images."""
    with raylets(nodes, 1, 0, folder):
        warm = _experiment(store, f"warm-{nodes}", range(1000, 1000 + nodes))
        run_plan(make_plan(warm))
        timed = make_plan(_experiment(store, f"timed-{nodes}", range(seeds)))
        merged = Merged()
        summary = run_plan(timed, merged)
    if summary.failed:
        raise RuntimeError(f"units failed: {summary.failed}")
    return merged.seconds


def _experiment(store: Store, name: str, seeds: range) -> Experiment:
    return Experiment(
        name=name,
        store=store.uri(),
        lines=("strip-*",),
        models=(ModelChoice(name=MODEL),),
        seeds=tuple(seeds),
        input=InputChoice(pixels=256 * 256),
        squashed_twins=False,
        inspect=False,
        annotation=Annotation(signals=0),
        preset="cpu",
        resources=Resources(gpus=0.0, measure_s=0.05),
    )
