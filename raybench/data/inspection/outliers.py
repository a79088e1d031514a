"""Images that do not look like the rest of their line: dark, over-exposed, blurred, nearly empty, of an odd size.

CleanVision's limits suit photographs of all kinds. A dark-field line is dark by nature, a binarised one has little
information: what is usual on a line is no fault of an image. So an image is named when

- a property lies beyond the line's quartiles by three times their distance (Tukey 1977, *far out*; CleanVision's own
  rule for odd sizes), the quartiles being those of the OK images that are trained on, or
- CleanVision's fixed limit calls it a fault,

and in both cases only while at most a tenth of the line is named so. Otherwise that is one sentence about the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

FAR_OUT = 3.0
USUAL = 0.1  # share of a line
MIN_REFERENCE = 8  # images whose quartiles are worth something
_EXAMPLES = 5

Fault = Literal["dark", "over-exposed", "blur", "low information", "odd size", "odd shape", "odd colours"]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Issue:
    """One image that something is wrong with. score: higher is worse, in units of its kind: distance from the line's
    median in quartile distances; for odd colours the share of images that have others; for a leak 1 - distance; else 1.
    detail: a sentence for a person."""

    image_id: str
    split: str
    kind: Fault | Literal["unreadable", "leak", "two labels"]
    score: float
    detail: str


@dataclass(frozen=True)
class Trait:
    """What is usual on this line, though it would be a fault elsewhere. share: of the line's images."""

    kind: Fault
    images: int
    share: float
    detail: str
    examples: tuple[str, ...]


Say = Callable[[float, Doubles], str]


@dataclass(frozen=True)
class _Look:
    """A property, the sides that are faults (-1 low, 1 high), the least quartile distance that is told from none, and
    the sentence for a value beside the line's quartiles."""

    kind: Fault
    column: str
    sides: tuple[int, ...]
    least: float
    say: Say


def _between(name: str, digits: int, shown: Callable[[float], float] = float) -> Say:
    def say(value: float, quartiles: Doubles) -> str:
        here, low, high = (f"{shown(one):.{digits}f}" for one in (value, quartiles[0], quartiles[2]))
        return f"{name} {here}; half of the line's images have {low} to {high}"

    return say


def _wider(value: float, quartiles: Doubles) -> str:
    return f"edges {2 ** (quartiles[1] - value):.1f} times as wide as this line's usually are"


_LOOKS = (
    _Look("dark", "brightness", (-1,), 0.02, _between("mean brightness", 2)),
    _Look("dark", "brightness_perc_99", (-1,), 0.02, _between("brightest parts", 2)),
    _Look("over-exposed", "brightness", (1,), 0.02, _between("mean brightness", 2)),
    _Look("blur", "sharpness", (-1,), 0.1, _wider),
    _Look("low information", "entropy", (-1,), 0.2, _between("bits per pixel", 2)),
    _Look("odd size", "log_size", (-1, 1), 0.03, _between("pixels (10^6)", 3, lambda log_size: 4**log_size / 1e6)),
    _Look("odd shape", "elongation", (-1, 1), 0.03, _between("height / width", 3, lambda elongation: 2**elongation)),
)
# CleanVision's limits that fit, with our kind, the column they look at, and the least quartile distance there.
_LIMITS: Mapping[str, tuple[Fault, str, float]] = {
    "dark": ("dark", "brightness_perc_99", 0.02),
    "light": ("over-exposed", "brightness_perc_5", 0.02),
    "low_information": ("low information", "entropy", 0.2),
    "odd_aspect_ratio": ("odd shape", "aspect_ratio", 0.03),
}


@dataclass(frozen=True)
class _Named:
    """score, marked: (N,), of all images of the line. detail: a sentence for the image at an index."""

    kind: Fault
    marked: Bools
    score: Doubles
    detail: Callable[[int], str]


