"""Training and scoring on one core with freed memory kept (`raybench/worker/memory.py`), beside glibc's own way."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MODELS = ("reverse_distillation", "padim", "efficient_ad")
SIDE, TRAINED, SCORED = 256, 48, 32
STEPS = {"efficient_ad": {"autoencoder_steps": 8, "steps": 4}}


def main() -> None:
    print(f"{TRAINED} images of {SIDE}×{SIDE} to train on, {SCORED} to score, one thread")
    print(f"{'':22}{'train, s':>10}{'score, s':>10}{'page faults':>13}{'ratio':>7}")
    for name in MODELS:
        kept, returned = (_in_a_process(name, way) for way in ("kept", "glibc"))
        for label, one in ((name, kept), ("  glibc alone", returned)):
            ratio = sum(one["seconds"]) / sum(kept["seconds"])
            train_s, score_s = one["seconds"]
            print(f"{label:22}{train_s:10.1f}{score_s:10.1f}{one['faults']:13,}{ratio:7.2f}", flush=True)


def _in_a_process(name: str, way: str) -> dict[str, Any]:
    """What is set for malloc stays for a process's life."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.heap", name, way]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _measure(name: str, way: str) -> dict[str, Any]:
    from raybench.detectors import registry
    from raybench.detectors.protocol import FitContext
    from raybench.worker import memory

    if way == "kept":
        memory.tune_malloc()
    context = FitContext(seed=0, device="cpu", threads=1)
    spec = registry.resolve(name, STEPS.get(name, {}), "cpu")
    detector: Any = registry.create(spec, registry.InputSize(SIDE, SIDE), context)
    pixels = np.random.default_rng(0).integers(0, 256, (TRAINED, SIDE, SIDE, 3), np.uint8)
    before = _faults()
    train_s = _timed(lambda: detector.fit(_Images(pixels), context))
    score_s = _timed(lambda: [detector.score(pixels[at : at + 8]) for at in range(0, SCORED, 8)])
    return {"seconds": (train_s, score_s), "faults": _faults() - before}


class _Images:
    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Any) -> Any:
        return self.pixels[list(indices)]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_measure(*sys.argv[1:])))
    else:
        main()
