"""Measure the gain of keeping a line's aspect, against the same model on squashed images."""

from __future__ import annotations

from dataclasses import dataclass

from raybench.data.geometry import Input, is_square
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import paired_difference
from raybench.runs.records import UnitResult


@dataclass(frozen=True)
class NonSquare:
    """How images are fitted to the network, and the gain over squashing them."""

    text: str
    """Cell of the board."""
    gain: Estimate | None = None
    """Image AUROC minus that on squashed images, over the same images."""
    au_pro_gain: float | None = None
    """AU-PRO minus that on squashed images."""
    time_ratio: float | None = None
    """Time per image, divided by that on squashed images."""


@dataclass(frozen=True)
class SquashBaseline:
    """A finished unit and the same model on squashed images, with all their image scores."""

    chosen: UnitResult
    squashed: UnitResult
    chosen_images: ImageScores
    squashed_images: ImageScores


def non_square(size: Input, baseline: SquashBaseline | None) -> NonSquare:
    """Describe how images are fitted to the network and, with a baseline, the gain over squashing them."""
    fit = _format_fit(size)
    if baseline is None:
        return NonSquare(fit)
    gain = paired_difference([baseline.chosen_images], [baseline.squashed_images])
    pro = _pro_gain(baseline)
    ratio = _time_ratio(baseline)
    parts = [f"{gain.value:+.3f} image AUROC ({gain.low:+.3f} to {gain.high:+.3f})"] if gain.value is not None else []
    parts += [f"{pro:+.3f} AU-PRO"] if pro is not None else []
    parts += [f"{ratio:.1f}× the time"] if ratio is not None else []
    return NonSquare(f"{fit}; against squashed: {', '.join(parts)}", gain, pro, ratio)


def _format_fit(size: Input) -> str:
    shape = f"{size.height}×{size.width}"
    tiles = f" in tiles of {size.tile}×{size.tile}" if size.tile else ""
    if is_square(size.source_height, size.source_width):
        return f"square line, {shape}{tiles}"
    fits = {"native": "aspect kept", "letterbox": "aspect kept, padded", "squash": "squashed", "tile": "aspect kept"}
    return f"{fits[size.mode]}: {size.source_height}×{size.source_width} as {shape}{tiles}"


def _pro_gain(baseline: SquashBaseline) -> float | None:
    chosen, squashed = (unit.judged.quality.au_pro.value for unit in (baseline.chosen, baseline.squashed))
    return None if chosen is None or squashed is None else chosen - squashed


def _time_ratio(baseline: SquashBaseline) -> float | None:
    chosen, squashed = (unit.measured.speed.p50_ms for unit in (baseline.chosen, baseline.squashed))
    return chosen / squashed if squashed else None
