"""Distil a teacher for EfficientAD once, on the OK images of many lines, into the weights store."""

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
    """steps: optimiser steps of eight crops of crop_px pixels. lr: Adam's, falling to zero."""

    steps: int = 4000
    crop_px: int = 64
    lr: float = 1e-3
    seed: int = 0


def distil(
    lines: Store, manifests: Sequence[Manifest], chosen: Distillation, cache_dir: Path, context: FitContext,
    progress: Progress = lambda step: None,
) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """The teacher's file (safetensors), and how it went: steps, loss on crops of images that no step saw (1: it
    learned nothing), lines and images."""
    fit = InputFit("native", SIDE, SIDE)  # one size for all lines, each at its own aspect
    shards = [
        open_cached(lines, manifest, shard, fit, cache_dir)
        for manifest in manifests
        for shard in manifest.shards_of("train")
    ]
    images = ImageSubset(shards, [(at, row) for at, shard in enumerate(shards) for row in range(len(shard))])

    def counted() -> Iterator[int]:
        for step in range(chosen.steps):
            progress(step)
            yield step

    data, details = pdn.new_teacher(images, chosen.crop_px, counted(), chosen.steps, chosen.lr, context)
    return data, details | {"lines": [manifest.line for manifest in manifests], "images": len(images)}
