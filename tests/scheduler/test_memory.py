"""A model that leaks is stopped in time by Ray's memory monitor, and fails its own unit only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raybench.cli.terminal import UNITS_FAILED
from raybench.config.experiment import Experiment, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.runs.run import RunStore
from raybench.store import Store

pytestmark = pytest.mark.cluster
ROOM = 5 * 2**30  # for what else runs on this machine meanwhile
LEAK_MB = 700.0


@pytest.mark.skipif(psutil.virtual_memory().available < 2 * ROOM, reason="needs 10 GiB of free memory")
@pytest.mark.long  # test_poison.py has a model that raises MemoryError
def test_a_leak_is_a_row(experiment: Experiment, packed: Store, tmp_path: Path) -> None:
    """In a driver of its own: Ray reads where its monitor steps in when it starts."""
    leaks = ModelChoice(name="fake", label="leaks", config={"leak_mb_per_image": LEAK_MB, "sleep_s": 0.2})
    chosen = experiment.model_copy(
        update={"models": (leaks, *experiment.models), "resources": Resources(measure_s=0.05, retries=0)}
    )
    path = tmp_path / "night.yaml"
    path.write_text(chosen.to_yaml())
    memory = psutil.virtual_memory()
    limits = {
        "RAY_memory_usage_threshold": f"{(memory.total - memory.available + ROOM) / memory.total:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    code = "from raybench.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(path), "--out", str(tmp_path), "--address", "local"]
    ran = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=False)
    assert ran.returncode == UNITS_FAILED, ran.stdout + ran.stderr
    plan = make_plan(chosen)
    by_model = {unit.model: unit.unit_id for unit in plan.units}
    run = RunStore(packed, chosen.name)
    failure = run.failure(by_model["leaks"])
    assert failure is not None
    assert failure.error_type == "OutOfMemoryError"
    assert failure.phase in ("train", "score", "measure")  # wherever the room was used up
    assert "finished" in run.commits([by_model["fake"]])[by_model["fake"]]
