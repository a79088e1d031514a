"""Make anomalies of a known type from OK images of a line, from which its classifier learns without labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raybench.analysis.anomaly_types.perturbations import defects, layout, lighting
from raybench.analysis.anomaly_types.perturbations.common import Perturb, perturb
from raybench.analysis.anomaly_types.views import Image
from raybench.data.perturbations import as_bytes, side_of, warped

__all__ = ["CHANGES", "Perturb", "jittered", "perturb"]

CHANGES: Mapping[str, tuple[Perturb, ...]] = {
    "lighting": (lighting.gain, lighting.gamma, lighting.gradient, lighting.cast, lighting.glare),
    "layout": (layout.shift, layout.rotate, layout.mirror, layout.turn, layout.erase, layout.swap),
    "defect": (
        *(defects.scratch, defects.blob, defects.stain, defects.crack, defects.specks),
        *(defects.soil, defects.broken, defects.hole, defects.cut),
    ),
}


def jittered(image: Image, rng: np.random.Generator) -> Image:
    """Vary light and position slightly, as they differ between images of any line. image: (H, W, 3) uint8 RGB."""
    gain, gamma = np.exp(rng.normal(0, 0.05)), np.exp(rng.normal(0, 0.04))
    lit = as_bytes(255 * np.clip(image / 255 * gain, 0, 1) ** gamma)
    dx, dy = rng.normal(0, 0.006, 2) * side_of(image)
    return warped(lit, np.array([[1, 0, dx], [0, 1, dy]]))
