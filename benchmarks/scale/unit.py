"""One unit, step by step in this process, against the embedded S3 server: requests, CPU and wall time of each step.

The detector is the fake one: what is counted is what raybench itself does around any detector. Source images are the
demo's strips, with masks, so that the partial metrics are as large as real ones.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from botocore.httpsession import URLLib3Session

from benchmarks.scale.figures import Step, Unit
from raybench.cli.demo import STRIP_HEIGHT, STRIP_WIDTH, Sizes, write_strips
from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import make_plan
from raybench.config.unit import Unit as PlannedUnit
from raybench.data.manifest import Manifest
from raybench.data.pack import PackOptions, pack
from raybench.runs.ledger import append_to_ledger
from raybench.runs.records import ScoreRecord
from raybench.runs.run import RunStore, score_name
from raybench.store import open_store
from raybench.store.server import embedded_server
from raybench.worker import merge, timing
from raybench.worker.context import WorkerContext
from raybench.worker.score import score
from raybench.worker.train import train

SIZES = Sizes(train_ok=64, test_ok=64, test_ng=64, unlabelled=0)
SHARD_ROWS = 32
NETWORK = 256 * 256
READS = ("GET", "HEAD")
T = TypeVar("T")


class Requests:
    """Counts what boto3 sends, tries again included, while the block runs."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._send: Any = URLLib3Session.send

    def __enter__(self) -> Requests:
        send, sent = self._send, self.sent

        def counting(session: Any, request: Any) -> Any:
            sent[request.method] += 1
            return send(session, request)

        URLLib3Session.send = counting
        return self

    def __exit__(self, *error: object) -> None:
        URLLib3Session.send = self._send


def _timed(requests: Requests, name: str, steps: list[Step], work: Callable[[], T], times: int = 1) -> T:
    """times: that `work` does the step."""
    requests.sent.clear()
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    cpu_ms, wall_ms = (time.process_time() - cpu) * 1e3 / times, (time.perf_counter() - wall) * 1e3 / times
    reads = sum(count for method, count in requests.sent.items() if method in READS)
    writes = requests.sent.total() - reads
    steps.append(Step(name, round(reads / times), round(writes / times), round(cpu_ms, 1), round(wall_ms, 1)))
    return found


def measure() -> Unit:
    with tempfile.TemporaryDirectory() as name, embedded_server(Path(name, "server")):
        store = open_store("s3://unit")
        store.create()
        images = write_strips(Path(name, "images"), SIZES)
        pack(open_store(str(images)), store.sub("lines"), "strip", PackOptions(shard_rows=SHARD_ROWS))
        Path(name, "cache").mkdir()
        plan = make_plan(_experiment(store.uri()))
        context = WorkerContext(
            RunStore(plan.store, "unit"), store.sub("lines"), Path(name, "cache"), "cpu", 1, measure_s=0.05
        )
        manifest = plan.manifests["strip"]
        train(plan.units[1], manifest, context)  # imports, connections and the decode cache of the training images
        score(plan.units[1], manifest, manifest.scored_shards[0], context)
        steps = _steps(plan.units[0], manifest, context)
        counted = sum(shard.rows for shard in manifest.scored_shards)
        shards = len(manifest.scored_shards)
        return Unit(shards, counted, SIZES.train_ok, STRIP_HEIGHT * STRIP_WIDTH, NETWORK, steps)


def _steps(unit: PlannedUnit, manifest: Manifest, context: WorkerContext) -> tuple[Step, ...]:
    """The unit from training to the ledger, as tasks and the actor do it."""
    shards, partials = manifest.scored_shards, merge.Partials()
    steps: list[Step] = []

    def score_all() -> None:
        for shard in shards:
            score(unit, manifest, shard, context)

    def merge_all() -> None:
        for shard in shards:
            _add(context.run, unit.unit_id, shard.key, partials)

    def measure_and_conclude() -> None:
        timing.measure(unit, manifest, context)
        merge.finalize(unit, context.run)

    with Requests() as requests:
        _timed(requests, "train", steps, lambda: train(unit, manifest, context))
        _timed(requests, "score a shard", steps, score_all, len(shards))
        _timed(requests, "merge a shard", steps, merge_all, len(shards))
        _timed(requests, "close", steps, lambda: merge.merge(unit, manifest, context.run, partials))
        _timed(requests, "measure", steps, measure_and_conclude)
        _timed(requests, "enter", steps, lambda: append_to_ledger(context.run, [unit.unit_id]))
    return tuple(steps)


def _add(run: RunStore, unit_id: str, shard_key: str, partials: merge.Partials) -> None:
    """As the merge task does it."""
    record = run.read(unit_id, score_name(shard_key), ScoreRecord)
    if record is None:
        raise RuntimeError(f"{shard_key} is not scored")
    partials.add(run, record)


def _experiment(store: str) -> Experiment:
    return Experiment(
        name="unit",
        store=store,
        lines=("strip",),
        models=(ModelChoice(name="fake", config={"grid": 64}),),
        seeds=(0, 1),
        input=InputChoice(pixels=NETWORK),
        squashed_twins=False,
    )
