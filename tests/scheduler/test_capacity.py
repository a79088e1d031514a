"""Nodes that come and go; no cluster is needed to ask how many tasks fit them."""

from __future__ import annotations

import pytest

from raybench.config.experiment import Resources
from raybench.errors import InputError
from raybench.scheduler.capacity import REFRESH_S, Fleet, Node, assumed, fit
from raybench.scheduler.merging import beside

CPU, GPU, SMALL = Node("c", 32, 0), Node("g", 16, 4), Node("s", 1, 1)


class Cluster:
    """Nodes and a clock that a test moves on."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = list(nodes)
        self.now = 0.0
        self.asked = 0

    def alive(self) -> list[Node]:
        self.asked += 1
        return list(self.nodes)

    def fleet(self, **resources: object) -> Fleet:
        return Fleet(Resources.model_validate(resources), self.alive, lambda: self.now)


@pytest.mark.parametrize(
    ("resources", "nodes", "count", "device"),
    [
        ({}, [CPU], 32, "cpu"),
        ({"cpus": 5}, [CPU, Node("d", 4, 0)], 6, "cpu"),
        ({}, [CPU, GPU], 4, "cuda"),
        ({"gpus": 0.5, "cpus": 4}, [GPU], 4, "cuda"),
        ({"gpus": 0}, [CPU, GPU], 48, "cpu"),
        ({"cpus": 2}, [GPU, SMALL], 4, "cuda"),
    ],
)
def test_what_fits(resources: dict[str, object], nodes: list[Node], count: int, device: str) -> None:
    found = fit(Resources.model_validate(resources), nodes)
    assert (found.count, found.device) == (count, device)


def test_nodes_without_gpus_help_where_gpus_train() -> None:
    found = fit(Resources(), [CPU, GPU, Node("head", 0, 0)])
    assert found.nodes == (GPU,)
    assert found.helpers == (CPU,)
    assert fit(Resources(gpus=0), [CPU, GPU]).helpers == ()


def test_merging_and_the_report_go_to_the_largest_node_without_gpus() -> None:
    large, small = Node("ab" * 28, 32, 0), Node("cd" * 28, 4, 0)  # Ray wants identifiers of its own form
    strategy = beside(Cluster(GPU, small, large).fleet())["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (large.node_id, True)
    assert [beside(Cluster(GPU, small, large).fleet(), at)["scheduling_strategy"].node_id for at in (1, 2)] == [
        small.node_id,
        large.node_id,
    ]
    assert beside(Cluster(CPU).fleet()) == {}
    assert beside(Cluster(CPU).fleet(), 1) == {"scheduling_strategy": "SPREAD"}
    assert beside(Cluster(GPU).fleet()) == {}


def test_the_window_follows_the_cluster() -> None:
    cluster = Cluster(Node("a", 4, 0))
    fleet = cluster.fleet()
    assert fleet.has_room(7, 0.0)
    assert not fleet.has_room(8, 0.0)
    cluster.nodes.append(Node("b", 4, 0))
    assert not fleet.has_room(8, 0.0)
    cluster.now += REFRESH_S
    assert fleet.has_room(15, 0.0)
    assert not fleet.has_room(16, 0.0)
    assert cluster.asked == 2


def test_a_lost_cluster_is_asked_for_one_task_at_a_time_and_stays_of_its_kind() -> None:
    cluster = Cluster(GPU, CPU)
    fleet = cluster.fleet(in_flight=1)
    cluster.nodes = [CPU]
    fleet.look_again()
    lost = fleet.slots
    assert (len(lost.nodes), lost.device) == (0, "cuda")
    assert fleet.has_room(0, 0.0)
    assert not fleet.has_room(1, 1.0)
    cluster.nodes = [GPU]
    cluster.now += REFRESH_S
    assert [node.node_id for node in fleet.slots.nodes] == [GPU.node_id]


def test_a_run_on_cpus_stays_on_cpus() -> None:
    cluster = Cluster(CPU)
    fleet = cluster.fleet()
    cluster.nodes.append(GPU)
    fleet.look_again()
    assert (fleet.slots.device, fleet.slots.count, fleet.fixed_share) == ("cpu", 48, 0.0)


def test_small_shares_are_bounded_by_gpus_and_by_cpus() -> None:
    fleet = Cluster(Node("g", 8, 1)).fleet(in_flight=1)
    assert fleet.fixed_share is None
    assert fleet.has_room(7, 7 / 16)
    assert not fleet.has_room(8, 8 / 16)
    assert not fleet.has_room(1, 1.0)
    assert Cluster(GPU).fleet(gpus=0.25).fixed_share == 0.25


def test_nothing_fits_at_the_start() -> None:
    with pytest.raises(InputError, match="no node of the cluster has a GPU"):
        Cluster(CPU).fleet(gpus=1.0)
    with pytest.raises(InputError, match="has more than 0 CPUs"):
        Cluster().fleet()


def test_what_check_assumes() -> None:
    assert assumed(Resources(gpus=0.5), 2, 8, None) == (Node("assumed 0", 8, 1), Node("assumed 1", 8, 1))
    (here,) = assumed(Resources(cpus=256), 1, None, None)
    assert (here.cpus, here.gpus) == (256, 0)
