"""What a line's annotation budget buys, measured where labels are known.

The labels of the test images are hidden, the same flags and the same queue are made of them, and it is counted how many
of the images that the budget reaches are NG: beside as many images with the highest mean excess alone, and as many at
random. The models that count were chosen by the verdict, which saw these labels: on images of tomorrow the shares may
be a little lower, for the queue and for the highest excess alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.spatial import cKDTree

from raybench.analysis.flags import Flag, ScoredImage, build_flags
from raybench.analysis.queue import rank_flags
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.intervals import LEVEL, clopper_pearson
from raybench.metrics.numbers import Estimate


@dataclass(frozen=True)
class Spread:
    """How different picked images are. types: defect types among them. reach: how far a flagged image is from the
    nearest picked one, on average; 1 is as far as two images usually are. None where it is not known."""

    types: int | None
    reach: float | None


@dataclass(frozen=True)
class QueueEvaluation:
    """flagged, picked: images in the line's queue, and those that the budget reaches. checked: held-back OK training
    images that were looked at. suspicious: those among them that are flagged.

    With labels hidden: precision: share of NG among the picked, Clopper-Pearson. by_score: among as many with the
    highest mean excess. at_random: of as many drawn from all, with the range of 95 % of such draws (hypergeometric).
    spread, spread_by_score: of the same images. types: defect types among all images. diverse: whether the picked are
    chosen to be different; not where no model's heat maps have been described.
    """

    line: str
    budget: int
    flagged: int
    picked: int
    checked: int
    suspicious: int
    precision: Estimate
    by_score: Estimate
    at_random: Estimate
    spread: Spread
    spread_by_score: Spread
    types: int
    diverse: bool

    @property
    def sentence(self) -> str:
        return f"{self.line}: {self._queue()}{self._worth()}{self._training()}"

    def _queue(self) -> str:
        how = "" if self.diverse or not self.flagged else " by usefulness alone (heat maps have not been described)"
        images = "1 image" if self.flagged == 1 else f"{self.flagged} images"
        return f"{images} flagged, {self.picked} picked{how} for a budget of {self.budget}."

    def _worth(self) -> str:
        if self.precision.value is None:
            return ""
        found = (
            f" With labels hidden, {_percent(self.precision)} of the first {self.precision.n} are NG; by score alone "
            f"{_percent(self.by_score)}, at random {_percent(self.at_random)}"
        )
        mine, theirs = self.spread, self.spread_by_score
        if self.types > 1:
            found += f"; {mine.types} of {self.types} defect types, by score alone {theirs.types}"
        if mine.reach is not None and theirs.reach is not None:
            found += f"; flagged images lie {mine.reach:.2f} from a picked one, by score alone {theirs.reach:.2f}"
        return f"{found}."

    def _training(self) -> str:
        if not self.checked:
            return ""
        return f" {self.suspicious} of {self.checked} OK training images held back are suspicious."


def evaluate_queue(
    flags: Sequence[Flag], seen: Sequence[ScoredImage], traits: Descriptors, budget: int, checked: int
) -> QueueEvaluation:
    """flags: the line's queue. seen: its images, at least one. traits: of these images."""
    known = [one for one in seen if one.label in ("ok", "ng")]
    bad = {one.image_id for one in known if one.label == "ng"}
    hidden = build_flags([replace(one, label="unknown") for one in known])
    queue = rank_flags(hidden, traits, budget)
    first = [flag.image_id for flag in queue if flag.picked]
    highest = [one.image_id for one in sorted(known, key=lambda one: (-one.score, one.image_id))[: len(first)]]
    flagged = [flag.image_id for flag in queue]
    return QueueEvaluation(
        line=seen[0].line,
        budget=budget,
        flagged=len(flags),
        picked=sum(flag.picked for flag in flags),
        checked=checked,
        suspicious=sum("suspicious training image" in flag.kinds for flag in flags),
        precision=_share(first, bad, len(known)),
        by_score=_share(highest, bad, len(known)),
        at_random=_drawn(len(first), len(bad), len(known)),
        spread=_spread(first, flagged, bad, traits),
        spread_by_score=_spread(highest, flagged, bad, traits),
        types=len(_types(bad, traits)),
        diverse=len(traits.image_ids) > 0,
    )


def _share(picked: Sequence[str], bad: Collection[str], known: int) -> Estimate:
    """Where all are of one kind, any queue has the same share, and none is given."""
    n, hits = len(picked), sum(image in bad for image in picked)
    if why := _nothing_to_tell(n, len(bad), known):
        return why
    return Estimate(hits / n, *clopper_pearson(hits, n), n)


def _drawn(n: int, bad: int, known: int) -> Estimate:
    if why := _nothing_to_tell(n, bad, known):
        return why
    draw = stats.hypergeom(known, bad, n)
    low, high = (float(draw.ppf(at)) / n for at in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(bad / known, low, high, n)


def _nothing_to_tell(n: int, bad: int, known: int) -> Estimate | None:
    if not 0 < bad < known:
        return Estimate(None, n=known, reason=f"no {'OK' if bad else 'NG'} images in the test split")
    return None if n else Estimate(None, n=known, reason="no image is flagged")


def _spread(picked: Sequence[str], flagged: Sequence[str], bad: Collection[str], traits: Descriptors) -> Spread:
    types = len(_types([image for image in picked if image in bad], traits)) if len(traits.image_ids) else None
    return Spread(types, _coverage(picked, flagged, traits))


def _types(images: Collection[str], traits: Descriptors) -> set[str]:
    return set(traits.only(sorted(images)).defect_types.tolist()) - {""}


def _coverage(picked: Sequence[str], flagged: Sequence[str], traits: Descriptors) -> float | None:
    every = sorted({*picked, *flagged})
    points = traits.points(every)
    at = {image: place for place, image in enumerate(every)}
    if not picked or np.isnan(points).any():
        return None
    nearest, _ = cKDTree(points[[at[image] for image in picked]]).query(points[[at[image] for image in flagged]])
    return float(np.minimum(nearest, 1.0).mean())


def _percent(number: Estimate) -> str:
    return f"{number.value:.0%} ({number.low:.0%}–{number.high:.0%})"
