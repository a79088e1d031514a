"""Names that differ between the versions of the package that are compared."""

from __future__ import annotations

from typing import Any

import torch

from raybench.detectors import device, torch_detector
from raybench.worker import batches

PIXELS = 256 * 256


def set_chunk(images: int) -> bool:
    """Let detectors score so many images of 256×256 in one forward pass; return whether this version has the name."""
    module: Any = torch_detector
    if not hasattr(module, "_CHUNK_PX"):
        return False
    module._CHUNK_PX = images * PIXELS
    return True


def is_memory(error: Exception) -> bool:
    """Return whether the package takes the error for want of memory."""
    known: Any = getattr(device, "is_out_of_memory", None) or batches._is_memory
    return bool(known(error))


def is_broken(error: Exception) -> bool | None:
    """Return whether the package takes the error for a CUDA context that never recovers; None if it does not tell."""
    known: Any = getattr(device, "broken", None)
    return None if known is None else bool(known(error))


def precision() -> dict[str, str]:
    """Return torch's precision of float32 convolutions and matrix products on a GPU."""
    backends: Any = torch.backends
    return {"conv": backends.cudnn.conv.fp32_precision, "matmul": backends.cuda.matmul.fp32_precision}
