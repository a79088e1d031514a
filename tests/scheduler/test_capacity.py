"""Nodes that come and go; no cluster is needed to ask how many tasks fit them."""

from __future__ import annotations

import pytest

from raybench.config.experiment import Resources
from raybench.errors import GpuUnusable, InputError
from raybench.scheduler.capacity import REFRESH_S, Cluster, Node, assumed_nodes, capacity_of

CPU, GPU, SMALL = Node("c", 32, 0), Node("g", 16, 4), Node("s", 1, 1)


class FakeNodes:
    """Nodes and a clock that a test moves on."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = list(nodes)
        self.now = 0.0
        self.asked = 0

    def alive(self) -> list[Node]:
        self.asked += 1
        return list(self.nodes)

    def cluster(self, **resources: object) -> Cluster:
        return Cluster(Resources.model_validate(resources), self.alive, lambda: self.now)


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
    found = capacity_of(Resources.model_validate(resources), nodes)
    assert (found.count, found.device) == (count, device)


def test_each_gpu_times_a_detector_with_its_share_of_the_cores() -> None:
    eight, one = Node("eight", 64, 8), Node("one", 16, 1)
    on_gpus, on_cpus = capacity_of(Resources(), [eight, one]), capacity_of(Resources(gpus=0), [eight, one])
    assert [on_gpus.timings(node) for node in (eight, one, Node("few cores", 2, 4))] == [8, 1, 2]
    assert (on_gpus.timing_slots, on_gpus.timing_cpus) == (9, 16)
    assert (on_cpus.timing_slots, on_cpus.timing_cpus) == (2, 64)


def test_nodes_without_gpus_help_where_gpus_train() -> None:
    found = capacity_of(Resources(), [CPU, GPU, Node("head", 0, 0)])
    assert found.nodes == (GPU,)
    assert found.cpu_nodes == (CPU,)
    assert capacity_of(Resources(gpus=0), [CPU, GPU]).cpu_nodes == ()


def test_nodes_without_gpus_take_merges_and_the_report_in_turns() -> None:
    large, small = Node("large", 32, 0), Node("small", 4, 0)
    capacity = FakeNodes(GPU, small, large).cluster().capacity
    assert [capacity.cpu_node(number) for number in range(4)] == [large, small, large, small]
    assert FakeNodes(CPU).cluster().capacity.cpu_node(0) is None
    assert FakeNodes(GPU).cluster().capacity.cpu_node(0) is None


def test_the_window_follows_the_cluster() -> None:
    nodes = FakeNodes(Node("a", 4, 0))
    cluster = nodes.cluster()
    assert cluster.has_room(7, 0.0)
    assert not cluster.has_room(8, 0.0)
    nodes.nodes.append(Node("b", 4, 0))
    assert not cluster.has_room(8, 0.0)
    nodes.now += REFRESH_S
    assert cluster.has_room(15, 0.0)
    assert not cluster.has_room(16, 0.0)
    assert nodes.asked == 2


def test_a_lost_cluster_is_asked_for_one_task_at_a_time_and_stays_of_its_kind() -> None:
    nodes = FakeNodes(GPU, CPU)
    cluster = nodes.cluster(in_flight=1)
    nodes.nodes = [CPU]
    cluster.look_again()
    lost = cluster.capacity
    assert (len(lost.nodes), lost.device) == (0, "cuda")
    assert cluster.has_room(0, 0.0)
    assert not cluster.has_room(1, 1.0)
    nodes.nodes = [GPU]
    nodes.now += REFRESH_S
    assert [node.node_id for node in cluster.capacity.nodes] == [GPU.node_id]


def test_a_node_whose_gpu_fails_counts_no_more() -> None:
    nodes = FakeNodes(GPU, Node("h", 16, 4))
    cluster = nodes.cluster()
    cluster.leave_out("g", "GPU 2 of g: no")
    assert [node.node_id for node in cluster.capacity.nodes] == ["h"]
    cluster.raise_if_all_left_out()
    nodes.now += REFRESH_S
    assert cluster.capacity.count == 4
    cluster.leave_out("h", "GPU 0 of h: no")
    with pytest.raises(GpuUnusable, match="no node has a GPU that works: GPU 2 of g: no; GPU 0 of h: no"):
        cluster.raise_if_all_left_out()


def test_a_run_on_cpus_stays_on_cpus() -> None:
    nodes = FakeNodes(CPU)
    cluster = nodes.cluster()
    nodes.nodes.append(GPU)
    cluster.look_again()
    assert (cluster.capacity.device, cluster.capacity.count, cluster.fixed_share) == ("cpu", 48, 0.0)


def test_small_shares_are_bounded_by_gpus_and_by_cpus() -> None:
    cluster = FakeNodes(Node("g", 8, 1)).cluster(in_flight=1)
    assert cluster.fixed_share is None
    assert cluster.has_room(7, 7 / 16)
    assert not cluster.has_room(8, 8 / 16)
    assert not cluster.has_room(1, 1.0)
    assert FakeNodes(GPU).cluster(gpus=0.25).fixed_share == 0.25


def test_nothing_fits_at_the_start() -> None:
    with pytest.raises(InputError, match="no node of the cluster has a GPU"):
        FakeNodes(CPU).cluster(gpus=1.0)
    with pytest.raises(InputError, match="has more than 0 CPUs"):
        FakeNodes().cluster()


def test_what_check_assumes() -> None:
    assert assumed_nodes(Resources(gpus=0.5), 2, 8, None) == (Node("assumed 0", 8, 1), Node("assumed 1", 8, 1))
    (here,) = assumed_nodes(Resources(cpus=256), 1, None, None)
    assert (here.cpus, here.gpus) == (256, 0)
