"""The report of a real run: how long it takes to build, from commits in a store to the page.

`python -m benchmarks.report --lines 20 --images 200`: ten settings of the fake model on copies of a generated
line. The first report tells what flagged images look like, from what their inspection has
learnt; later ones know it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.scale import made
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, InputChoice, Resources
from raybench.config.plan import Plan, make_plan
from raybench.report.publish import publish_again
from raybench.runs.run import RunStore
from raybench.scheduler.cluster import connected
from raybench.scheduler.runner import run_plan
from raybench.store import open_store
from tests.support import plugins

TRAIN = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20)
    parser.add_argument("--images", type=int, default=200, help="test images per line, half of them NG")
    asked = parser.parse_args()
    plugins.install()
    with tempfile.TemporaryDirectory() as name:
        plan = _planned(Path(name), asked.lines, asked.images)
        started = time.perf_counter()
        with connected():
            summary = run_plan(plan)
        print(f"{summary.units} units, {len(summary.failed)} failed: {time.perf_counter() - started:.0f} s", flush=True)
        run = RunStore.of(plan)
        for item in list(plan.store.list(f"{run.root}/signals/")):
            plan.store.delete(item.key)
        print(f"{asked.lines} lines × {made.MODELS} models × {asked.images} images, {os.cpu_count()} cores")
        for what in ("first", "again"):
            _time(what, plan)
        print(f"page {len(run.get_report('index.html')) / 1e6:.1f} MB")


def _planned(folder: Path, lines: int, images: int) -> Plan:
    store = open_store(str(folder / "store"))
    half = images // 2
    made.put_lines(store, write_strips(folder / "images", Sizes(TRAIN, half, images - half, 0)), lines)
    experiment = made.experiment(store, "report", Resources(gpus=0.0, measure_s=0.01))
    also = {"inspect": True, "annotation": Annotation(), "input": InputChoice()}
    return make_plan(experiment.model_copy(update=also))


def _time(what: str, plan: Plan) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    publish_again(plan)
    print(f"{what:6}{time.perf_counter() - started:7.1f} s, {time.process_time() - cpu:6.1f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
