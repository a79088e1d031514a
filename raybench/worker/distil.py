"""Distil a teacher network for EfficientAD on the OK images of many lines, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.data.cache import ImageSubset, open_cached
from raybench.data.geometry import InputFit
from raybench.data.manifest import Manifest
from raybench.detectors import pdn
from raybench.detectors.protocol import FitContext
from raybench.store import Store

SIDE = 256
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Distillation:
    """Settings of the distillation."""

    steps: int = 4000
    """Optimiser steps, each on eight crops."""
    crop_px: int = 64
    """Side of a crop, in pixels."""
    lr: float = 1e-3
    """Initial learning rate of Adam; it falls to zero."""


def distil(
    lines: Store, manifests: Sequence[Manifest], chosen: Distillation, cache_dir: Path, context: FitContext,
    progress: Progress = lambda step: None,
) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """Train the teacher on the OK training images of all lines.

    Args:
        lines: Store of the packed lines.
        manifests: Manifests of the lines to train on.
        chosen: Settings.
        cache_dir: Folder for decoded images on this node.
        context: Device, threads, seed and pretrained weights.
        progress: Called with the number of each step before it starts.

    Returns:
        The bytes of the teacher's safetensors file, and a description: steps, loss on crops of images that no step
        used (1 means that it learned nothing), lines and number of images.
    """
    fit = InputFit("native", SIDE, SIDE)  # one size for all lines, each at its own aspect
    shards = [
        open_cached(lines, manifest, shard, fit, cache_dir)
        for manifest in manifests
        for shard in manifest.shards_of("train")
    ]
    images = ImageSubset(shards, [(index, row) for index, shard in enumerate(shards) for row in range(len(shard))])

    def counted() -> Iterator[int]:
        for step in range(chosen.steps):
            progress(step)
            yield step

    data, details = pdn.new_teacher(images, chosen.crop_px, counted(), chosen.steps, chosen.lr, context)
    return data, details | {"lines": [manifest.line for manifest in manifests], "images": len(images)}
