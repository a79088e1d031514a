"""Ray's metrics, scraped as Prometheus would."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import ray

REPORTED_WITHIN_S = 60.0
Series = dict[tuple[str, str], float]


def scrape(*, until: Callable[[Series], bool]) -> Series:
    """What the connected cluster's first node exports; what workers counted takes some seconds to get there."""
    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    end = time.monotonic() + REPORTED_WITHIN_S
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = scraped(answer.read().decode())
        if until(found) or time.monotonic() > end:
            return found
        time.sleep(1)


def scraped(text: str) -> Series:
    """Values by name and tags, those that Ray adds left out; of several workers the sum."""
    found: Series = {}
    for name, tags, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.M):
        own = ",".join(sorted(re.findall(r'(?:run|model|phase|state)="[^"]*"', tags)))
        found[name, own] = found.get((name, own), 0.0) + float(value)
    return found
