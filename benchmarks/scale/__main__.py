"""What raybench itself costs on many units and many GPUs; writes docs/scale.json and docs/scale.md.

python -m benchmarks.scale                    everything but the workers
python -m benchmarks.scale --workers          real detectors on one worker and on two; needs a quiet machine
python -m benchmarks.scale --driver --lines 100 --store s3
python -m benchmarks.scale --model            the page anew, from what was measured before
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale import decoding, driver, scheduler, unit, waiting, workers
from benchmarks.scale.figures import WHERE, keep, read
from benchmarks.scale.page import page
from raybench.demo import Sizes

PAGE = Path("docs/scale.md")
ALL = ("scheduler", "unit", "decoding", "waiting", "driver")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in (*ALL, "workers", "model"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--lines", type=int, default=1000, help="of --driver, × 10 fake models")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder", help="of --driver")
    parser.add_argument("--units", type=int, default=100_000, help="of --scheduler")
    parser.add_argument("--seeds", type=int, default=6, help="of --workers, × 2 lines")
    parser.add_argument(
        "--images", type=int, default=64, help="of --workers: to train on, and test images of each kind"
    )
    asked = parser.parse_args()
    chosen = [part for part in (*ALL, "workers") if getattr(asked, part)]
    for part in chosen or ([] if asked.model else ALL):
        print(f"{part} ...", flush=True)
        found = _measures(asked)[part]()
        print(found, flush=True)
        keep(part, found)
    PAGE.write_text(page(read(WHERE)), encoding="utf-8")


def _measures(asked: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    return {
        "scheduler": lambda: scheduler.measure(asked.units),
        "driver": lambda: driver.measure(asked.lines, asked.store),
        "waiting": waiting.measure,
        "unit": unit.measure,
        "decoding": decoding.measure,
        "workers": lambda: workers.measure(asked.seeds, Sizes(asked.images, asked.images, asked.images, 0)),
    }


if __name__ == "__main__":
    main()
