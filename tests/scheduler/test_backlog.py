from __future__ import annotations

import math
import random
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.runs.run import score_name, scored_name
from raybench.scheduler import backlog as backlog_module
from raybench.scheduler import backlog as backlogs
from raybench.scheduler.backlog import Backlog, Job
from tests.support.backlog import drain, manifest, together, unit

TraceFunction = Callable[[FrameType, str, Any], Any]


@settings(deadline=None)
@given(
    seeds=st.integers(1, 4),
    shards=st.integers(0, 4),
    window=st.integers(1, 5),
    per_job=st.sampled_from([0, 25, 1000]),
    data=st.data(),
)
def test_every_job_once_and_in_order(seeds: int, shards: int, window: int, per_job: int, data: st.DataObject) -> None:
    lines = {name: manifest(name, shards) for name in ("a", "b")}
    units = [unit(line, seed) for line in lines for seed in range(seeds)]
    phases = st.sampled_from(["train", "score", "aggregate", "measure"])
    failing = set(data.draw(st.lists(st.tuples(st.sampled_from([one.unit_id for one in units]), phases), max_size=3)))
    backlog = Backlog(units, lines, {}, per_job)
    order = drain(backlog, window, random.Random(data.draw(st.integers(0, 99))), failing)
    keys = [(job.unit.unit_id, job.phase, shard) for job in order for shard in job.shards or [None]]
    assert len(keys) == len(set(keys))
    assert all(job.images <= max(per_job, 10) for job in order)
    broken = {unit_id for unit_id, _ in failing}
    for one in units:
        phases_run = [job.phase for job in order if job.unit == one]
        if one.unit_id not in broken:
            jobs = math.ceil(shards / max(1, per_job // 10))
            assert phases_run == ["train", *["score"] * jobs, "aggregate", "measure"]
    for tally in backlog.tallies.values():
        assert tally.done + tally.failed == tally.total


@settings(deadline=None)
@given(window=st.integers(1, 5), data=st.data())
def test_a_detector_for_several_lines_is_fitted_once_and_before_all_else(window: int, data: st.DataObject) -> None:
    lines = {name: manifest(name, 2) for name in ("a", "b", "c")}
    alone = [unit(line, 0) for line in lines]
    shared = [one for seed in (0, 1) for one in together(["a", "b", "c"], seed)]
    units = data.draw(st.permutations([*alone, *shared]))
    failing = set(data.draw(st.lists(st.sampled_from([(one.unit_id, "fit") for one in shared]), max_size=1)))
    backlog = Backlog(units, lines, {})
    assert backlog.tallies["fit"].total == 2
    order = drain(backlog, window, random.Random(data.draw(st.integers(0, 99))), failing)
    fits = [job.unit.fit_id for job in order if job.phase == "fit"]
    assert sorted(fits) == sorted({one.fit_id for one in shared})
    broken = {job.unit.fit_id for job in order if (job.unit.unit_id, job.phase) in failing}
    for one in units:
        phases = [job.phase for job in order if job.unit == one and job.phase != "fit"]
        assert phases == ([] if one.fit_id in broken else ["train", "score", "score", "aggregate", "measure"])
    for at, job in enumerate(order):
        if job.unit.together and job.phase != "fit":
            assert any(before.phase == "fit" and before.unit.fit_id == job.unit.fit_id for before in order[:at])
    assert not backlog.waiting
    assert backlog.units_open == 0
    for tally in backlog.tallies.values():
        assert tally.done + tally.failed == tally.total


def test_units_that_wait_for_a_detector_fail_with_it() -> None:
    lines = {name: manifest(name, 1) for name in ("a", "b")}
    shared = together(["a", "b"], 0)
    backlog = Backlog([*shared, unit("a", 0)], lines, {})
    fit, other = backlog.take(busy=False), backlog.take(busy=True)
    assert fit is not None
    assert other is not None
    assert (fit.phase, other.unit.model, other.phase) == ("fit", "fake", "train")
    assert backlog.units_open == 3
    assert backlog.fail(fit) == shared
    assert backlog.fail(fit) == []
    assert backlog.units_open == 1


def test_a_detector_that_is_fitted_again_is_still_one() -> None:
    lines = {name: manifest(name, 1) for name in ("a", "b")}
    backlog = Backlog(together(["a", "b"], 0), lines, {})
    fit = backlog.take(busy=False)
    assert fit is not None
    assert backlog.take(busy=True) is None
    backlog.put_back(fit, 0.0)
    assert backlog.waiting
    order = drain(backlog, 2, random.Random(0), set())
    assert [job.phase for job in order].count("fit") == 1
    assert (order[0].unit.line, order[0].phase) == ("a", "fit")
    assert sum(job.phase == "measure" for job in order) == 2


def test_a_fitted_detector_is_not_fitted_again() -> None:
    lines = {name: manifest(name, 1) for name in ("a", "b")}
    shared = together(["a", "b"], 0)
    commits = {one.unit_id: {"fit"} for one in shared} | {shared[0].unit_id: {"fit", "train"}}
    backlog = Backlog(shared, lines, commits)
    assert "fit" not in backlog.tallies
    order = drain(backlog, 1, random.Random(0), set())
    assert [(job.unit.line, job.phase) for job in order if job.phase in {"fit", "train"}] == [("b", "train")]


def test_what_is_committed_is_not_done_again() -> None:
    lines = {"a": manifest("a", 2)}
    done, trained, scored = (unit("a", seed) for seed in range(3))
    first, second = (score_name(shard.key) for shard in lines["a"].scored_shards)
    commits = {
        done.unit_id: {"train", first, second, "quality", "measure", "finished"},
        trained.unit_id: {"train", first, "failure"},
        scored.unit_id: {"train", first, second},
    }
    backlog = Backlog([done, trained, scored], lines, commits)
    order = drain(backlog, 1, random.Random(0), set())
    assert backlog.reused == 1
    assert [(job.unit.seed, job.phase) for job in order] == [
        (2, "aggregate"),
        (1, "score"),
        (1, "aggregate"),
        (2, "measure"),
        (1, "measure"),
    ]
    assert backlog.tallies["score"].images == backlog.tallies["score"].images_total == 40


def test_shards_that_are_scored_are_judged_apart_from_those_that_are_not() -> None:
    lines = {"a": manifest("a", 4)}
    relabelled, one = unit("a", 0), lines["a"].scored_shards
    commits = {relabelled.unit_id: {"train", "measure", *(scored_name(shard) for shard in one[:3])}}
    backlog = Backlog([relabelled], lines, commits, images_per_job=20)
    order = drain(backlog, 1, random.Random(0), set())
    scores = [(job.judges, job.shards) for job in order if job.phase == "score"]
    assert scores == [(True, one[:2]), (True, one[2:3]), (False, one[3:])]


def test_a_trained_unit_is_scored_before_the_next_is_trained() -> None:
    lines = {"a": manifest("a", 2)}
    order = drain(Backlog([unit("a", 0), unit("a", 1)], lines, {}), 1, random.Random(0), set())
    assert [(job.unit.seed, job.phase) for job in order[:5]] == [
        (0, "train"),
        (0, "score"),
        (0, "score"),
        (0, "aggregate"),
        (1, "train"),
    ]


UNITS, BYTES_PER_UNIT = 20_000, 32


def held() -> int:
    """Bytes that the backlog has allocated: its process may have threads that do other things."""
    own = [tracemalloc.Filter(True, backlogs.__file__), tracemalloc.Filter(True, "<string>")]  # dataclasses' __init__
    traces = tracemalloc.take_snapshot().filter_traces(own)
    return sum(trace.size for trace in traces.statistics("filename"))


@pytest.mark.slow
def test_units_are_references_until_their_turn() -> None:
    """What the backlog itself holds, over the units that the plan has anyway; and that it does not grow on the way."""
    lines = {"a": manifest("a", 12)}
    units = [unit("a", seed) for seed in range(UNITS)]
    for one in units:
        vars(one)["unit_id"] = f"{one.seed:020x}"  # as if it had been computed: the plan does that
    tracemalloc.start()
    backlog = Backlog(units, lines, {})
    waiting, grown = held(), []
    assert 1 < waiting / UNITS < BYTES_PER_UNIT
    assert backlog.tallies["score"].total == 12 * UNITS
    for turn in range(2000):
        while (job := backlog.take(busy=True)) and job.phase != "aggregate":
            backlog.finish(job)
        assert job is not None
        backlog.fail(job)
        if turn % 100 == 0:
            grown.append(held())
    tracemalloc.stop()
    assert max(grown) <= waiting + 2**16
    assert backlog.units_open == UNITS - 2000


def steps(count: int, outcome: Callable[[Backlog, Job], object]) -> int:
    """Bytecode instructions in the backlog until nothing is left, where all units stand half-way meanwhile."""
    lines, done = {"a": manifest("a", 2)}, 0
    backlog = Backlog([unit("a", seed) for seed in range(count)], lines, {})
    jobs = []
    while job := backlog.take(busy=True):
        jobs.append(job)  # all are in training at once

    def trace(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        nonlocal done
        if frame.f_code.co_filename != backlog_module.__file__:
            return None
        frame.f_trace_opcodes = True
        done += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for job in jobs:
            backlog.finish(job)
        while job := backlog.take(busy=False):
            outcome(backlog, job)
    finally:
        sys.settrace(before)
    return done


def put_back_once(backlog: Backlog, job: Job, seen: set[tuple[str, str, str]] | None = None) -> None:
    key = (job.unit.unit_id, job.phase, job.shards[0].key if job.shards else "")
    if seen is not None and key not in seen:
        seen.add(key)
        backlog.put_back(job, 0.0)
    else:
        backlog.finish(job)


@pytest.mark.parametrize("name", ["finish", "fail", "put back"])
def test_no_step_looks_at_all_units(name: str) -> None:
    def work(count: int) -> float:
        seen: set[tuple[str, str, str]] = set()
        outcomes: dict[str, Callable[[Backlog, Job], object]] = {
            "finish": Backlog.finish,
            "fail": Backlog.fail,
            "put back": lambda backlog, job: put_back_once(backlog, job, seen),
        }
        return steps(count, outcomes[name]) / count

    assert work(100) < 1.2 * work(20)
