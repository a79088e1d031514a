"""`ray job submit` for real: a head with token auth on, the fake model, the embedded S3 server."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.cli.options import BAD_INPUT, UNITS_FAILED
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.store.server import EmbeddedServer
from tests.support.head import Head, ray_head, submission_id, wait_until

pytestmark = pytest.mark.cluster
SUBMIT = ("--runtime-env", "jobs/runtime_env.yaml", "--working-dir", ".")
EXPERIMENT = """
name: {name}
store: {store}
lines: [strip]
models: [{models}]
squashed_twins: false
false_alarm_budget: 0.2
input: {{pixels: 4096}}
annotation: {{signals: 0}}
resources: {{measure_s: 0.05}}
"""


@pytest.fixture(scope="module")
def head(server: EmbeddedServer) -> Iterator[Head]:
    with ray_head() as running:
        yield running


def exit_code(head: Head, job: str) -> tuple[str, int]:
    """The job's status and what its entry point returned."""
    found = head.answer(f"/api/jobs/{job}")
    return found["status"], found["driver_exit_code"]


def written(folder: Path, store: Store, name: str, models: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(EXPERIMENT.format(name=name, store=store.uri(), models=models))
    return str(path)


def test_a_job_says_how_far_it_is_and_tells_no_secret(
    head: Head, packed: Store, tmp_path: Path, server: EmbeddedServer
) -> None:
    path = written(tmp_path, packed, "night", "fake, {name: fake, label: broken, config: {fail_in: fit}}")
    submitted = head.job("submit", *SUBMIT, "--", "python", "jobs/evaluate.py", path)
    assert submitted.returncode == 1, submitted.stdout + submitted.stderr
    job = submission_id(submitted.stdout)
    assert exit_code(head, job) == ("FAILED", UNITS_FAILED)
    assert "failed" in head.job("status", job).stdout
    log = head.job("logs", job).stdout
    assert "train 1/2, score 3/3, aggregate 1/1, measure 1/1, inspect 1/1, 1 failed" in log
    assert "ModelError: fake was told to fail in fit" in log
    assert "2 units: 1 done now, 0 done before, 1 failed" in log
    assert not {"\r", "\x1b["} & set(log)
    assert packed.exists("runs/night/report/index.html")
    told = log + submitted.stdout + submitted.stderr + str(head.answer("/api/jobs/"))
    for secret in (server.secret_key, server.access_key):
        assert secret not in told


def test_bad_input_fails_the_job_at_once(head: Head) -> None:
    submitted = head.job("submit", "--working-dir", ".", "--", "python", "jobs/evaluate.py", "jobs/none.yaml")
    assert submitted.returncode == 1
    assert "error: jobs/none.yaml: 1 problem" in submitted.stdout
    assert exit_code(head, submission_id(submitted.stdout)) == ("FAILED", BAD_INPUT)


def test_a_stopped_job_goes_on_where_it_stopped(head: Head, packed: Store, tmp_path: Path) -> None:
    slow = ", ".join(f"{{name: fake, label: slow-{at}, config: {{sleep_s: 0.1, grid: {4 + at}}}}}" for at in range(2))
    path = written(tmp_path, packed, "slow", slow)
    run = RunStore(packed, "slow")
    submit = (*SUBMIT, "--", "python", "jobs/evaluate.py", path)
    job = submission_id(head.job("submit", "--no-wait", *submit).stdout)
    wait_until(
        lambda: any("train" in names for names in run.commits().values()), 120, lambda: head.job("logs", job).stdout
    )
    started = time.monotonic()
    head.job("stop", job)
    assert head.answer(f"/api/jobs/{job}")["status"] == "STOPPED"
    assert time.monotonic() - started < 60
    before = {item.key: packed.get(item.key) for item in packed.list("runs/slow/units/") if "failure" not in item.key}
    assert len(before) > 0
    assert not packed.exists("runs/slow/report/index.html")
    again = head.job("submit", *submit)
    assert again.returncode == 0, again.stdout
    assert exit_code(head, submission_id(again.stdout)) == ("SUCCEEDED", 0)
    assert "2 units: " in again.stdout
    assert {key: packed.get(key) for key in before} == before
    assert len([names for names in run.commits().values() if "result" in names]) == 2


def test_without_the_token_nothing_is_told(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)  # noqa: S310
    refused = head.ray("job", "list", "--address", head.address, HOME=os.devnull, RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
