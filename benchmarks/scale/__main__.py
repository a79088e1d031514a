"""What raybench itself costs on many units and many GPUs; writes docs/scale.json and docs/scale.md.

python -m benchmarks.scale                    everything but the workers
python -m benchmarks.scale --workers          real detectors on one worker and on two; needs a quiet machine
python -m benchmarks.scale --driver --lines 100 --store s3
python -m benchmarks.scale --model            the page anew, from what was measured before
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from benchmarks.scale.figures import WHERE, keep, read
from benchmarks.scale.page import page
from raybench.cli.demo import Sizes
from tests.support import plugins

PAGE = Path("docs/scale.md")
ALL = ("scheduler", "driver", "report", "waiting", "unit", "decoding")  # in one process: those with torch come last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in (*ALL, "workers", "model"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--lines", type=int, default=1000, help="of --driver, × 10 fake models")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder", help="of --driver")
    parser.add_argument("--nodes", type=int, default=4, help="of --driver, besides the head")
    parser.add_argument("--units", type=int, default=100_000, help="of --scheduler")
    parser.add_argument("--seeds", type=int, default=6, help="of --workers, × 2 lines")
    parser.add_argument(
        "--images", type=int, default=64, help="of --workers: to train on, and test images of each kind"
    )
    asked = parser.parse_args()
    plugins.install()
    chosen = [part for part in (*ALL, "workers") if getattr(asked, part)]
    for part in chosen or ([] if asked.model else ALL):
        print(f"{part} ...", flush=True)
        found = _measure(part, asked)
        print(found, flush=True)
        keep(part, found)
    PAGE.write_text(page(read(WHERE)), encoding="utf-8")


def _measure(part: str, asked: argparse.Namespace) -> Any:
    """The part alone is imported: a driver has no torch, and its memory is looked at."""
    arguments = {
        "scheduler": (asked.units,),
        "driver": (asked.lines, asked.store, asked.nodes),
        "workers": (asked.seeds, Sizes(asked.images, asked.images, asked.images, 0)),
    }
    return importlib.import_module(f"benchmarks.scale.{part}").measure(*arguments.get(part, ()))


if __name__ == "__main__":
    main()
