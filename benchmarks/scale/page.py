"""docs/scale.md from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.scale.figures import Conditions, Decoding, Driver, Scheduler, Unit, Waiting, Workers
from benchmarks.scale.model import GPUS, Assumed, Part, decodes, merging_ms, parts, requests, scoring_s

HEAD = """# Scale

Written by `make bench-scale` (`python -m benchmarks.scale`) from docs/scale.json, which holds what each of its parts
measured last; `--model` writes it anew without measuring. CPU times are of one core; walls depend on what else ran,
which the load says.
"""
ORDER_OF_PARTS = ("scheduler", "driver", "waiting", "unit", "decoding", "workers")


def page(found: Mapping[str, Any]) -> str:
    """The page; parts that were never measured say so."""
    missing = "## {}\n\nNot measured yet.\n"
    said = [HEAD]
    said += [_SECTIONS[part](found[part]) if part in found else missing.format(part) for part in ORDER_OF_PARTS]
    if {"unit", "decoding"} <= found.keys():
        said.append(_model(found.get("driver"), found["unit"], found["decoding"], Assumed()))
    if "conditions" in found:
        said.append(_conditions(found["conditions"]))
    return "\n".join(said)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _conditions(found: Mapping[str, Conditions]) -> str:
    rows = [(part, one.machine, one.cores, f"{one.load:.1f}", one.day) for part, one in found.items()]
    return f"""## Conditions

On a machine with more load than cores, walls mean little, and CPU times come out longer than on a quiet one.

{_table(("part", "machine", "cores", "load of the last minute", "day"), rows)}"""


def _scheduler(one: Scheduler) -> str:
    memory = _table(
        ("jobs done", *(f"{sample.done:.0%}" for sample in one.samples)),
        [("memory of the process, MB", *(f"{sample.rss_mb:.0f}" for sample in one.samples))],
    )
    return f"""## The scheduler alone

