"""Data inspections of a run, on a real Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Resources
from raybench.config.plan import Plan, make_plan
from raybench.data.inspection.inspection import Inspection, inspection_key, read_inspection
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.pack import PackOptions, pack
from raybench.report.publish import cached_report
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import Backlog, PhaseCount
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from raybench.worker.inspect import inspections_in
from tests.support.finished import FinishedRun

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


class Watch:
    """What a run has shown of its inspections. kill: workers that inspect, that many times."""

    def __init__(self, kill: int = 0) -> None:
        self.seen: PhaseCount | None = None
        self.kill = kill

    def __call__(self, backlog: Backlog) -> None:
        self.seen = backlog.tallies.get("inspect")
        for process in inspecting() if self.kill else ():
            with contextlib.suppress(psutil.Error):
                process.kill()
                self.kill -= 1


def inspecting() -> Iterator[psutil.Process]:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::inspect"):
                yield process


def page_of(plan: Plan) -> str:
    return RunStore.of(plan).get_report("index.html").decode()


@contextlib.contextmanager
def damaged(lines: Store, shard: ShardInfo) -> Iterator[None]:
    """While the block runs, a byte of the shard is another one."""
    before = lines.get(shard.key)
    lines.put(shard.key, bytes([*before[:2000], before[2000] ^ 1, *before[2001:]]))
    yield
    lines.put(shard.key, before)


def training_shard(manifest: Manifest) -> ShardInfo:
    return next(shard for shard in manifest.shards if shard.split == "train")


def test_lines_are_inspected_once_without_being_asked_for(finished: FinishedRun, tmp_path: Path) -> None:
    store, other = (open_store(str(tmp_path / name)) for name in ("store", "other"))
    for lines, line, images in ((store.sub("lines"), "strip", 8), (other, "far", 7)):
        strips = write_strips(tmp_path / line, Sizes(images, 2, 2, 0))
        pack(open_store(str(strips)), lines, line, PackOptions(shard_rows=4))
    before = list(other.list())
    update = {"store": store.uri(), "inspect": True, "lines": ("strip", other.uri("far"))}
    update |= {"annotation": Annotation(signals=2)}
    plan = make_plan(finished.experiment.model_copy(update=update))
    watch = Watch()
    assert run_plan(plan, watch).uninspected == {}
    assert watch.seen == PhaseCount(done=2, total=2)
    assert list(other.list()) == before  # it is only read
    found = inspections_in(RunStore(plan.store, "night"), plan)
    assert {line: one.images for line, one in found.items() if isinstance(one, Inspection)} == {"far": 11, "strip": 12}
    assert read_inspection(store.sub("lines"), plan.manifests["strip"]) == found["strip"]
    learnt = [key for key in (item.key for item in plan.store.list()) if key.endswith("signals.npz")]
    assert sorted(learnt) == ["lines/strip/signals.npz", "runs/night/lines/far/signals.npz"]
    for images in (11, 12):
        assert page_of(plan).count(f"Data quality: nothing is wrong with the {images} images") == 1
    assert cached_report(plan, RunStore(plan.store, "night"))
    annotation = plan.experiment.annotation.model_copy(update={"signals": 7})
    other_signals = plan.experiment.model_copy(update={"annotation": annotation})
    assert cached_report(replace(plan, experiment=other_signals), RunStore(plan.store, "night")) is None
    run_plan(plan, watch)
    assert watch.seen is None


def inspected(finished: FinishedRun, resources: Resources) -> Plan:
    """The finished run, whose line is to be inspected."""
    return make_plan(finished.experiment.model_copy(update={"inspect": True, "resources": resources}))


def test_a_failed_inspection_is_a_row_and_is_tried_again(finished: FinishedRun) -> None:
    lines = finished.store.sub("lines")
    run, watch = RunStore(finished.store, "night"), Watch()
    assert "Data quality: not inspected yet" in page_of(make_plan(finished.experiment))
    assert run_plan(make_plan(finished.experiment), watch).failed == {}
    assert watch.seen is None
    plan = inspected(finished, finished.experiment.resources)
    assert cached_report(plan, run) is None  # it was not asked for then
    with damaged(lines, training_shard(plan.manifests["strip"])):
        for attempt in (1, 2):
            summary = run_plan(plan, watch)
            assert (summary.failed, summary.reused) == ({}, 1)
            failure = summary.uninspected["strip"]
            assert (failure.phase, failure.error_type, failure.attempt) == ("inspect", "IntegrityError", attempt)
            assert f"Data quality: not inspected, attempt {attempt} ended with IntegrityError" in page_of(plan)
            assert cached_report(plan, run) is None
    assert watch.seen == PhaseCount(total=1, failed=1)
    assert run_plan(plan).uninspected == {}
    assert "Data quality: nothing is wrong" in page_of(plan)
    assert cached_report(plan, run)


def test_a_hang_is_ended_and_not_tried_again(finished: FinishedRun) -> None:
    plan, watch = inspected(finished, Resources(unit_timeout_s=1e-3, retries=3)), Watch()
    summary = run_plan(plan, watch)
    failure = summary.uninspected["strip"]
    assert (failure.error_type, failure.attempt, summary.failed) == ("TimeLimit", 1, {})
    assert "resources.unit_timeout_s" in failure.message
    assert watch.seen == PhaseCount(total=1, failed=1)
    assert "not inspected, attempt 1 ended with TimeLimit" in page_of(plan)


@pytest.mark.parametrize(("retries", "fails"), [(1, False), (0, True)])
def test_a_worker_that_dies_is_replaced_as_often_as_is_said(finished: FinishedRun, retries: int, fails: bool) -> None:
    plan, watch = inspected(finished, Resources(retries=retries)), Watch(kill=1)
    summary = run_plan(plan, watch)
    assert watch.kill == 0
    assert ("strip" in summary.uninspected, finished.store.exists(f"lines/{inspection_key('strip')}")) == (
        fails,
        not fails,
    )
    assert summary.failed == {}
