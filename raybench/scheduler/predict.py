"""Score the shards of a prediction on Ray, with the task that scores a run's shards."""

from __future__ import annotations

from collections.abc import Callable

from raybench.config.experiment import Resources
from raybench.data.manifest import ShardInfo
from raybench.runs.records import Failure
from raybench.scheduler.backlog import Job
from raybench.scheduler.cluster import connected
from raybench.scheduler.jobs import run_jobs
from raybench.scheduler.tasks import LineContext
from raybench.worker.predict import Prediction

Done = Callable[[ShardInfo], None]


def score_on_cluster(prediction: Prediction, resources: Resources, address: str, done: Done) -> dict[str, Failure]:
    """Connect to the cluster at `address` and score there; see `score_shards`."""
    with connected(address):
        return score_shards(prediction, resources, done)


def score_shards(prediction: Prediction, resources: Resources, done: Done) -> dict[str, Failure]:
    """Score the shards that are not scored yet on the connected cluster.

    Args:
        prediction: a trained unit and new images.
        resources: of the experiment.
        done: called with each shard that is scored or has failed.

    Returns:
        Failures by shard; all other shards are committed.

    Raises:
        InputError: not even one task fits the cluster.
        RunStopped: on SIGTERM or SIGINT.
    """
    failed: dict[str, Failure] = {}

    def ended(job: Job, failure: Failure | None) -> None:
        for shard in job.shards:
            failed.update({shard.key: failure} if failure else {})
            done(shard)

    jobs = [Job("score", prediction.unit, shard.rows, (shard,)) for shard in prediction.waiting()]
    context = LineContext(prediction.run, prediction.images, prediction.manifest, device="cpu")
    run_jobs(jobs, context, resources, "predict", ended)
    return failed