{one.units:,} units ({one.jobs:,} jobs) through order and backlog without Ray, {one.window:,} jobs in flight: per unit
{one.order_us:.1f} µs for the order, {one.queue_us:.1f} µs for making the backlog and {one.work_us:.1f} µs for taking
and finishing its {one.jobs // one.units} jobs.

{memory}"""


def _driver(one: Driver) -> str:
    memory = _table(
        ("tasks done", *(f"{sample.done:.0%}" for sample in one.samples)),
        [
            ("driver, MB", *(f"{sample.rss_mb:.0f}" for sample in one.samples)),
            ("object stores of all nodes, MB", *(f"{sample.store_mb:.1f}" for sample in one.samples)),
        ],
    )
    return f"""## Fake units through Ray

{one.lines:,} lines × {one.models} models on Ray's multi-node test cluster: a head and {one.nodes} raylets on one
machine, each with {one.cpus} CPUs and {one.gpus} GPUs that are only numbers; store: {one.store}; load of the machine at
the start {one.load:.1f}. {one.units:,} units, {one.tasks:,} tasks and merges, {one.failed} failed, {one.wall_s:,.0f} s
from the first to the last, {one.report_s:,.0f} s more for the report.

Scheduling takes **{one.cpu_ms:.2f} ms** of the driver's CPU per unit (asked for: under 10), {one.main_ms:.2f} of them
in its main thread, the others in Ray's. Before the first task, per unit: {one.plan_ms:.2f} ms for the plan and
{one.start_ms:.2f} ms for what is done already, costs and order. The aggregation actor takes {one.aggregator_ms:.1f} ms.

{memory}"""


def _waiting(found: tuple[Waiting, ...]) -> str:
    rows = [(f"{one.in_flight:,}", f"{one.round_ms:.2f}") for one in found]
    return f"""## A round of the driver's loop

What `ray.wait` costs the driver when nothing has ended, ms of CPU. All tasks that have ended meanwhile are handled in
one round, so this adds to how late a slot is filled again (which tasks submitted ahead hide), not to the cost of a
unit.

{_table(("tasks in flight", "ms"), rows)}"""


def _unit(one: Unit) -> str:
    rows = [(step.name, step.reads, step.writes, f"{step.cpu_ms:.0f}") for step in one.steps]
    reads, writes = requests(one, one.shards)
    return f"""## One unit, step by step

The fake detector on the demo's strips ({one.pixels:,} pixels, input {one.network:,}), {one.train_images} training
images, {one.images} scored ones in {one.shards} shards, in one process against the embedded S3 server; requests are
counted where boto3 sends them. In all {reads} reads and {writes} writes; images that are decoded on a node for the
first time come on top.

{_table(("step", "reads", "writes", "CPU ms"), rows)}"""


def _decoding(found: tuple[Decoding, ...]) -> str:
    rows = [
        (
            f"{one.side_px}×{one.side_px} {one.kind}",
            f"{one.decode_per_s:.0f}",
            f"{one.read_per_s:,.0f}",
            f"{1e3 / one.heat_ms:.0f}",
            f"{one.heat_ms:.1f}",
            f"{one.sketch_ms:.1f}",
        )
        for one in found
    ]
    head = (
        "source",
        "decoded and fitted /s",
        "read from the cache /s",
        "judged /s",
        "judging, ms",
        "sketches of it, ms",
    )
    return f"""## What a core does for a GPU

Images per second of one core, network input {found[0].network_px}×{found[0].network_px}; noisy images, hard to decode.
Judging is what scoring does with a heat map besides the detector: to the source's size, sketches for the pixel metrics,
regions, traits, packing; here every image has a mask. Unlabelled images need a small part of it.

{_table(head, rows)}"""


def _workers(one: Workers) -> str:
    return f"""## One worker against two

{one.model}, {one.units} units, {one.images:,} images scored, on one worker node and on two, of one core each, imports
and decoding done before, until the last unit was merged: {one.one_s:.1f} s and {one.two_s:.1f} s,
**{one.one_s / one.two_s:.2f} times** the throughput (asked for: 1.8; load of the machine at the start {one.load:.1f}).
Merging, driver and Ray's own processes have no core of their own here, which costs the two workers, not the one. Timing
is left out: it asks for a quiet machine and is repeated where it is none, and nodes that are processes of one machine
disturb each other. Workers keep freed memory (`raybench/worker/memory.py`); before, 1.57 times was measured:
much of a task's time was page faults, in which processes beside each other wait for each other.
"""


_SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "scheduler": _scheduler,
    "driver": _driver,
    "waiting": _waiting,
    "unit": _unit,
    "decoding": _decoding,
    "workers": _workers,
}


def _model(driver: Driver | None, unit: Unit, decodings: Sequence[Decoding], assumed: Assumed) -> str:
    decoding = next(one for one in decodings if (one.side_px, one.kind) == (assumed.side_px, assumed.kind))
    found = parts(driver, unit, decoding, assumed)
    head = ("part", *(f"{gpus:,} GPUs" for gpus in GPUS), "full at", "from")
    return f"""## On 10, 100 and 1,000 GPUs

**Assumed**: a unit has a GPU for {assumed.unit_s:.0f} s and scores {assumed.images} images of
{assumed.side_px}×{assumed.side_px} px ({assumed.kind}, with masks) in {assumed.shards} shards; {assumed.models} models
per line; {assumed.gpus_per_node} GPUs a node, {assumed.cores} cores for each; a store that answers in
{assumed.request_ms:.0f} ms and allows {assumed.reads_per_s:,.0f} reads and {assumed.writes_per_s:,.0f} writes a second
to a prefix (Amazon's figures for S3). **All else** is measured above. {GPUS[-1]:,} GPUs then end
{GPUS[-1] / assumed.unit_s:.1f} units a second. How busy each part
is{"" if driver else " (the driver has not been measured yet)"}:

{_table(head, [_row(part) for part in found])}
{_verdict(found, unit, assumed)}
{_held_back(decoding, assumed)}"""


def _row(part: Part) -> tuple[str, ...]:
    full = f"{part.full_at:,.0f} GPUs" if part.shared else "grows with them"
    return (part.name, *(f"{part.busy[gpus]:.1%}" for gpus in GPUS), full, part.about)


def _verdict(found: Sequence[Part], unit: Unit, assumed: Assumed) -> str:
    alone = next(part for part in found if "merges all" in part.name)
    built = sorted((part for part in found if part.shared and part is not alone), key=lambda part: part.full_at)
    cpu_ms, wall_ms = merging_ms(unit, assumed)
    return f"""**One actor that merges all units is full first**, at {alone.full_at:,.0f} GPUs: it asks the store for
one thing after the other ({wall_ms:.0f} ms per unit, {cpu_ms:.0f} of them CPU). So a unit is merged by a task of its
own, and the aggregation actor only keeps the ledger and writes the report. With it **{built[0].name}** is full next, at
{built[0].full_at:,.0f} GPUs, then {built[1].name}, at {built[1].full_at:,.0f}.
Units that take half as long fill everything at half as many GPUs.
"""


def _held_back(decoding: Decoding, assumed: Assumed) -> str:
    rows = []
    for gpus in GPUS:
        decode_s, judge_s, detector_s = scoring_s(decoding, assumed, gpus)
        total = decode_s + judge_s + detector_s
        cells = (f"{decodes(gpus, assumed):.2f}", f"{decode_s:.1f}", f"{judge_s:.1f}", f"{detector_s:.1f}")
        rows.append((f"{gpus:,}", *cells, f"{detector_s / total:.0%}", f"{total / detector_s:.0f}"))
    head = (
        "GPUs",
        "decoded, times per unit",
        "decoding, s",
        "judging, s",
        "detector, s",
        "GPU busy",
        "tasks to fill it",
    )
    return f"""## Does the pipeline hold a GPU back?

A score task decodes what its node has not decoded yet, runs the detector and judges its heat maps, on `resources.cpus`
cores, one after the other. For a unit's {assumed.images} images and a detector that does {assumed.images_per_s:.0f}
images a second on a GPU to itself (assumed), on one core:

{_table(head, rows)}
So while such a unit is scored, a task alone leaves its GPU idle most of the time, and judging heat maps does so more
than decoding ({decoding.sketch_ms / decoding.heat_ms:.0%} of it are the sketches of their pixels). Tasks that share a
GPU (shares by memory, see [scheduling.md](scheduling.md)) fill the gap as far as the node's cores go, and
`resources.cpus` above 1 decodes and sketches on as many threads. Training reads fitted images from the node's cache
({decoding.read_per_s:,.0f} a second per core): there decoding is paid once.

**Nodes without a GPU decode for the others** (`scheduler/prefetch.py`): a task per shard and input size, a little ahead
of the units that need it, puts the fitted images (H·W·3 bytes, 0.2 MB at 256×256) into the run's store, where a node
looks before it decodes: as many megabytes as it reads take the place of the decoding above. At most 8 GiB of them lie
there, and none when the run has ended. Judging is the larger part and stays with the node that scores: a `judge` task
per scored shard would need the heat maps as they are stored, to 12 bits, and a unit's numbers would rest on those.
"""
