"""docs/scale.md from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.scale.figures import Conditions, Decoding, Driver, Report, Scheduler, Unit, Waiting, Workers
from benchmarks.scale.model import GPUS, Assumed, Part, decodes, merging_ms, parts, requests, scoring_s

HEAD = """# Scale

`make bench-scale` (`python -m benchmarks.scale`) writes this page from docs/scale.json, which holds the latest
measurement of each part. `--model` rewrites the page without measuring. CPU times are for one core. Wall times depend
on what else was running; the load average shows how much that was.
"""
ORDER_OF_PARTS = ("scheduler", "driver", "report", "waiting", "unit", "decoding", "workers")


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

If the load exceeds the number of cores, wall times mean little, and CPU times are longer than on an idle machine.

{_table(("part", "machine", "cores", "load, last minute", "day"), rows)}"""


def _scheduler(one: Scheduler) -> str:
    memory = _table(
        ("jobs done", *(f"{sample.done:.0%}" for sample in one.samples)),
        [("process memory, MB", *(f"{sample.rss_mb:.0f}" for sample in one.samples))],
    )
    return f"""## The scheduler alone

{one.units:,} units ({one.jobs:,} jobs) pass through ordering and backlog without Ray, with {one.window:,} jobs in
flight. Each unit takes {one.order_us:.1f} µs to order, {one.queue_us:.1f} µs to add to the backlog and
{one.work_us:.1f} µs to start and finish its {one.jobs // one.units} jobs.

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

{one.lines:,} lines × {one.models} models run on Ray's multi-node test cluster: a head and {one.nodes} raylets on one
machine, each declaring {one.cpus} CPUs and {one.gpus} GPUs that do not exist. Store: {one.store}. Load at the start:
{one.load:.1f}. All {one.units:,} units ({one.tasks:,} tasks and merges, {one.failed} failed) took {one.wall_s:,.0f} s.

Scheduling a unit costs the driver **{one.cpu_ms:.2f} ms** of CPU (target: under 10), {one.main_ms:.2f} ms of it in the
main thread and the rest in Ray's threads. Before the first task, each unit costs {one.plan_ms:.2f} ms for planning and
{one.start_ms:.2f} ms for looking up finished work, estimating costs and ordering. The aggregation actor takes
{one.aggregator_ms:.1f} ms per unit.

{memory}"""


def _report(one: Report) -> str:
    units = one.lines * one.models * one.seeds
    return f"""## The report of many units

{one.lines} lines × {one.models} models × {one.seeds} seeds are finished, with {one.images} scored images each.
Comparing these {units:,} units and writing their report, a page of {one.page_mb:.1f} MB, takes **{one.cpu_s:.0f} s** of
CPU (target: under 60), and {one.wall_s:.0f} s in all. Store: folder. Load at the start: {one.load:.1f}.
"""


def _waiting(found: tuple[Waiting, ...]) -> str:
    rows = [(f"{one.in_flight:,}", f"{one.round_ms:.2f}") for one in found]
    return f"""## A round of the driver's loop

CPU time of one `ray.wait` call in the driver when no task has finished. One round handles all tasks that finished
since the last, so this delays refilling a slot, which tasks submitted ahead hide; it does not add to the cost of a
unit.

{_table(("tasks in flight", "ms"), rows)}"""


def _unit(one: Unit) -> str:
    rows = [(step.name, step.reads, step.writes, f"{step.cpu_ms:.0f}") for step in one.steps]
    reads, writes = requests(one, one.shards)
    return f"""## One unit, step by step

The fake detector runs on the demo's strips ({one.pixels:,} pixels, input {one.network:,}) with {one.train_images}
training images and {one.images} scored images in {one.shards} shards, in one process against the embedded S3 server.
Requests are counted where boto3 sends them: {reads} reads and {writes} writes in total, plus those for images that a
node decodes for the first time.

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
        "decoded and resized /s",
        "read from the cache /s",
        "heat maps evaluated /s",
        "evaluation, ms",
        "of it histograms, ms",
    )
    return f"""## What a core does for a GPU

Images per second on one core, for a network input of {found[0].network_px}×{found[0].network_px}. The images are noisy
and hard to decode. Evaluating a heat map is all that scoring does with it after the detector: resizing to the source's
size, histograms for the pixel metrics, regions, descriptors and packing. Every image here has a mask; unlabelled images
need a small part of that.

{_table(head, rows)}"""


def _workers(one: Workers) -> str:
    return f"""## One worker against two