def find_outliers(table: pd.DataFrame) -> tuple[list[Issue], list[Trait]]:
    """table: as in `Properties`. Of one image and kind the worst is kept; both lists are sorted."""
    table = table.assign(log_size=np.log2(table["size"]))
    named = [*_far_out(table), *_beyond_limits(table), _odd_colours(table)]
    worst: dict[tuple[str, str], Issue] = {}
    traits: dict[str, Trait] = {}
    for one in named:
        at = np.flatnonzero(one.marked)
        if len(at) > USUAL * len(table):
            traits.setdefault(one.kind, _trait(one, at, table))
            continue
        for index in at.tolist():
            issue = _issue(one, index, table)
            key = issue.image_id, issue.kind
            if key not in worst or worst[key].score < issue.score:
                worst[key] = issue
    issues = sorted(worst.values(), key=lambda issue: (issue.kind, -issue.score, issue.image_id))
    return issues, sorted(traits.values(), key=lambda trait: trait.kind)


def _issue(one: _Named, index: int, table: pd.DataFrame) -> Issue:
    row = table.iloc[index]
    return Issue(row["image_id"], row["split"], one.kind, round(float(one.score[index]), 4), one.detail(index))


def _trait(one: _Named, at: npt.NDArray[np.int64], table: pd.DataFrame) -> Trait:
    worst = at[np.argsort(-one.score[at], kind="stable")][:_EXAMPLES]
    examples = tuple(table["image_id"].iloc[worst])
    return Trait(one.kind, len(at), round(len(at) / len(table), 4), one.detail(int(worst[0])), examples)


def _reference(table: pd.DataFrame) -> Bools:
    """The OK images that are trained on; every image where those are few."""
    trained = ((table["split"] == "train") & (table["label"] == "ok")).to_numpy()
    return trained if trained.sum() >= MIN_REFERENCE else np.ones(len(table), np.bool_)


def _far_out(table: pd.DataFrame) -> Iterator[_Named]:
    """What lies far beyond the line's own quartiles."""
    reference = _reference(table)
    for look in _LOOKS if reference.sum() >= MIN_REFERENCE else ():
        values = table[look.column].to_numpy(np.float64)
        low, middle, high = quartiles = np.percentile(values[reference], (25, 50, 75))
        width = max(high - low, look.least)
        beyond = np.zeros(len(values), np.bool_)
        for side in look.sides:
            beyond |= side * (values - (high if side > 0 else low)) > FAR_OUT * width
        yield _Named(look.kind, beyond, np.abs(values - middle) / width, _told(look.say, values, quartiles))


def _told(say: Say, values: Doubles, quartiles: Doubles) -> Callable[[int], str]:
    return lambda index: say(float(values[index]), quartiles)


def _beyond_limits(table: pd.DataFrame) -> Iterator[_Named]:
    """What CleanVision's own limits name."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    manager = ImagePropertyIssueManager()
    manager.issues = pd.DataFrame(index=table.index)
    manager.update_issues(table, list(_LIMITS))
    for name, (kind, column, least) in _LIMITS.items():
        values = table[column].to_numpy(np.float64)
        low, middle, high = np.percentile(values, (25, 50, 75))
        marked = manager.issues[f"is_{name}_issue"].to_numpy(np.bool_)
        scores = manager.issues[f"{name}_score"].to_numpy(np.float64)
        detail = _limited(name, scores, manager.params[name]["threshold"])
        yield _Named(kind, marked, np.abs(values - middle) / max(high - low, least), detail)


def _limited(name: str, scores: Doubles, limit: float) -> Callable[[int], str]:
    shown = name.replace("_", " ")
    return lambda index: f"CleanVision's score for {shown} is {scores[index]:.2f}; below {limit} it is a fault"


def _odd_colours(table: pd.DataFrame) -> _Named:
    """Grey among colour, 16 bits among 8: every image that is not as most of the line are."""
    colours = table["colours"]
    usual = str(colours.mode().iloc[0])
    odd = (colours != usual).to_numpy(np.bool_)
    share = float(1 - odd.mean())
    score = np.where(odd, share, 0.0)
    return _Named(
        "odd colours", odd, score, lambda index: f"{colours.iloc[index]}; {share:.0%} of the line's images are {usual}"
    )
