"""What happens on 10, 100 and 1,000 GPUs, from overheads that were measured: how busy each part is, and which is full
first. No simulation: a part that serves one unit after the other is full when units come as fast as it serves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.scale.figures import Decoding, Driver, Unit

GPUS = (10, 100, 1000)


@dataclass(frozen=True)
class Assumed:
    """unit_s: of a GPU's time for one unit, training, scoring and timing together. shards, images: that it scores.
    request_ms: until a store answers. reads_per_s, writes_per_s: that the store allows to one prefix (Amazon's own
    figures for S3). models: units per line that see the same fitted images. cores: CPU cores for each GPU. side_px,
    kind: of the source images. images_per_s: of a detector alone on a GPU."""

    unit_s: float = 60.0
    shards: int = 4
    images: int = 512
    request_ms: float = 20.0
    reads_per_s: float = 5500.0
    writes_per_s: float = 3500.0
    models: int = 10
    cores: int = 8
    gpus_per_node: int = 8
    side_px: int = 1024
    kind: str = "png"
    images_per_s: float = 500.0


@dataclass(frozen=True)
class Part:
    """busy: share of its time, by number of GPUs. about: the arithmetic. shared: by all GPUs, so that it gets busier
    with each. full_at: GPUs that make it 1."""

    name: str
    busy: Mapping[int, float]
    about: str
    shared: bool = True

    @property
    def full_at(self) -> float:
        return GPUS[0] / self.busy[GPUS[0]] if self.shared else float("inf")


def steps_of(unit: Unit) -> dict[str, Any]:
    return {step.name: step for step in unit.steps}


def requests(unit: Unit, shards: int) -> tuple[int, int]:
    """Reads and writes of one unit of so many shards."""
    per_shard = ("score a shard", "merge a shard")
    times = {step.name: shards if step.name in per_shard else 1 for step in unit.steps}
    reads = sum(step.reads * times[step.name] for step in unit.steps)
    return reads, sum(step.writes * times[step.name] for step in unit.steps)


def driver_ms(driver: Driver, shards: int) -> float:
    """CPU of a unit of so many shards; the fake ones had one: three tasks and a merge."""
    jobs = driver.tasks / driver.units
    return driver.cpu_ms * (jobs + shards - 1) / jobs


def merging_ms(unit: Unit, assumed: Assumed) -> tuple[float, float]:
    """Of one unit, requests one after the other: CPU, and wall with the store's answers."""
    steps = steps_of(unit)
    merge, close = steps["merge a shard"], steps["close"]
    cpu = assumed.shards * merge.cpu_ms + close.cpu_ms
    asked = assumed.shards * (merge.reads + merge.writes) + close.reads + close.writes
    return cpu, cpu + asked * assumed.request_ms


def parts(driver: Driver | None, unit: Unit, decoding: Decoding, assumed: Assumed) -> tuple[Part, ...]:
    """Every part that serves all GPUs, and the cores beside each. driver: left out until it has been measured."""
    reads, writes = requests(unit, assumed.shards)
    _, merge_ms = merging_ms(unit, assumed)
    enter_ms = steps_of(unit)["enter"].cpu_ms
    per_s = {gpus: gpus / assumed.unit_s for gpus in GPUS}
    of_all = assumed.unit_s * assumed.cores
    alone = merge_ms + enter_ms
    return (
        *([_driver(driver, per_s, assumed)] if driver else []),
        _shared("one actor that merges all units", per_s, alone, f"{alone:.0f} ms per unit, waiting included"),
        Part(
            f"{assumed.cores} cores of each GPU, merging",
            dict.fromkeys(GPUS, merge_ms / 1e3 / of_all),
            "the same merging, in a task per unit",
            shared=False,
        ),
        _shared("the aggregation actor", per_s, enter_ms, f"{enter_ms:.0f} ms of CPU per unit added to the ledger"),
        _shared("S3 reads of one prefix", per_s, reads / assumed.reads_per_s * 1e3, f"{reads} per unit"),
        _shared("S3 writes of one prefix", per_s, writes / assumed.writes_per_s * 1e3, f"{writes} per unit"),
        *_cores(decoding, assumed),
    )


def _driver(driver: Driver, per_s: Mapping[int, float], assumed: Assumed) -> Part:
    one = driver_ms(driver, assumed.shards)
    return _shared("the driver", per_s, one, f"{one:.1f} ms of CPU per unit")


def _shared(name: str, per_s: Mapping[int, float], ms: float, about: str) -> Part:
    return Part(name, {gpus: rate * ms / 1e3 for gpus, rate in per_s.items()}, about)


def decodes(gpus: int, assumed: Assumed) -> float:
    """How often a unit's image is decoded for it: once per node whose tasks ask for it. Tasks go to any node, so that
    of so many models on N nodes N (1 - (1 - 1/N)^models) nodes decode it."""
    nodes = max(1, gpus // assumed.gpus_per_node)
    return float(nodes * (1 - (1 - 1 / nodes) ** assumed.models) / assumed.models)


def scoring_s(decoding: Decoding, assumed: Assumed, gpus: int) -> tuple[float, float, float]:
    """Of one unit: decoding and judging on a core, and the detector on a GPU to itself."""
    decode_s = assumed.images / decoding.decode_per_s * decodes(gpus, assumed)
    return decode_s, assumed.images * decoding.heat_ms / 1e3, assumed.images / assumed.images_per_s


def _cores(decoding: Decoding, assumed: Assumed) -> tuple[Part, Part]:
    """Work of the cores beside one GPU."""
    seconds = {gpus: scoring_s(decoding, assumed, gpus) for gpus in GPUS}
    of_all = assumed.unit_s * assumed.cores
    low, high, judge = seconds[GPUS[0]][0], seconds[GPUS[-1]][0], seconds[GPUS[0]][1]
    return (
        Part(
            f"{assumed.cores} cores of each GPU, decoding",
            {gpus: decode_s / of_all for gpus, (decode_s, _, _) in seconds.items()},
            f"{low:.1f} to {high:.1f} core-seconds per unit: {decoding.decode_per_s:.0f} images/s, once per node",
            shared=False,
        ),
        Part(
            f"{assumed.cores} cores of each GPU, evaluating heat maps",
            {gpus: judge_s / of_all for gpus, (_, judge_s, _) in seconds.items()},
            f"{judge:.1f} core-seconds per unit: {decoding.heat_ms:.0f} ms per image with a mask",
            shared=False,
        ),
    )
