"""The held-back OK images that set each model's threshold, so that the report can set it anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import group_numbers
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import excess_of
from raybench.runs.records import UnitResult


@dataclass(frozen=True)
class HeldOut:
    """The held-back OK images of the first finished seed of a model."""

    seed: int
    threshold: Threshold
    excess: tuple[float, ...]
    """Excess over the threshold of each image."""
    groups: tuple[int, ...]
    """Number of each image's group."""
    from_test: bool = False
    """Whether these are the OK images of the test split."""


def collect_held_out(
    units: Iterable[tuple[UnitResult, ImageScores]], *, from_test: bool
) -> dict[str, dict[str, HeldOut]]:
    """Return the held-back images by line and model.

    Args:
        units: Results with the scores of their held-back images.
        from_test: Whether the OK images of the test split set the thresholds.

    Returns:
        By line and model. Models without a threshold or held-back images are left out.
    """
    found: dict[str, dict[str, HeldOut]] = {}
    for result, images in sorted(units, key=lambda unit: unit[0].seed):
        threshold, of_line = result.trained.threshold, found.setdefault(result.line, {})
        if threshold.value is None or result.model in of_line:
            continue
        of_line[result.model] = HeldOut(
            result.seed,
            threshold,
            tuple(excess_of(score, threshold) for score in images.scores.tolist()),
            tuple(group_numbers(images.groups).tolist()),
            from_test,
        )
    return found
