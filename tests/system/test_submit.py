"""`ray job submit` for real: a head with token auth on, the fake model, the embedded S3 server."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.cli.terminal import UNITS_FAILED
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.store.server import EmbeddedServer
from tests.support.head import BIN, Head, ray_head, submission_id, wait_until
from tests.support.made_run import all_commits

pytestmark = pytest.mark.cluster
SUBMIT = ("--runtime-env", "jobs/runtime_env.yaml", "--working-dir", ".")
EXPERIMENT = """
name: night
store: {store}
lines: [strip]
models: [{models}]
squashed_twins: false
false_alarm_budget: 0.2
input: {{pixels: 4096}}
annotation: {{signals: 0}}
inspect: false
resources: {{measure_s: 0.05}}
"""


@pytest.fixture(scope="module")
def head(server: EmbeddedServer) -> Iterator[Head]:
    with ray_head() as running:
        yield running


def ended(head: Head, job: str) -> tuple[str, int | None]:
    """The job's status and what its entry point returned."""
    found = head.answer(f"/api/jobs/{job}")
    return found["status"], found["driver_exit_code"]


def logs(head: Head, job: str) -> str:
    return str(head.answer(f"/api/jobs/{job}/logs")["logs"])


def written(folder: Path, store: Store) -> str:
    models = "{name: fake, label: slow, config: {sleep_s: 0.1}}, {name: fake, label: broken, config: {fail_in: fit}}"
    path = folder / "night.yaml"
    path.write_text(EXPERIMENT.format(store=store.uri(), models=models))
    return str(path)


def test_a_stopped_job_goes_on_says_how_far_it_is_and_tells_no_secret(
    head: Head, packed: Store, tmp_path: Path, server: EmbeddedServer
) -> None:
    submit = (*SUBMIT, "--", "python", "jobs/evaluate.py", written(tmp_path, packed))
    run = RunStore(packed, "night")
    job = submission_id(head.job("submit", "--no-wait", *submit).stdout)
    wait_until(lambda: "train" in {*itertools.chain(*all_commits(run).values())}, 120, lambda: logs(head, job))
    head.answer(f"/api/jobs/{job}/stop", "POST")  # at once, as the unit takes few seconds more
    wait_until(lambda: ended(head, job)[0] == "STOPPED", 60, lambda: logs(head, job))
    before = {item.key: packed.get(item.key) for item in packed.list("units/")}
    assert len(before) > 0
    assert not packed.exists("runs/night/report/index.html")
    command = [str(BIN / "raybench"), "submit", written(tmp_path, packed), "--address", head.address]
    submitted = subprocess.run(command, capture_output=True, text=True, check=False, env=head.environment)
    assert submitted.returncode == UNITS_FAILED, submitted.stdout + submitted.stderr
    job = re.search(r"^job (night-\d{8}-\d{6});", submitted.stderr, re.M)[1]  # type: ignore[index]
    assert ended(head, job) == ("FAILED", UNITS_FAILED)
    assert head.answer(f"/api/jobs/{job}")["metadata"]["run"] == "night"
    assert "2 units: 1 done now, 0 done before, 1 failed" in submitted.stdout
    assert {key: packed.get(key) for key in before} == before
    assert len([names for names in all_commits(run).values() if "finished" in names]) == 1
    log = logs(head, job)
    assert re.search(r"train 1/2, score 3/3, measure 1/1, 1 failed", log), log
    assert "ModelError: fake was told to fail in fit" in log
    assert "2 units: 1 done now, 0 done before, 1 failed" in log
    assert not {"\r", "\x1b["} & set(log)
    assert packed.exists("runs/night/report/index.html")
    told = log + submitted.stdout + submitted.stderr + str(head.answer("/api/jobs/"))
    for secret in (server.secret_key, server.access_key):
        assert secret not in told


def test_without_the_token_nothing_is_told(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)  # noqa: S310
    refused = head.ray("job", "list", "--address", head.address, HOME=os.devnull, RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
