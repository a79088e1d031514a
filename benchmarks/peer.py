"""The whole job: `anomalib benchmark` and `raybench run` on the same models, backbone, images and sizes.

`python -m benchmarks.peer DATA` takes the lines below DATA (layout mvtec) by name. Both get images squashed to 256×256,
EfficientNet-Lite0 with the same weights, and all cores. anomalib runs as its command does: one model on one line after
the other. raybench packs the lines, runs, and writes its report; it also measures intervals, speed, heat-map quality
and thresholds, which anomalib does not.

CPU and memory are those of the whole machine less what was in use before, so nothing else should run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from raybench.detectors.anomalib_adapter import as_timm_folder
from raybench.detectors.protocol import FitContext
from raybench.detectors.weights.catalog import BACKBONES, LITE0

SIDE = 256
BATCH = 32
N_FEATURES, CORESET = 64, 0.01
MODELS = ("padim", "patchcore", "dfm")


@dataclass(frozen=True)
class Job:
    """One whole job."""

    wall_s: float
    """Seconds from the first process to the end of the last."""
    cpu_s: float
    """CPU seconds of the machine meanwhile."""
    peak_mb: float
    """Most memory in use at once, in 10^6 bytes."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--lines", type=int, nargs="+", default=[1, 2, 4], help="numbers of lines to run")
    chosen = arguments.parse_args()
    names = sorted(path.name for path in chosen.data.iterdir() if (path / "train" / "good").is_dir())
    print(f"{os.cpu_count()} cores, {', '.join(MODELS)}, {SIDE}×{SIDE}, EfficientNet-Lite0")
    print(f"{'lines':>5}{'':12}{'wall, s':>9}{'CPU, s':>9}{'peak, MB':>10}   image AUROC, mean{'':4}wall, times")
    for count in chosen.lines:
        lines = names[-count:]
        with tempfile.TemporaryDirectory() as folder:
            theirs = _observed(_anomalib(Path(folder), chosen.data.resolve(), lines), Path(folder))
            aurocs = _their_aurocs(Path(folder))
            _print(count, "anomalib", theirs, aurocs, "")
        with tempfile.TemporaryDirectory() as folder:
            ours = _observed(_raybench(Path(folder), chosen.data.resolve(), lines), Path(folder))
            _print(count, "raybench", ours, _our_aurocs(Path(folder)), f"{theirs.wall_s / ours.wall_s:.1f}")


def _print(count: int, name: str, job: Job, aurocs: dict[tuple[str, str], float], ratio: str) -> None:
    mean = sum(aurocs.values()) / len(aurocs)
    resources = f"{job.wall_s:9.0f}{job.cpu_s:9.0f}{job.peak_mb:10,.0f}"
    print(f"{count:>5}  {name:10}{resources}   {mean:.4f} of {len(aurocs)} units{'':4}{ratio}")
    for (line, model), value in sorted(aurocs.items()):
        print(f"{'':7}{line:16} {model:10} {value:.4f}", flush=True)


def _anomalib(folder: Path, data: Path, lines: Sequence[str]) -> list[list[str]]:
    """Its defaults, except for what both have in common; the backbone comes from this machine, not from a download."""
    layout = BACKBONES[LITE0]
    models: list[tuple[str, dict[str, Any]]] = [
        ("Padim", {"layers": layout.names(4, 8, 16), "n_features": N_FEATURES}),
        ("Patchcore", {"layers": layout.names(8, 16), "coreset_sampling_ratio": CORESET}),
        ("Dfm", {"layer": layout.names(16)[0]}),
    ]
    backbone = {"backbone": f"local-dir:{as_timm_folder(folder, LITE0, FitContext())}"}
    chosen = [{"class_path": name, "init_args": init | backbone} for name, init in models]
    root = {"root": str(data), "category": {"grid": list(lines)}}
    dataset = {"class_path": "MVTecAD", "init_args": root | {"train_batch_size": BATCH, "eval_batch_size": BATCH}}
    benchmark = {"seed": 0, "model": {"grid": chosen}, "data": dataset}
    (folder / "peer.yaml").write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": benchmark}))
    anomalib = str(Path(sys.executable).with_name("anomalib"))
    return [[anomalib, "benchmark", "--config", str(folder / "peer.yaml")]]


def _raybench(folder: Path, data: Path, lines: Sequence[str]) -> list[list[str]]:
    experiment = {
        "name": "peer",
        "store": str(folder / "store"),
        "lines": list(lines),
        "models": [
            {"name": "padim", "config": {"n_features": N_FEATURES}},
            {"name": "patchcore", "config": {"coreset_ratio": CORESET}},
            "dfm",
        ],
        "input": {"fit": "squash", "pixels": SIDE * SIDE},
        "inspect": False,
        "resources": {"measure_s": 0.5},
    }
    (folder / "peer.yaml").write_text(yaml.safe_dump(experiment))
    raybench = str(Path(sys.executable).with_name("raybench"))
    packs = [[raybench, "pack", str(data / line), "--line", line, "--to", str(folder / "store")] for line in lines]
    return [*packs, [raybench, "run", str(folder / "peer.yaml")]]


def _observed(commands: Sequence[Sequence[str]], folder: Path) -> Job:
    """Run commands one after the other and watch the machine."""
    before_mb, peak_mb, ended = _used_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak_mb[0] = max(peak_mb[0], _used_mb() - before_mb)

    thread = threading.Thread(target=watch)
    thread.start()
    cpu_s, started = _cpu_s(), time.monotonic()
    try:
        for command in commands:
            ended_process = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
            if ended_process.returncode:
                raise SystemExit(f"{' '.join(command)}\n{ended_process.stdout[-2000:]}{ended_process.stderr[-4000:]}")
    finally:
        ended.set()
        thread.join()
    return Job(time.monotonic() - started, _cpu_s() - cpu_s, peak_mb[0])


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]), "TQDM_DISABLE": "1"}


def _their_aurocs(folder: Path) -> dict[tuple[str, str], float]:
    [path] = folder.glob("runs/benchmark/*/results.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (row["data.init_args.category"], row["model.class_path"].rpartition(".")[2].lower()): float(row["image_AUROC"])
        for row in rows
    }


def _our_aurocs(folder: Path) -> dict[tuple[str, str], float]:
    board: dict[str, Any] = json.loads((folder / "store/runs/peer/report/board.json").read_text())
    return {(row["line"], row["model"]): row["quality"]["image_auroc"]["value"] for row in board["rows"]}


def _used_mb() -> float:
    memory = psutil.virtual_memory()
    return float(memory.total - memory.available) / 1e6


def _cpu_s() -> float:
    """CPU seconds of the whole machine since it started."""
    times: Any = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


if __name__ == "__main__":
    main()
