"""Slices: how a model does on the images of each camera, lot or light, as the table that was packed names them.

A slice whose false-alarm rate differs from that of all other OK images points at its pictures before it points at the
model. The test is Fisher's exact test, two-sided; its p-values are corrected over the slices of a model (Holm, 1979).
It counts images, so it says nothing of images that belong to groups: slices of such lines have no p-value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raybench.metrics.image import ImageScores, share_above
from raybench.metrics.numbers import Estimate, Threshold

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 20
"""Values of an attribute, at most: one that names a time or a part of its own for each image makes no slices."""
FEW = 10
"""Images below which a slice says little."""
Attributes = Mapping[str, Mapping[str, str]]
"""By image ID: the value of each attribute that the image has."""


@dataclass(frozen=True)
class Slice:
    """The images that have one value of an attribute, as one model scores them."""

    line: str
    """Name of the line."""
    model: str
    """Label on the board."""
    attribute: str
    """Name of the column, as `camera`."""
    value: str
    """Its value."""
    ok: int
    """Number of OK images."""
    ng: int
    """Number of NG images."""
    recall: Estimate
    """Share of the NG images above the model's threshold."""
    false_alarm_rate: Estimate
    """Share of the OK images above it."""
    p: float | None = None
    """Probability of false alarms that differ as much from those on all other OK images, if there is no difference;
    corrected over the model's slices. None where it cannot be tested."""

    @property
    def is_small(self) -> bool:
        """Whether it has fewer than `FEW` images."""
        return self.ok + self.ng < FEW


def slices_of(line: str, model: str, images: ImageScores, threshold: Threshold, attributes: Attributes) -> list[Slice]:
    """Return the slices of a line for one model, by attribute and value.

    Args:
        line: Name of the line.
        model: Label on the board.
        images: The model's image scores.
        threshold: Its threshold.
        attributes: Attributes of the images; those of other images are ignored.
    """
    ids = images.image_ids.tolist()
    columns = sorted({name for image_id in ids for name in attributes.get(image_id, ())})
    slices = []
    for column in columns:
        values = np.array([attributes.get(image_id, {}).get(column, "") for image_id in ids], np.str_)
        counts = Counter(values.tolist())
        if 2 <= len(counts) <= MOST_VALUES:
            parts = ((line, model, column, value) for value in sorted(counts))
            slices += [_slice(names, images, threshold, values == names[-1]) for names in parts]
    return _corrected(slices)


def slice_frame(slices: Sequence[Slice]) -> pd.DataFrame:
    """Return slices as a table with the index attribute, value; an interval's ends are in `<name>_low` and `_high`."""
    import pandas as pd  # takes half a second, and only notebooks need it

    rows = []
    for each in slices:
        row: dict[str, object] = {name: getattr(each, name) for name in ("attribute", "value", "ok", "ng")}
        for name in ("recall", "false_alarm_rate"):
            found: Estimate = getattr(each, name)
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {"p": each.p})
    numbers = [f"{name}{end}" for name in ("recall", "false_alarm_rate") for end in ("", "_low", "_high")]
    columns = ["attribute", "value", "ok", "ng", *numbers, "p"]
    return pd.DataFrame(rows, columns=columns).set_index(["attribute", "value"])


def _slice(
    names: tuple[str, str, str, str], images: ImageScores, threshold: Threshold, inside: npt.NDArray[np.bool_]
) -> Slice:
    some = images.only(images.image_ids[inside])
    return Slice(
        *names,
        ok=len(some.of_label("ok")),
        ng=len(some.of_label("ng")),
        recall=share_above(some, "ng", threshold),
        false_alarm_rate=share_above(some, "ok", threshold),
        p=_fisher(images, threshold, inside),
    )


def _fisher(images: ImageScores, threshold: Threshold, inside: npt.NDArray[np.bool_]) -> float | None:
    if threshold.value is None or (images.groups != images.image_ids).any():
        return None
    is_ok, alarm = images.counted("ok"), images.scores > threshold.value
    table = [[int((is_ok & part & hit).sum()) for hit in (alarm, ~alarm)] for part in (inside, ~inside)]
    if not all(map(sum, table)):
        return None
    from scipy.stats import fisher_exact  # takes a second to import, and few lines have attributes

    return float(fisher_exact(table).pvalue)


def _corrected(slices: Sequence[Slice]) -> list[Slice]:
    """Correct the p-values of some slices (Holm)."""
    tested = sorted((each.p, at) for at, each in enumerate(slices) if each.p is not None)
    corrected, highest = dict[int, float](), 0.0
    for rank, (p, at) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[at] = highest
    return [replace(each, p=corrected.get(at)) for at, each in enumerate(slices)]
