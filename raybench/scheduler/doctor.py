"""Look at each node of a Ray cluster, and compare the nodes with this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.errors import RaybenchError
from raybench.runs.run import versions
from raybench.scheduler import gpus
from raybench.scheduler.capacity import Node
from raybench.scheduler.cluster import alive, connected
from raybench.scheduler.handshake import check_answers
from raybench.store import Store
from raybench.worker.checkup import Check, check_machine

LIMIT_S = 120.0  # importing torch from a slow disk takes a minute
PARCEL = 200_000  # bytes; up to 100,000 travel with a task
_SAME = ("raybench", "ray", "torch", "numpy")


@ray.remote(max_calls=1, num_cpus=0, max_retries=0)  # no resources, so that it need not wait for other tasks
def check_node(store: Store | None, expected: Mapping[str, str], parcel: bytes) -> list[Check]:
    """Look at the node that this runs on.

    Args:
        store: to look at from there.
        expected: versions of the packages on the driver's machine.
        parcel: what has to come from the driver's node by the port of the object store, or this does not begin.
    """
    gpus.show_all()
    first, *others = check_machine(store)
    return [compare_versions(first, expected), *others]


def installed() -> dict[str, str]:
    """Return the versions that have to be the same on all nodes."""
    found = versions()
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: found[name] for name in _SAME} | {"Python": python}


def compare_versions(check: Check, expected: Mapping[str, str]) -> Check:
    """Turn a finding about versions into a failure where they are not the driver's, which are `expected`."""
    here = installed()
    other = {name: f"{here[name]} instead of {version}" for name, version in expected.items() if here[name] != version}
    if not other:
        return check
    return Check(check.what, "fail", _listed(other), "install the same versions on all nodes, from requirements.lock")


def check_cluster(address: str, store: Store | None) -> Iterator[tuple[str, Check]]:
    """Look at a cluster. Yields findings with what they are about: "cluster", or a node's address."""
    try:
        check_answers(address)
        with connected(address):
            yield "cluster", _described(alive())
            yield from in_short(check_nodes(store), len(alive()))
    except RaybenchError as error:
        yield "cluster", Check("address", "fail", str(error))


def check_nodes(store: Store | None) -> Iterator[tuple[str, Check]]:
    """Look at all living nodes of the connected cluster, at once."""
    parcel = ray.put(bytes(PARCEL))
    asked = {_ask(node, store, parcel): node for node in _living()}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LIMIT_S)
    for reference in silent:
        ray.cancel(reference, force=True)
        remedy = (
            "open Ray's ports between the nodes, see cluster/launcher/on_prem.yaml; then /tmp/ray/session_latest/logs"
        )
        yield asked[reference]["NodeManagerAddress"], Check("node", "fail", f"no answer in {LIMIT_S:.0f} s", remedy)
    for reference in answered:
        where = asked[reference]["NodeManagerAddress"]
        try:
            checks: list[Check] = ray.get(reference)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            remedy = "install the same raybench there; what is installed here: " + _listed(installed())
            checks = [Check("node", "fail", last, remedy)]
        yield from ((where, check) for check in checks)


def in_short(found: Iterable[tuple[str, Check]], nodes: int) -> Iterator[tuple[str, Check]]:
    """Say once what several nodes have in common. nodes: how many there are."""
    alike: dict[tuple[str, ...], list[tuple[str, Check]]] = {}
    for where, check in found:
        kind = (
            (check.what, check.state) if check.state == "ok" else (check.what, check.state, check.found, check.remedy)
        )
        alike.setdefault(kind, []).append((where, check))
    for same in sorted(alike.values(), key=lambda same: same[0][1].state == "ok", reverse=True):
        where, check = same[0]
        if nodes == 1:
            yield f"node {where}", check
        elif check.state == "ok":
            text = f", {check.found}" if len({check.found for _, check in same}) == 1 else ""
            yield f"{nodes} nodes", replace(check, found=f"{len(same)} of {nodes}{text}")
        else:
            yield f"{nodes} nodes", replace(check, found=f"{', '.join(where for where, _ in same)}: {check.found}")


def _ask(node: Mapping[str, Any], store: Store | None, parcel: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return check_node.options(scheduling_strategy=there).remote(store, installed(), parcel)


def _living() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _described(nodes: tuple[Node, ...]) -> Check:
    cpus, gpu_count = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    found = f"{len(nodes)} nodes, {cpus} CPUs, {gpu_count} GPUs"
    if not cpus:
        remedy = "start workers: `ray start --address=HEAD:6379`, or let the autoscaler have minReplicas of 1"
        return Check("nodes", "warn", f"{found}: no task can run", remedy)
    return Check("nodes", "ok", found)


def _listed(named: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in named.items())
