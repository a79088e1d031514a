"""Nodes without a GPU decode ahead of the units: the bookkeeping, on the session's cluster.

test_gpu_runs.py has a whole run with such a node.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.cache import open_cached
from raybench.data.geometry import InputFit
from raybench.data.pack import PackOptions, pack
from raybench.runs.run import RunStore, scored_name
from raybench.scheduler import prefetch
from raybench.scheduler.capacity import Capacity, Node
from raybench.scheduler.prefetch import Prefetcher, Wanted, clear, wanted
from raybench.scheduler.tasks import LineContext, pack_args
from raybench.scheduler.window import wait
from raybench.store import Store, open_store

pytestmark = pytest.mark.cluster
LINES = ("first", "second", "third")


@dataclass(frozen=True)
class Helped:
    """A cluster of one GPU slot and the session's node, which helps it."""

    capacity: Capacity


@pytest.fixture
def plan(tmp_path: Path, strips: Path) -> Plan:
    store = open_store(str(tmp_path / "store"))
    for line in LINES:
        pack(open_store(str(strips)), store.sub("lines"), line, PackOptions(shard_rows=8))
    models = tuple(ModelChoice(name="fake", label=f"grid-{grid}", config={"grid": grid}) for grid in (8, 16))
    common = {"store": store.uri(), "lines": ("*",), "squashed_twins": False, "false_alarm_budget": 0.3}
    return make_plan(Experiment(name="helped", models=models, **common))


@pytest.fixture
def run(plan: Plan) -> RunStore:
    return RunStore(plan.store, "helped")


def helped(plan: Plan, run: RunStore, found: Sequence[Wanted]) -> Prefetcher:
    node = Node(ray.get_runtime_context().get_node_id(), 1, 0)
    cluster = Helped(Capacity(1, 1, 1.0, "cuda", (), (node,)))
    contexts = {
        line: pack_args(LineContext(run, plan.lines_of(line), manifest, "cuda", helped=True))
        for line, manifest in plan.manifests.items()
    }
    return Prefetcher(found, cluster, contexts)  # type: ignore[arg-type]


def work_off(one: Prefetcher, begun: int) -> None:
    until = time.monotonic() + 60
    one.fill(begun)
    while one.running and time.monotonic() < until:
        one.receive(wait(one.running))
        one.fill(begun)
    assert not one.running


def names(ahead: Store) -> set[str]:
    return {item.key for item in ahead.list()}


def test_what_is_wanted_first_come_the_shards_to_train_on(plan: Plan) -> None:
    found = list(wanted(plan.units, plan.manifests))
    shards = [shard for line in LINES for shard in plan.manifests[line].shards]
    assert len(found) == len(shards)  # once for both models
    assert {each.shard for each in found} == set(shards)
    order = [(each.unit, each.shard.split != "train") for each in found]
    assert order == sorted(order)
    assert all(plan.units[each.unit].line == each.line for each in found)
    scored = {"train", *(scored_name(shard) for shard in plan.manifests[LINES[0]].scored_shards)}
    judged = {unit.unit_id: scored for unit in plan.units if unit.line == LINES[0]}  # nothing of it is decoded again
    assert {each.line for each in wanted(plan.units, plan.manifests, judged)} == set(LINES[1:])


@pytest.mark.usefixtures("cluster")
def test_another_node_has_the_same_images_without_decoding_them(plan: Plan, run: RunStore, tmp_path: Path) -> None:
    found = list(wanted(plan.units, plan.manifests))
    work_off(helped(plan, run, found), begun=len(plan.units))
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "other").mkdir()
    empty = open_store(str(tmp_path / "empty"))
    for each in found:
        manifest, lines = plan.manifests[each.line], plan.lines_of(each.line)
        carried = open_cached(empty, manifest, each.shard, each.fit, cache, prefetched=run.ahead)
        decoded = open_cached(lines, manifest, each.shard, each.fit, tmp_path / "other")
        assert carried.index == decoded.index
        rows = range(len(decoded))
        assert np.array_equal(carried.batch(rows), decoded.batch(rows))
    clear(run)
    assert names(run.ahead) == set()


@pytest.mark.usefixtures("cluster")
def test_no_more_is_decoded_than_soon_begins(plan: Plan, run: RunStore) -> None:
    found = list(wanted(plan.units, plan.manifests))
    ahead = [each for each in found if each.unit < 2]
    assert 0 < len(ahead) < len(found)
    one = helped(plan, run, found)
    work_off(one, begun=0)
    assert len(names(run.ahead)) == 2 * len(ahead)


@pytest.mark.usefixtures("cluster")
def test_the_oldest_leave_when_there_are_too_many(plan: Plan, run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LIMIT_MB", 0)
    work_off(helped(plan, run, list(wanted(plan.units, plan.manifests))), begun=len(plan.units))
    assert len(names(run.ahead)) == 2  # of the last one


@pytest.mark.usefixtures("cluster")
def test_a_shard_that_cannot_be_decoded_is_left_to_its_unit(plan: Plan, run: RunStore) -> None:
    never_cached = InputFit("native", 40, 48)
    found = [replace(each, fit=never_cached) for each in wanted(plan.units, plan.manifests)]
    plan.lines_of(found[0].line).delete(found[0].shard.key)
    one = helped(plan, run, found)
    work_off(one, begun=len(plan.units))  # one fails, and there is a pause
    assert names(run.ahead) == set()


def test_without_nodes_that_help_there_is_nothing_to_do(plan: Plan, run: RunStore) -> None:
    cluster = Helped(Capacity(1, 1, 0.0, "cpu", (Node("a", 1, 0),)))
    one = Prefetcher(wanted(plan.units, plan.manifests), cluster, {})  # type: ignore[arg-type]
    one.fill(begun=len(plan.units))
    assert not one.running
