"""Gauges of watched lines, as a file for the textfile collector of Prometheus' node_exporter."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from raybench.analysis.watch import WATCHED, Watch
from raybench.errors import InputError

_OF = ("run", "line", "model")
GAUGES = {
    "raybench_watch_changed": ("1 if the line has changed or its threshold does not hold, else 0.", ()),
    "raybench_watch_value_changed": ("1 if this value has changed, else 0.", ("value",)),
    "raybench_watch_evidence": ("Evidence that this value has changed; an alarm from 1 on.", ("value",)),
    "raybench_watch_threshold": ("1 for the state of the threshold: holds, too many, too few, unknown.", ("state",)),
    "raybench_watch_flagged_ratio": ("Share of images above the threshold.", ()),
    "raybench_watch_promised_ratio": ("Share of OK images above the threshold, at most.", ()),
    "raybench_watch_odd_size_images": ("Images of sizes that the line does not have, in the latest batch.", ()),
    "raybench_watch_batches": ("Batches in the history.", ()),
    "raybench_watch_latest_timestamp_seconds": ("When the images of the latest batch were taken.", ()),
}
"""Help and labels, beside run, line and model, by name."""
STATES = ("holds", "too many", "too few", "unknown")


def write_gauges(found: Watch, file: Path) -> None:
    """Write the gauges of a line into a file of its own, at once: no reader sees half of it.

    Raises:
        InputError: The name does not end with `.prom`, which node_exporter asks for, or the file cannot be written.
    """
    if file.suffix != ".prom":
        raise InputError(f"{file}: node_exporter reads files whose names end with .prom")
    registry = CollectorRegistry()
    gauges = {name: Gauge(name, about, (*_OF, *more), registry=registry) for name, (about, more) in GAUGES.items()}

    def put(name: str, value: float, *more: str) -> None:
        gauges[f"raybench_watch_{name}"].labels(found.run, found.line, found.model, *more).set(value)

    put("changed", found.changed)
    for value in WATCHED:
        put("value_changed", any(change.what == value for change in found.changes), value)
        put("evidence", found.evidence[value], value)
    for state in STATES:
        put("threshold", state == found.threshold.state, state)
    if found.threshold.flagged.value is not None:
        put("flagged_ratio", found.threshold.flagged.value)
        put("promised_ratio", found.threshold.promised)
    put("odd_size_images", found.batches[-1].odd_sizes)
    put("batches", len(found.batches))
    put("latest_timestamp_seconds", found.batches[-1].time.timestamp())
    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error
