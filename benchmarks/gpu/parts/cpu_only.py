"""A detector on "cpu" must not touch the GPU of its machine."""

from __future__ import annotations

import torch

from benchmarks.gpu.fitting import fit
from benchmarks.gpu.session import Finding, Session

MODELS = ("supersimplenet", "draem", "stfpm")  # those whose training draws noise, and one without
_FIT_S = 0.5
_IMAGES = 16


def run(session: Session) -> None:
    """Fit on the CPU and see whether CUDA was initialised."""
    session.check("cpu_only", session.chosen(MODELS), lambda name: _fit(name))


def _fit(name: str) -> Finding:
    before = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if before:
        return Finding(None, {"why": "CUDA was initialised by an earlier model"})
    fit(name, "cpu", _FIT_S, images=_IMAGES)
    touched = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return Finding(not touched, {"cuda_initialised": touched})
