"""The scores of a line, written so that a browser can move its thresholds: `assets/thresholds.js` reads them.

A score is written as its excess in 16 bits, in proportion near the threshold and logarithmic far from it. Rounding
never changes an order: two scores are equal, or lie on one side of the threshold, exactly if their codes do. So every
count at every threshold is that of the scores themselves; only where a score is drawn is rounded.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from raybench.analysis.findings import HeldOut
from raybench.analysis.flags import ScoredImage
from raybench.metrics.intervals import group_numbers

SCORES_IN_PAGE = 400_000
"""Scores in a page, at most: about a megabyte. Lines beyond it have thresholds that cannot be moved."""
STEPS = 4096  # codes per unit of asinh(excess)
MISSING = -32768
_MOST = 32767
_LABELS = ("ok", "ng", "unknown")

Codes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model, each as base64 of little-endian int16."""

    model: str
    seed: int
    excess: str
    """Codes of the images."""
    held_out: str
    """Codes of the held-back OK images. Empty without any."""
    held_out_groups: tuple[int, ...] | None
    """None if each held-back image is a group of its own."""
    budget: float
    promised: float | None
    """None if a person has moved the threshold."""


@dataclass(frozen=True)
class PageScores:
    """The scores of one line."""

    ids: tuple[str, ...]
    labels: str
    """Position of each image's label in OK, NG, not labelled: a digit each."""
    groups: tuple[int, ...] | None
    """Number of each image's group. None if each is a group of its own."""
    from_test: bool
    """Whether the OK images of the test split set the thresholds."""
    models: tuple[ModelScores, ...]

    def to_json(self) -> dict[str, object]:
        """Return the scores as they are written into the page."""
        return asdict(self)


def page_scores(
    seen: Sequence[ScoredImage], held_out: Mapping[str, HeldOut], models: Sequence[str]
) -> PageScores | None:
    """Return the scores of a line.

    Args:
        seen: The line's images.
        held_out: Held-back images by model.
        models: The line's models, in the order of the page.

    Returns:
        The scores, or None if no model has a threshold or one of them has more different scores than there are codes.
    """
    labelled = [image for image in seen if image.label in _LABELS]
    known = [model for model in models if model in held_out]
    if not labelled or not known:
        return None
    groups = group_numbers(np.array([image.group or image.image_id for image in labelled], np.str_))
    found = []
    for model in known:
        of_model = held_out[model]
        excess = np.array([image.excess.get(model, np.nan) for image in labelled])
        joined = np.concatenate([excess, of_model.excess])
        codes = encode(joined)
        if codes is None:
            return None
        found.append(
            ModelScores(
                model=model,
                seed=of_model.seed,
                excess=_base64(codes[: len(labelled)]),
                held_out=_base64(codes[len(labelled) :]),
                held_out_groups=_unless_single(of_model.groups),
                budget=of_model.threshold.budget,
                promised=None if of_model.threshold.promised >= 1 else of_model.threshold.promised,
            )
        )
    return PageScores(
        ids=tuple(image.image_id for image in labelled),
        labels="".join(str(_LABELS.index(image.label)) for image in labelled),
        groups=_unless_single(groups.tolist()),
        from_test=any(held_out[model].from_test for model in known),
        models=tuple(found),
    )


def encode(excess: npt.NDArray[np.float64]) -> Codes | None:
    """Encode (n,) excesses in 16 bits, keeping their order. NaN becomes MISSING. None if there are too many values."""
    codes = np.full(len(excess), MISSING, np.int16)
    known = ~np.isnan(excess)
    distinct, place = np.unique(excess[known], return_inverse=True)
    above = distinct > 0
    if max(above.sum(), (~above).sum()) > _MOST:
        return None
    below = -_apart(np.arcsinh(-distinct[~above][::-1]) * STEPS, 0)[::-1]
    codes[known] = np.concatenate([below, _apart(np.arcsinh(distinct[above]) * STEPS, 1)])[place]
    return codes


def _apart(ideal: npt.NDArray[np.float64], least: int) -> npt.NDArray[np.int64]:
    """Round rising (n,) values to different integers, from `least` on."""
    steps = np.arange(len(ideal))
    rising = np.maximum.accumulate(np.maximum(np.rint(ideal), least) - steps) + steps
    codes: npt.NDArray[np.int64] = np.minimum(rising, _MOST - steps[::-1]).astype(np.int64)
    return codes


def _base64(codes: Codes) -> str:
    return base64.b64encode(codes.astype("<i2").tobytes()).decode()


def _unless_single(groups: Sequence[int]) -> tuple[int, ...] | None:
    return None if len(set(groups)) == len(groups) else tuple(groups)
