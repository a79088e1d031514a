"""Want of GPU memory: smaller batches give the same scores, and what a full GPU says is known as want of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import versions
from benchmarks.gpu.fitting import SIDE, fit
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.session import Finding, Session

LARGEST_GAP = 1e-5
MODEL = "patchcore"
SPARE_MB = (400, 200, 120, 80, 50)  # that scoring may take beyond the detector
LEFT_MB = (1500, 800, 500, 250)  # of the whole GPU for another process
_IMAGES, _BATCH = 32, 16
_ANSWER_S = 60


def run(session: Session) -> None:
    """Score with less and less memory, then let other processes train beside a full GPU."""
    beside = {left: _waiting(session.device) for left in (LEFT_MB[:1] if session.quick else LEFT_MB)}
    _halve_all(session)
    for left, process in beside.items():
        with _filled(left, session.device):
            session.check("memory", [f"{left} MB left"], lambda row, asked=process: _ask(asked))  # type: ignore[misc]


def _halve_all(session: Session) -> None:
    detector, pictures = fit(MODEL, session.device, None, images=_IMAGES).detector, Pictures(_IMAGES, SIDE, 1)
    whole = np.concatenate(list(versions.scores(detector, pictures, _BATCH, session.device)))
    for spare in SPARE_MB[:1] if session.quick else SPARE_MB:
        versions.set_chunk(detector, _BATCH)
        with _limited(spare, session.device):
            row = f"{spare} MB spare"
            session.check("memory", [row], lambda row: _halve(detector, pictures, whole, session.device))


def _halve(detector: Any, pictures: Pictures, whole: Any, device: str) -> Finding:
    """Passes if scores are the same, or if a single image does not fit and that is said."""
    found: list[Any] = []
    try:
        found.extend(versions.scores(detector, pictures, _BATCH, device))
    except MemoryError as error:
        return Finding(True, {"batches": [len(scores) for scores in found], "error": str(error)[:150]})
    gap = float(np.abs(np.concatenate(found) / whole - 1).max())
    return Finding(gap < LARGEST_GAP, {"batches": [len(scores) for scores in found], "gap": gap})


@contextmanager
def _limited(spare_mb: float, device: str) -> Iterator[None]:
    """Let this process take `spare_mb` more than it holds; on a CPU, do nothing."""
    if device != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + spare_mb * 1e6) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def _filled(left_mb: int, device: str) -> Iterator[None]:
    """Fill the GPU but for `left_mb`; on a CPU, do nothing."""
    if device != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - left_mb * 10**6), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


def _waiting(device: str) -> subprocess.Popen[str]:
    """Start a process that has imported everything before it is asked."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", "benchmarks.gpu.parts.memory", device]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _ask(process: subprocess.Popen[str]) -> Finding:
    """Let a process train. Passes if it fits, or if its error is taken for want of memory."""
    try:
        answer, errors = process.communicate("go\n", timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return Finding(False, {"why": f"no answer in {_ANSWER_S} s"})
    lines = [line for line in answer.splitlines() if line.startswith("{")]
    if not lines:
        return Finding(False, {"exit": process.returncode, "stderr": errors[-300:]})
    values = json.loads(lines[-1])
    return Finding(values["fits"] or values["taken_for_memory"], values)


def _answer(device: str) -> dict[str, Any]:
    """Train and score, and describe the error if there is one."""
    try:
        fit(MODEL, device, None, images=_IMAGES).detector.score(Pictures(_BATCH, SIDE, 1).pixels)
    except Exception as error:
        text = f"{type(error).__module__}.{type(error).__name__}: {str(error)[:150]}"
        return {"fits": False, "taken_for_memory": versions.is_memory(error), "error": text}
    return {"fits": True}


if __name__ == "__main__":
    sys.stdin.readline()
    print(json.dumps(_answer(sys.argv[1])))
