"""The metrics, scraped as Prometheus would; and the dashboard, which may ask for nothing else."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import make_plan
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.prometheus import COUNTERS, GAUGES, PREFIX, states
from raybench.scheduler.runner import run_plan
from tests.support.scraping import Series, scrape

DASHBOARDS = Path(__file__).parent.parent.parent / "cluster" / "dashboards"
EXPORTED = {PREFIX + name for name in GAUGES} | {f"{PREFIX}{name}_total" for name in COUNTERS}


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_local_run_is_scraped(experiment: Experiment) -> None:
    broken = ModelChoice(name="fake", label="broken", config={"fail_in": "score"})
    chosen = experiment.model_copy(update={"name": "metered", "models": (ModelChoice(name="fake"), broken)})
    run = 'run="metered"'
    retries = (f"{PREFIX}raybench_retries_total", f'model="broken",phase="train",{run}')
    cpu_s = (f"{PREFIX}raybench_cpu_seconds_total", f'model="fake",phase="train",{run}')
    final = {
        (f"{PREFIX}raybench_images_scored_total", f'model="fake",{run}'): 12.0,
        (f"{PREFIX}raybench_tasks_left", f'phase="score",{run}'): 0.0,
        (f"{PREFIX}raybench_units", f'{run},state="done"'): 1.0,
        (f"{PREFIX}raybench_units", f'{run},state="failed"'): 1.0,
        (f"{PREFIX}raybench_units", f'{run},state="trained"'): 0.0,
    }

    def reported(found: Series) -> bool:
        """Whether each of the processes has reported its last value."""
        return {retries, cpu_s} <= found.keys() and final.items() <= found.items()

    with ThreadPoolExecutor() as pool:  # a gauge is exported while it is set, and some seconds longer
        scraped = pool.submit(scrape, until=reported)
        for _ in range(2):
            run_plan(make_plan(chosen))
        found = scraped.result()
    assert retries in found, [key for key in found if "raybench" in key[0]]
    assert found[retries] >= 1
    assert {key: found.get(key) for key in final} == final
    assert (f"{PREFIX}raybench_images_scored_total", f'model="broken",{run}') not in found
    assert 0 < found[cpu_s] < 120
    no_gpu = {f"{PREFIX}raybench_gpu_seconds_total"}  # test_gpu_runs.py scrapes it
    assert {name for name, _ in found if "raybench" in name} == EXPORTED - no_gpu


def test_every_unit_is_in_one_state(experiment: Experiment) -> None:
    chosen = experiment.model_copy(
        update={"models": (ModelChoice(name="fake"), ModelChoice(name="fake", label="b", config={"grid": 16}))}
    )
    plan = make_plan(chosen)
    backlog = Backlog(plan.units, plan.manifests, {})
    seen = [states(backlog, 2)]
    for at in range(20):
        job = backlog.take(busy=False)
        if job is None:
            break
        backlog.fail(job) if at == 1 and job.phase == "score" else backlog.finish(job)
        seen.append(states(backlog, 2))
    assert seen[0] == {"waiting": 2, "trained": 0, "done": 0, "failed": 0}
    assert seen[-1] == {"waiting": 0, "trained": 0, "done": 1, "failed": 1}
    assert all(sum(each.values()) == 2 and min(each.values()) >= 0 for each in seen)


def queries(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it() -> None:
    board = json.loads((DASHBOARDS / "grafana.json").read_text())
    asked = {name for query in queries(board) for name in re.findall(r"ray_\w+", query)}
    variables = " ".join(str(each["query"]) for each in board["templating"]["list"])
    assert asked == EXPORTED
    assert set(re.findall(r"ray_\w+", variables)) <= EXPORTED
    known = {"run", "model", "phase", "state"}
    for query in queries(board):
        assert set(re.findall(r"by \(([^)]*)\)", query)) <= known | {"model, phase"}
        assert 'run=~"$run"' in query


def test_the_alerts_ask_for_what_is_exported_and_the_monitor_scrapes_what_prometheus_yml_does() -> None:
    monitor, rules = yaml.safe_load_all(
        (DASHBOARDS.parent / "kuberay" / "components" / "monitoring" / "monitoring.yaml").read_text()
    )
    alerts = rules["spec"]["groups"][0]["rules"]
    asked = {name for alert in alerts for name in re.findall(r"ray_\w+", alert["expr"])}
    assert {name for name in asked if "raybench" in name} <= EXPORTED
    assert {name for name in asked if "raybench" not in name} == {"ray_node_mem_used", "ray_node_mem_total"}
    assert {alert["labels"]["severity"] for alert in alerts} == {"warning", "critical"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    regex = config["scrape_configs"][0]["relabel_configs"][0]["regex"]
    assert f"{endpoint['relabelings'][0]['regex']};{endpoint['port']}" == regex


def test_prometheus_finds_the_port_of_the_manifests() -> None:
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(jobs) == {"raybench-kubernetes", "raybench-machines"}
    raycluster = (DASHBOARDS.parent / "kuberay" / "base" / "raycluster.yaml").read_text()
    assert raycluster.count("{containerPort: 8080, name: metrics}") == 2
    keep = jobs["raybench-kubernetes"]["relabel_configs"][0]
    assert keep["action"] == "keep"
    of_a_job = "raybench-x7k2p-8wq9z"  # KubeRay's name for the cluster of a RayJob
    found = [name for name in ("raybench", of_a_job, "raybenchmark") if re.fullmatch(keep["regex"], f"{name};metrics")]
    assert found == ["raybench", of_a_job]
    targets = jobs["raybench-machines"]["static_configs"][0]["targets"]
    assert {target.rpartition(":")[2] for target in targets} == {"8080"}
    for path in (DASHBOARDS.parent / "launcher").glob("*.yaml"):
        assert path.read_text().count("--metrics-export-port=8080") == 2
