"""Time to run a finished run of 10,000 units again, against the real S3 server, in a driver of its own.

The units are fake ones: one is really trained, scored and measured; its commits are copied under the other ids.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.pack import PackOptions, pack
from raybench.report.publish import publish_again
from raybench.runs.ledger import Ledger
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore
from raybench.scheduler.cluster import connected
from raybench.scheduler.runner import run_plan
from raybench.store import open_store
from raybench.store.server import embedded_server
from tests.support import plugins

UNITS = 10_000
LINES, MODELS = 10, 10
WRITERS = 32
DRIVER = "from raybench.cli import main; main()"


def prepare(folder: Path, units: int, lines: int = LINES, uri: str = "s3://resume") -> Plan:
    """A run with `units` finished units: lines × 10 models × seeds."""
    store = open_store(uri)
    store.create()
    images = write_strips(folder / "images", Sizes(24, 6, 6, 0))
    for number in range(lines):
        pack(open_store(str(images)), store.sub("lines"), f"line-{number}", PackOptions(shard_rows=12))
    models = tuple(
        ModelChoice(name="fake", label=f"grid-{grid}", config={"grid": grid}) for grid in range(8, 8 + MODELS)
    )
    experiment = Experiment(
        name="long",
        store=store.uri(),
        lines=("line-*",),
        models=models,
        seeds=tuple(range(units // lines // MODELS)),
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
        annotation=Annotation(signals=0),
    )
    plan = make_plan(experiment)
    one = experiment.model_copy(update={"name": "one", "lines": ("line-0",), "models": models[:1], "seeds": (0,)})
    with connected("local"):
        run_plan(make_plan(one))
    source = make_plan(one).units[0]
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda unit: _copy(plan, source, unit), plan.units))
    return plan


def _copy(plan: Plan, source: Unit, unit: Unit) -> None:
    """The commits of `source`, in run "one", as those of `unit`."""
    here, there = RunStore(plan.store, "one"), RunStore(plan.store, "long")
    result = here.read(source.unit_id, "finished", UnitResult)
    if result is None:
        raise RuntimeError("the one real unit has no result")
    images = there.put_blob(unit.unit_id, "images", here.get_blob(result.judged.images))
    held_out = there.put_blob(unit.detector_id, "held_out", here.get_blob(result.trained.held_out))
    copy = replace(
        result,
        unit_id=unit.unit_id,
        line=unit.line,
        model=unit.model,
        seed=unit.seed,
        trained=replace(result.trained, detector_id=unit.detector_id, held_out=held_out),
        measured=replace(result.measured, detector_id=unit.detector_id),
        judged=replace(result.judged, unit_id=unit.unit_id, images=images),
    )
    there.commit(unit.detector_id, "train", copy.trained)
    there.commit(unit.detector_id, "measure", copy.measured)
    there.commit(unit.unit_id, "quality", copy.judged)
    there.commit(unit.unit_id, "finished", copy)


def again(plan: Plan, folder: Path) -> tuple[float, str]:
    """Wall time of `raybench run` as a process, Python's start and Ray's included, and its last lines."""
    path = folder / "long.yaml"
    path.write_text(plan.experiment.to_yaml())
    command = [sys.executable, "-c", DRIVER, "run", str(path), "--out", str(folder / "out")]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, done.stdout.splitlines()[-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=UNITS)
    chosen = parser.parse_args()
    plugins.install()
    with tempfile.TemporaryDirectory() as name, embedded_server(Path(name, "server")):
        folder = Path(name)
        plan = prepare(folder, chosen.units)
        run = RunStore(plan.store, "long")
        _timed("listing the commits of its units", lambda: f"{len(Ledger(run, {}).commits(plan.units))} units")
        seconds, said = again(plan, folder)
        print(f"first: {seconds:.1f} s ({said})", flush=True)
        _timed("planning", lambda: f"{len(make_plan(plan.experiment).units)} units")
        _timed("reading the ledger", lambda: f"{len(Ledger.read(run).done)} units, {len(Ledger.read(run).pages)} pages")
        for _ in range(2):
            seconds, said = again(plan, folder)
            print(f"the same command again, from start to exit: {seconds:.1f} s ({said})", flush=True)
        _timed("building the report anew", lambda: f"{len(publish_again(plan).rows)} rows")


def _timed(what: str, work: Callable[[], str]) -> None:
    started = time.perf_counter()
    said = work()
    print(f"{what}: {time.perf_counter() - started:.1f} s ({said})", flush=True)


if __name__ == "__main__":
    main()
