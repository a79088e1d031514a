"""A run from end to end, a failing unit included, leaves the store's keys in nothing that it writes."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import make_plan
from raybench.report.publish import download
from raybench.runs.verify import verify_run
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from raybench.store.server import EmbeddedServer
from tests.support.made_run import begin

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def texts_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def command_lines() -> Iterator[tuple[str, bytes]]:
    """Of every process: any user of the machine can read them."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield str(path), path.read_bytes()
        except OSError:
            continue


def ray_records() -> Iterator[tuple[str, bytes]]:
    """Jobs with their runtime environments, nodes, actors and tasks, as Ray keeps them: its private state as well."""
    state = ray._private.state
    for name in ("jobs", "actors"):
        yield f"ray {name}", str(getattr(state, name)()).encode()
    yield "ray nodes", str(ray.nodes()).encode()  # type: ignore[no-untyped-call]
    yield "ray runtime environment", str(ray.get_runtime_context().runtime_env).encode()
    logs = Path(ray._private.worker.global_worker.node.get_session_dir_path())  # type: ignore[union-attr]
    yield from texts_of(logs)


def test_the_keys_are_in_nothing_that_a_run_leaves(
    server: EmbeddedServer,
    experiment: Experiment,
    packed: Store,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, logger="raybench")
    broken = [
        ModelChoice(name="fake", label=f"broken-{phase}", config={"fail_in": phase}) for phase in ("fit", "score")
    ]
    chosen = experiment.model_copy(update={"models": (*experiment.models, *broken)})
    plan = make_plan(chosen)
    run = begin(plan)
    summary = run_plan(plan)
    assert len(summary.failed) == 2
    download(run, tmp_path / "report")
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key[::-1])
        with pytest.raises(Exception, match="refused the credentials") as caught:
            open_store(packed.uri()).get("k")
    printed = capfd.readouterr()
    held: list[Any] = [plan, plan.store, run, summary, verify_run(run), server.environment]
    found = [
        *((item.key, packed.get(item.key)) for item in packed.list()),
        *texts_of(tmp_path / "report"),
        *ray_records(),
        *command_lines(),
        *((type(each).__name__, pickle.dumps(each)) for each in held[:-1]),
        *((f"repr {type(each).__name__}", repr(each).encode()) for each in held),
        ("stdout", printed.out.encode()),
        ("stderr", printed.err.encode()),
        ("log", caplog.text.encode()),
        ("error", repr(caught.getrepr(showlocals=False)).encode()),
        ("server log", (server.folder / "server.log").read_bytes()),
    ]
    assert any("/failures/" in name for name, _ in found)
    assert any(b"Traceback" in data for _, data in found)
    assert any(name.endswith(".err") or "raylet" in name for name, _ in found)
    for secret in (server.secret_key.encode(), server.access_key.encode(), server.secret_key[::-1].encode()):
        assert not [name for name, data in found if secret in data]