{one.model}, {one.units} units, {one.images:,} scored images, on one and on two worker nodes with one core each. With
imports and decoding already done, the last unit was merged after {one.one_s:.1f} s and {one.two_s:.1f} s:
**{one.one_s / one.two_s:.2f} times** the throughput (target: 1.8; load at the start {one.load:.1f}).
Merging, the driver and Ray's own processes have no core of their own, which slows down the two workers but not the
single one. Timing is left out because it needs an idle machine and is repeated otherwise; nodes that are processes of
one machine disturb each other. Workers keep freed memory (`raybench/worker/memory.py`). Before they did, the factor was
1.57: much of a task's time was page faults, in which neighbouring processes wait for each other.
"""


_SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "scheduler": _scheduler,
    "driver": _driver,
    "report": _report,
    "waiting": _waiting,
    "unit": _unit,
    "decoding": _decoding,
    "workers": _workers,
}


def _model(driver: Driver | None, unit: Unit, decodings: Sequence[Decoding], assumed: Assumed) -> str:
    decoding = next(one for one in decodings if (one.side_px, one.kind) == (assumed.side_px, assumed.kind))
    found = parts(driver, unit, decoding, assumed)
    head = ("part", *(f"{gpus:,} GPUs" for gpus in GPUS), "saturated at", "computed from")
    return f"""## On 10, 100 and 1,000 GPUs

**Assumed**: a unit occupies a GPU for {assumed.unit_s:.0f} s and scores {assumed.images} images of
{assumed.side_px}×{assumed.side_px} px ({assumed.kind}, with masks) in {assumed.shards} shards; {assumed.models} models
per line; {assumed.gpus_per_node} GPUs per node with {assumed.cores} cores each; a store that answers in
{assumed.request_ms:.0f} ms and allows {assumed.reads_per_s:,.0f} reads and {assumed.writes_per_s:,.0f} writes per
second and prefix (Amazon's figures for S3). **Everything else** is measured above. {GPUS[-1]:,} GPUs then finish
{GPUS[-1] / assumed.unit_s:.1f} units per second. How busy each part
is{"" if driver else " (the driver has not been measured yet)"}:

{_table(head, [_row(part) for part in found])}
{_verdict(found, unit, assumed)}
{_held_back(decoding, assumed)}"""


def _row(part: Part) -> tuple[str, ...]:
    full = f"{part.full_at:,.0f} GPUs" if part.shared else "scales with the GPUs"
    return (part.name, *(f"{part.busy[gpus]:.1%}" for gpus in GPUS), full, part.about)


def _verdict(found: Sequence[Part], unit: Unit, assumed: Assumed) -> str:
    alone = next(part for part in found if "merges all" in part.name)
    built = sorted((part for part in found if part.shared and part is not alone), key=lambda part: part.full_at)
    cpu_ms, wall_ms = merging_ms(unit, assumed)
    return f"""**A single actor that merges all units would saturate first**, at {alone.full_at:,.0f} GPUs, because it
sends one request to the store after the other ({wall_ms:.0f} ms per unit, {cpu_ms:.0f} ms of it CPU). Therefore each
unit is merged by a task of its own, and the aggregation actor only keeps the ledger and writes the report. With that
design **{built[0].name}** saturates first, at {built[0].full_at:,.0f} GPUs, followed by {built[1].name} at
{built[1].full_at:,.0f}. If units take half as long, everything saturates at half as many GPUs.
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
        "share decoded per unit",
        "decoding, s",
        "evaluation, s",
        "detector, s",
        "GPU busy",
        "tasks to keep it busy",
    )
    return f"""## Does the pipeline hold a GPU back?

**This section is of the time when a CPU core evaluated the heat maps of a GPU.** Today the GPU does, and the stages
overlap: [On a GPU](gpu.md) has what an H100 showed. What follows holds for detectors scored on CPU nodes beside it.

A score task decodes the images that its node has not decoded yet, runs the detector and evaluates its heat maps, one
after the other, on `resources.cpus` cores. The table is for a unit's {assumed.images} images on one core, assuming a
detector that scores {assumed.images_per_s:.0f} images per second on a GPU of its own:

{_table(head, rows)}
A single task thus leaves its GPU idle most of the time. Evaluating heat maps is the larger cause, decoding the smaller;
{decoding.sketch_ms / decoding.heat_ms:.0%} of the evaluation are the histograms of pixel scores. Tasks that share a GPU
(by memory, see [scheduling.md](scheduling.md)) fill the gap as far as the node's cores allow, and with
`resources.cpus` above 1 a task decodes and counts on as many threads. Training reads resized images from the node's
cache ({decoding.read_per_s:,.0f} per second and core), so it pays for decoding only once.

**Nodes without a GPU decode for the others** (`scheduler/prefetch.py`). One task per shard and input size, shortly
before the units that need it, writes the resized images (H·W·3 bytes, 0.2 MB at 256×256) to the run's store. A node
looks there before it decodes, so that reading these megabytes replaces the decoding above. At most 8 GiB are kept, and
nothing after the run. Evaluating heat maps takes longer, but stays on the node that scores: a separate task would have
to read the stored heat maps, which have 12 bits, and a unit's numbers would depend on that rounding.
"""
