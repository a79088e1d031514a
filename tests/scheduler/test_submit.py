"""What is submitted, and what is said of an address that takes no jobs; the rest is in tests/system/test_submit.py."""

from __future__ import annotations

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from raybench.config.experiment import Experiment, ModelChoice
from raybench.errors import ClusterUnreachable, InputError
from raybench.scheduler import submit as module
from raybench.scheduler.submit import Job, submit
from raybench.store.server import HOST, free_ports


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(
        "name: night\nstore: s3://raybench/bench\nlines: [strip]\nmodels: [own.models:Own, 'single:Own', padim]\n"
    )
    (tmp_path / "own" / "__pycache__").mkdir(parents=True)
    (tmp_path / "own" / "models.py").touch()
    (tmp_path / "single.py").write_text("import helper_of_single")
    (tmp_path / "helper_of_single.py").touch()
    (tmp_path / "unrelated.py").touch()
    (tmp_path / "photo.png").touch()
    return path


@pytest.fixture
def experiment() -> Experiment:
    models = [ModelChoice(name=name) for name in ("own.models:Own", "single:Own", "anomalib:Padim", "padim")]
    return Experiment(name="night", store="s3://raybench/bench", lines=("strip",), models=tuple(models))


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that wants a token."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer((HOST, 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


@dataclass(frozen=True)
class Ended:
    """A client of a cluster on which a job has ended."""

    status: JobStatus
    driver_exit_code: int | None
    message: str = "no such package"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "train 1/2\n"

    def get_job_status(self, job_id: str) -> JobStatus:
        return self.status

    def get_job_info(self, job_id: str) -> Ended:
        return self


def test_a_job_brings_its_experiment_and_own_detectors_and_nothing_else(
    experiment: Experiment, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, object] = {}

    class Client:
        def submit_job(self, **options: object) -> None:
            environment = options["runtime_env"]
            assert isinstance(environment, dict)
            folder = Path(environment["working_dir"])
            sent.update(options, files={path.relative_to(folder).as_posix() for path in folder.rglob("*")})

    monkeypatch.setattr(module, "connected_client", lambda address: Client())
    job = submit(experiment, file, "http://head:8265", {"helper": 0.1})
    assert isinstance(job, Job)
    assert sent["files"] == {"experiment.yaml", "own", "own/models.py", "single.py", "helper_of_single.py"}
    assert sent["entrypoint"] == "raybench run experiment.yaml"
    assert sent["submission_id"] == job.id
    assert job.id.startswith("night-2")
    assert sent["entrypoint_resources"] == {"helper": 0.1}
    assert sent["metadata"]["experiment"] == experiment.digest  # type: ignore[index]


def test_a_store_that_only_this_machine_has_is_refused(experiment: Experiment, file: Path) -> None:
    for key in ("store", "weights"):
        with pytest.raises(InputError, match=f"{key}: 'here' is a path on this machine"):
            submit(experiment.model_copy(update={key: "here"}), file, "http://head:8265")


@pytest.mark.parametrize(
    ("status", "code"), [(JobStatus.SUCCEEDED, 0), (JobStatus.FAILED, 1), (JobStatus.STOPPED, None)]
)
def test_a_job_ends_with_the_code_of_the_run(status: JobStatus, code: int | None) -> None:
    shown: list[str] = []
    assert Job(Ended(status, code), "night-1").follow(shown.append) == code  # type: ignore[arg-type]
    assert shown == ["train 1/2\n"]


def test_a_job_that_could_not_be_started_is_no_job_that_was_stopped() -> None:
    with pytest.raises(ClusterUnreachable, match="could not run the job: no such package"):
        Job(Ended(JobStatus.FAILED, None), "night-1").follow(lambda text: None)  # type: ignore[arg-type]


def test_an_address_that_takes_no_jobs_is_told_at_once(experiment: Experiment, file: Path, refusing: str) -> None:
    for address in ("head:8265", "ray://head:10001"):
        with pytest.raises(InputError, match="is not where jobs are submitted; give http://HOST:8265"):
            submit(experiment, file, address)
    with pytest.raises(ClusterUnreachable, match=r"no Ray cluster takes jobs at .*Forward the port"):
        submit(experiment, file, f"http://{HOST}:{free_ports(1)[0]}")
    with pytest.raises(ClusterUnreachable, match="does not accept this machine's token"):
        submit(experiment, file, refusing)
