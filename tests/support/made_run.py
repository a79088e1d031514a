"""A run in a folder, made without a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.analysis.anomaly_types import references
from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.data.pack import PackOptions, pack
from raybench.runs.at_work import working
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker.context import WorkerContext
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.timing import measure
from raybench.worker.train import train


@contextlib.contextmanager
def few_samples(images: int = 6) -> Iterator[None]:
    """Learn anomaly types from so few images, in this process; as many as usual take many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "LEARNT_FROM", images)
        yield


def planned(folder: Path, images: Path, shard_rows: int, *models: ModelChoice) -> Plan:
    """The run `night` of these models, or of the fake one, on `images` as the line `strip`, in a store in `folder`."""
    store = open_store(str(folder))
    pack(open_store(str(images)), store.sub("lines"), "strip", PackOptions(shard_rows=shard_rows))
    experiment = Experiment(
        name="night",
        store=store.uri(),
        lines=("strip",),
        models=models or (ModelChoice(name="fake"),),
        false_alarm_budget=0.2,
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
    )
    return make_plan(experiment)


def site_of(plan: Plan, cache: Path) -> WorkerContext:
    run = RunStore.of(plan)
    return WorkerContext(run, plan.store.sub("lines"), cache, "cpu", 1, measure_s=0.05)


def all_commits(run: RunStore) -> dict[str, set[str]]:
    """The names of all commits of a run's store, by folder below `units/`."""
    commits: dict[str, set[str]] = {}
    for item in run.store.list("units/"):
        folder, _, name = item.key.removeprefix("units/").partition("/")
        if name.endswith(".json"):
            commits.setdefault(folder, set()).add(name.removesuffix(".json"))
    return commits


def begin(plan: Plan) -> RunStore:
    """Say which units the run uses, as a driver does when it begins."""
    run = RunStore.of(plan)
    with working(run, "raybench run", plan):
        run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
    return run


def finish(unit: Unit, manifest: Manifest, context: WorkerContext) -> None:
    """All phases of a unit, as a cluster does them."""
    train(unit, manifest, context)
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    merge(unit, manifest, context.run, Partials())
    measure(unit, manifest, context)
    finalize(unit, context.run)
