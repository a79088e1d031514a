"""What the parts of the benchmark measured, kept in docs/scale.json so that one part can be measured anew alone."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

WHERE = Path("docs/scale.json")
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """done: share of all tasks. rss_mb: of the driver. store_mb: in all object stores."""

    done: float
    rss_mb: float
    store_mb: float = 0.0


@dataclass(frozen=True)
class Scheduler:
    """The backlog and its order without Ray. order_us, queue_us, work_us: CPU per unit, for putting units in order, for
    making the backlog, and for taking and finishing all jobs. window: jobs in flight."""

    units: int
    jobs: int
    window: int
    order_us: float
    queue_us: float
    work_us: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Driver:
    """Fake units through Ray. nodes: besides the head. plan_ms, start_ms: before the first task, per unit. cpu_ms: of
    the driver's process from the first task to the last, per unit; main_ms: of its main thread. aggregator_ms: CPU of
    the aggregation actor, per unit. load: of the machine when it started."""

    lines: int
    models: int
    units: int
    tasks: int
    failed: int
    nodes: int
    cpus: int
    gpus: int
    store: str
    wall_s: float
    plan_ms: float
    start_ms: float
    cpu_ms: float
    main_ms: float
    aggregator_ms: float
    load: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Report:
    """The report of a finished run of fake units, from a folder. cpu_s: of the process, on any thread. load: of the
    machine when it started."""

    lines: int
    models: int
    seeds: int
    images: int
    cpu_s: float
    wall_s: float
    page_mb: float
    load: float


@dataclass(frozen=True)
class Waiting:
    """One round of the driver's loop with so many tasks in flight, ms."""

    in_flight: int
    round_ms: float


@dataclass(frozen=True)
class Step:
    """A step of one unit in one process, against the embedded S3 server. reads, writes: requests (GET, HEAD and LIST;
    PUT, POST and DELETE). cpu_ms: of the process. wall_ms: requests included."""

    name: str
    reads: int
    writes: int
    cpu_ms: float
    wall_ms: float


@dataclass(frozen=True)
class Unit:
    """shards, images: scored, in all. pixels: of a source image. network: pixels of the network's input."""

    shards: int
    images: int
    train_images: int
    pixels: int
    network: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Decoding:
    """Images per second of one core: decode_per_s: decoded and fitted. read_per_s: fitted ones, from the node's cache.
    heat_ms: CPU that scoring takes per image besides the detector, where all images have masks. sketch_ms: of it, for
    the sketches of the pixel metrics."""

    side_px: int
    kind: str
    network_px: int
    decode_per_s: float
    read_per_s: float
    heat_ms: float
    sketch_ms: float


@dataclass(frozen=True)
class Workers:
    """Real detectors on one worker and on two, of one core each. one_s, two_s: from the first task until
    the last unit is merged; timing is left out."""

    model: str
    units: int
    images: int
    one_s: float
    two_s: float
    load: float


@dataclass(frozen=True)
class Conditions:
    """load: of the last minute when the part had been measured, its own included."""

    machine: str
    cores: int
    load: float
    day: str


KINDS: Mapping[str, Any] = {
    "scheduler": Scheduler,
    "driver": Driver,
    "report": Report,
    "waiting": tuple[Waiting, ...],
    "unit": Unit,
    "decoding": tuple[Decoding, ...],
    "workers": Workers,
    "conditions": Mapping[str, Conditions],
}


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def read(where: Path = WHERE) -> dict[str, Any]:
    """By part, what it measured last."""
    known = json.loads(where.read_text()) if where.exists() else {}
    return {part: TypeAdapter(KINDS[part]).validate_python(found) for part, found in known.items() if part in KINDS}


def keep(part: str, found: Any, where: Path = WHERE) -> None:
    """Put down what `part` measured; the others stay."""
    adapter = TypeAdapter(KINDS[part])
    known = json.loads(where.read_text()) if where.exists() else {}
    here = Conditions(_cpu(), os.cpu_count() or 1, round(os.getloadavg()[0], 1), f"{datetime.now(UTC):%Y-%m-%d}")
    known.setdefault("conditions", {})[part] = asdict(here)
    known[part] = adapter.dump_python(found, mode="json")
    where.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
