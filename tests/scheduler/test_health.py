"""Which node is to blame, and when a run stops because everything fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import make_plan
from raybench.errors import SystematicFailure
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.scheduler import health
from raybench.scheduler.backlog import Job
from raybench.scheduler.health import ALIKE, MAX_NODES, PROVEN, SUSPICIOUS, Breaker, NodeHealth
from raybench.scheduler.runner import run_plan
from raybench.store import Store
from tests.support.backlog import unit

BOTH = {"good", "bad"}
DENIED = "s3://b/runs/night: no credentials found"


def train(number: int, model: str = "padim") -> Job:
    return Job("train", replace(unit("a", number), model=model), 0)


def failed_on_bad(health: NodeHealth, count: int) -> list[Job]:
    jobs = [train(number) for number in range(count)]
    for job in jobs:
        health.failed(job, "bad", DENIED)
    return jobs


def test_a_task_is_done_again_on_another_node() -> None:
    health = NodeHealth()
    (job,) = failed_on_bad(health, 1)
    assert health.avoided(job, BOTH) == {"bad"}
    assert health.avoided(train(9), BOTH) == set()
    assert health.may_try_elsewhere(job, BOTH)


def test_a_node_that_is_left_alone_is_not_avoided() -> None:
    health = NodeHealth()
    (job,) = failed_on_bad(health, 1)
    assert not health.may_try_elsewhere(job, {"bad"})
    assert health.avoided(job, {"bad"}) == set()
    assert health.avoided(job, set()) == set()


def test_a_node_that_fails_several_gets_no_more_until_one_has_ended_elsewhere() -> None:
    health = NodeHealth()
    first, *others = failed_on_bad(health, SUSPICIOUS)
    assert health.avoided(train(9), BOTH) == {"bad"}
    for job in (first, *others):  # nor does any other node finish them: they are to blame themselves
        health.failed(job, "good", DENIED)
        health.failed_by_itself(job, "good")
    assert health.avoided(train(9), BOTH) == set()


def test_a_node_is_the_cause_of_what_others_finish() -> None:
    health = NodeHealth()
    jobs = failed_on_bad(health, PROVEN + 1)
    causes = [health.finished(job, "good") for job in jobs]
    assert causes == [{}] * (PROVEN - 1) + [{"bad": DENIED}] + [{}]


def test_a_node_that_finishes_a_task_begins_anew() -> None:
    health = NodeHealth()
    jobs = failed_on_bad(health, SUSPICIOUS)
    health.finished(train(9), "bad")
    assert not health.is_suspicious("bad")
    assert [health.finished(job, "good") for job in jobs] == [{}] * SUSPICIOUS


def test_a_node_that_fails_one_model_after_the_other_is_suspicious() -> None:
    """As with a broken installation, whose errors look like the models'; the failures of one model prove nothing."""
    health = NodeHealth()
    for number in range(9):
        health.failed_by_itself(train(number), "bad")
    assert not health.is_suspicious("bad")
    for model in ("dfm", "patchcore"):
        health.failed_by_itself(train(0, model), "bad")
    assert health.is_suspicious("bad")
    assert not health.is_suspicious("")


def test_a_task_that_fails_on_several_nodes_fails() -> None:
    health, job, nodes = NodeHealth(), train(0), {f"node {number}" for number in range(9)}
    for node_id in sorted(nodes)[:MAX_NODES]:
        assert health.may_try_elsewhere(job, nodes)
        health.failed(job, node_id, DENIED)
    assert not health.may_try_elsewhere(job, nodes)


def failure(message: str, error_type: str = "RuntimeError") -> Failure:
    return Failure("train", error_type, message, "", 1)


def fail(breaker: Breaker, count: int, models: int = 3, nodes: int = 2, kinds: int = 1) -> None:
    for number in range(count):
        message = f"s3://b/{number}: {'word ' * (number % kinds)}no credentials found [node 10.0.0.{number}]"
        breaker.failed(f"model {number % models}", f"node {number % nodes}", failure(message))


def test_a_run_in_which_everything_fails_alike_stops() -> None:
    breaker = Breaker(models=10)
    fail(breaker, ALIKE - 1)
    assert not breaker.is_open(alive=2)
    fail(breaker, 1)
    assert breaker.is_open(alive=2)
    breaker.succeeded()
    assert not breaker.is_open(alive=2)


@pytest.mark.parametrize("how", [{"models": 1}, {"nodes": 1}, {"kinds": 2}])
def test_one_model_or_one_node_or_different_failures_do_not_stop_it(how: dict[str, int]) -> None:
    breaker = Breaker(models=10)
    fail(breaker, ALIKE, **how)
    assert not breaker.is_open(alive=2)


def test_it_stops_where_there_is_one_model_on_one_node() -> None:
    breaker = Breaker(models=1)
    fail(breaker, ALIKE, models=1, nodes=1)
    assert breaker.is_open(alive=1)
    assert not breaker.is_open(alive=2)


def test_a_store_that_refuses_is_no_model_s_fault() -> None:
    breaker = Breaker(models=10)
    for number in range(ALIKE):
        breaker.failed("model", f"node {number % 2}", failure(DENIED, "StoreDenied"))
    assert breaker.is_open(alive=2)


def test_a_model_that_has_failed_before_counts() -> None:
    """Units of one model come together, so that the last fifty failures may be those of one."""
    breaker = Breaker(models=10)
    for number in range(3 * ALIKE):
        assert not breaker.is_open(alive=1)
        breaker.failed(f"model {number // ALIKE}", "node", failure("broken"))
        if number == 2 * ALIKE:
            break
    assert breaker.is_open(alive=1)


def test_lost_workers_that_nobody_can_place_stop_it_too() -> None:
    breaker = Breaker(models=3)
    for number in range(ALIKE):
        breaker.failed(f"model {number % 3}", "", failure("the worker died", "WorkerCrashedError"))
    assert breaker.is_open(alive=9)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_run_of_broken_models_stops(experiment: Experiment, packed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ALIKE", 6)
    models = tuple(
        ModelChoice(name="fake", label=f"broken-{grid}", config={"fail_in": "fit", "grid": grid}) for grid in (4, 8, 16)
    )
    chosen = experiment.model_copy(update={"models": models, "seeds": (0, 1, 2)})
    with pytest.raises(SystematicFailure, match=r"same way.*ModelError: fake was told to fail in fit"):
        run_plan(make_plan(chosen))
    assert len(RunStore(packed, "night").failures()) in {6, 7}  # by the seventh the third model has failed
