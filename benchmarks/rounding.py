"""How far scores and heat maps move with the batch, the threads and the CPU's kernels.

Usage: `python -m benchmarks.rounding`, some 6 minutes on two cores; prints the table of docs/fidelity.md.

Each model is fitted once on small images and saved. One process per set of kernels restores it and scores the same
four images in one batch, by threes, in pairs and alone, with one thread and with two. Deviations are from one batch on
one thread with the processor's own kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.detectors import registry
from raybench.detectors.protocol import Scored
from tests.support import fitting

KERNELS: dict[str, dict[str, str]] = {
    "own": {},
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "scalar": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
}
IMAGES, BATCHES, THREADS = 4, (4, 3, 2, 1), (1, 2)


def score(folder: Path, target: Path) -> None:
    """Score the images in `folder` with its detectors, in every way; writes one npz per detector into `target`."""
    for name in fitting.REAL:
        images = np.load(folder / f"{name}.npy")
        found: dict[str, npt.NDArray[np.float64]] = {}
        for threads in THREADS:
            detector = registry.load(folder / name, "cpu", threads)
            for batch in BATCHES:
                parts = [detector.score(images[at : at + batch]) for at in range(0, IMAGES, batch)]
                found[f"scores-{threads}-{batch}"] = np.concatenate([part.scores for part in parts])
                found[f"maps-{threads}-{batch}"] = np.concatenate([fitting.maps_of(part) for part in parts])
        np.savez(target / f"{name}.npz", **found)  # type: ignore[arg-type]  # numpy's stub takes the names for options


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in fitting.REAL:
            fitted = fitting.fit(name)
            (folder / name).mkdir()
            size = registry.InputSize(fitted.height, fitted.width)
            registry.save_detector(fitted.detector, fitted.spec, size, folder / name)
            np.save(folder / f"{name}.npy", fitting.Images(IMAGES, fitted.height, fitted.width, seed=1).pixels)
        for kernels, variables in KERNELS.items():
            (folder / kernels).mkdir()
            call = [sys.executable, "-m", "benchmarks.rounding", str(folder), str(folder / kernels)]
            subprocess.run(call, check=True, env=os.environ | variables)
        heads = [f"{kernels}: {what}" for kernels in KERNELS for what in ("map", "score")]
        print(f"| model | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for name in fitting.REAL:
            own = np.load(folder / "own" / f"{name}.npz")
            expected = Scored(own["scores-1-4"], own["maps-1-4"])
            cells: list[str] = []
            for kernels in KERNELS:
                found = np.load(folder / kernels / f"{name}.npz")
                ways = [f"{threads}-{batch}" for threads in THREADS for batch in BATCHES]
                all_ways = [Scored(found[f"scores-{way}"], found[f"maps-{way}"]) for way in ways]
                worst = np.max([fitting.deviations(one, expected) for one in all_ways], axis=0)
                cells.extend(f"{share:.0e}" for share in worst)
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        score(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
