"""After a kernel that failed, a process's CUDA context never recovers: what its errors are, and how they are taken."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu import versions
from benchmarks.gpu.fitting import SIDE, fit, synchronize
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.session import Finding, Session


def run(session: Session) -> None:
    """Fail a kernel, then score."""
    session.check("poisoned", ["dfm"], lambda name: _poison(name, session.device))


def _poison(name: str, device: str) -> Finding:
    """Passes if the later error is not taken for want of memory and, where the package can tell, for a broken GPU."""
    detector, images = fit(name, device, None, images=16).detector, Pictures(4, SIDE, 1).pixels
    detector.score(images)

    def index_beyond_the_end() -> None:
        torch.zeros(4, device=device)[torch.tensor([9], device=device)]
        synchronize(device)

    first, later = _error(index_beyond_the_end), _error(lambda: detector.score(images))
    values = {"first": _described(first), "later": _described(later)}
    if device != "cuda":
        return Finding(None, values)
    if later is None:
        return Finding(False, {**values, "why": "the process recovered"})
    memory, broken = versions.is_memory(later), versions.is_broken(later)
    return Finding(
        not memory and broken is not False, {"taken_for_memory": memory, "taken_for_broken": broken, **values}
    )


def _error(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:
        return error
    return None


def _described(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__module__}.{type(error).__name__}: {str(error)[:150]}"
