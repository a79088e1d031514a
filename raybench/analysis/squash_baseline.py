"""What keeping a line's aspect is worth: a model at the line's own aspect against the same model on squashed images."""

from __future__ import annotations

from dataclasses import dataclass

from raybench.data.geometry import Input, is_square
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import paired_difference
from raybench.runs.records import UnitResult


@dataclass(frozen=True)
class NonSquare:
    """text: for the board. gain: image AUROC at the chosen fit less that of the squashed twin, over the same images.
    au_pro_gain: likewise, without an interval. time_ratio: of one image, chosen fit over squashed."""

    text: str
    gain: Estimate | None = None
    au_pro_gain: float | None = None
    time_ratio: float | None = None


@dataclass(frozen=True)
class SquashBaseline:
    """A finished unit and its squashed twin, with all their image scores."""

    chosen: UnitResult
    squashed: UnitResult
    chosen_images: ImageScores
    squashed_images: ImageScores


def non_square(size: Input | None, twin: SquashBaseline | None) -> NonSquare:
    """How a line's aspect reaches the network and, where a squashed twin was run, what that is worth."""
    if size is None:
        return NonSquare("")
    how = _how(size)
    if twin is None:
        return NonSquare(how)
    gain = paired_difference(twin.chosen_images, twin.squashed_images)
    pro = _pro_gain(twin)
    ratio = _time_ratio(twin)
    parts = [f"{gain.value:+.3f} image AUROC ({gain.low:+.3f} to {gain.high:+.3f})"] if gain.value is not None else []
    parts += [f"{pro:+.3f} AU-PRO"] if pro is not None else []
    parts += [f"{ratio:.1f}× the time"] if ratio is not None else []
    return NonSquare(f"{how}; against squashed: {', '.join(parts)}", gain, pro, ratio)


def _how(size: Input) -> str:
    shape = f"{size.height}×{size.width}"
    tiles = f" in tiles of {size.tile}×{size.tile}" if size.tile else ""
    if is_square(size.source_height, size.source_width):
        return f"square line, {shape}{tiles}"
    how = {"native": "aspect kept", "letterbox": "aspect kept, padded", "squash": "squashed", "tile": "aspect kept"}
    return f"{how[size.mode]}: {size.source_height}×{size.source_width} as {shape}{tiles}"


def _pro_gain(twin: SquashBaseline) -> float | None:
    values = [unit.quality.au_pro.value for unit in (twin.chosen, twin.squashed) if unit.quality]
    return values[0] - values[1] if len(values) == 2 and None not in values else None  # type: ignore[operator]


def _time_ratio(twin: SquashBaseline) -> float | None:
    chosen, squashed = twin.chosen.speed, twin.squashed.speed
    return chosen.p50_ms / squashed.p50_ms if chosen and squashed and squashed.p50_ms else None
