"""Ray's metrics, scraped as Prometheus would."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import ray

OFTEN_REPORTED = {"RAY_metrics_report_interval_ms": "2000"}
"""Environment of a cluster whose metrics are exported every two seconds; by default it is every ten."""
REPORTED_WITHIN_S = 180.0
Series = dict[tuple[str, str], float]


def scrape(*, until: Callable[[Series], bool]) -> Series:
    """What the nodes of the connected cluster export, the latest value of each series.

    What workers counted takes some seconds to get there. A series of several nodes has the value of the last one.
    """
    ports = [node["MetricsExportPort"] for node in ray.nodes()]  # type: ignore[no-untyped-call]
    end, found = time.monotonic() + REPORTED_WITHIN_S, Series()
    while not until(found) and time.monotonic() < end:
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                found |= scraped(answer.read().decode())
        time.sleep(0.5)
    return found


def scraped(text: str) -> Series:
    """Values by name and tags, those that Ray adds left out; of several workers the sum."""
    found: Series = {}
    for name, tags, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.M):
        own = ",".join(sorted(re.findall(r'(?:run|model|phase|state)="[^"]*"', tags)))
        found[name, own] = found.get((name, own), 0.0) + float(value)
    return found
