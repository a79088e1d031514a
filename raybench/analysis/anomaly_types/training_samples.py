"""What a line's perturbed OK images measured: what its judge learns from, kept so that it is measured once.

It depends on the line's images and these rules only, and stands beside the line's data inspection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.data.manifest import Manifest
from raybench.errors import IntegrityError, ObjectMissing
from raybench.metrics import npz
from raybench.store import Store

VERSION = 1  # of all rules of signals: what was told by others is told anew
_KIND = "lessons of signals"


@dataclass(frozen=True)
class TrainingSamples:
    """kinds: (n,) str. logs: (n, W) float64, the witnesses' logarithms."""

    kinds: npt.NDArray[np.str_]
    logs: npt.NDArray[np.float64]


def write_samples(lines: Store, manifest: Manifest, lessons: TrainingSamples) -> None:
    arrays = {"line_digest": np.array(manifest.digest), "kinds": lessons.kinds, "logs": lessons.logs}
    lines.put(_key(manifest.line), npz.to_bytes(_KIND, VERSION, arrays))


def read_samples(lines: Store, manifest: Manifest) -> TrainingSamples | None:
    """Those of these very images by these very rules; None where there are none."""
    try:
        found = npz.from_bytes(_KIND, VERSION, lines.get(_key(manifest.line)))
    except (ObjectMissing, IntegrityError):
        return None
    same = str(found.pop("line_digest", "")) == manifest.digest
    return TrainingSamples(**found) if same else None


def _key(line: str) -> str:
    return f"{line}/signals.npz"
