"""Find images that differ from the rest of their line: dark, over-exposed, blurred, nearly empty, of an odd size.

CleanVision's fixed limits suit photographs of all kinds. But a dark-field line is dark by nature and a binarised one
has little information: a property that is usual on a line is no fault of an image. An image is an outlier if

- a property is outside the quartiles of the line by three times their distance (Tukey 1977, *far out*; CleanVision
  uses this rule for odd sizes), where the quartiles are those of the OK training images, or
- a fixed limit of CleanVision calls it a fault,

and in both cases only if this applies to at most a tenth of the line. Otherwise it is one trait of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

FAR_OUT = 3.0  # quartile distances
USUAL = 0.1  # share of a line above which a fault is a trait
MIN_REFERENCE = 8  # fewest images for useful quartiles
_EXAMPLES = 5

Fault = Literal["dark", "over-exposed", "blur", "low information", "odd size", "odd shape", "odd colours"]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Issue:
    """A fault of one image."""

    image_id: str
    split: str
    kind: Fault | Literal["unreadable", "leak", "two labels", "mask on an OK image", "large mask", "empty mask"]
    score: float
    """Higher is worse, comparable within a kind only: the distance from the line's median in quartile distances; for
    odd colours the share of images with others; for a leak 1 - the distance of the copies; for a mask that is large or
    on an OK image its share of the image; otherwise 1."""
    detail: str
    """The fault as a sentence."""


@dataclass(frozen=True)
class Trait:
    """A property that is usual on a line, though it would be a fault of a single image."""

    kind: Fault
    images: int
    """Number of images with the property."""
    share: float
    """Share of the line's images with the property."""
    detail: str
    """The property as a sentence about its most extreme image."""
    examples: tuple[str, ...]
    """IDs of the most extreme images."""


Describe = Callable[[float, Doubles], str]
"""Describes a value, given the (3,) quartiles of the line."""


@dataclass(frozen=True)
class _Rule:
    """A fault of images whose property is far outside the quartiles of the line."""

    kind: Fault
    column: str
    """Column of the property."""
    sides: tuple[int, ...]
    """Sides that are faults: -1 for low values, 1 for high ones."""
    least: float
    """Least quartile distance to divide by, for lines whose images hardly differ."""
    describe: Describe


def _compare(name: str, digits: int, unit: Callable[[float], float] = float) -> Describe:
    """Describe a value beside the quartiles, all converted by `unit`."""

    def describe(value: float, quartiles: Doubles) -> str:
        shown, low, high = (f"{unit(number):.{digits}f}" for number in (value, quartiles[0], quartiles[2]))
        return f"{name} {shown}; half of the line's images have {low} to {high}"

    return describe


def _describe_blur(value: float, quartiles: Doubles) -> str:
    return f"edges {2 ** (quartiles[1] - value):.1f} times as wide as this line's usually are"


_RULES = (
    _Rule("dark", "brightness", (-1,), 0.02, _compare("mean brightness", 2)),
    _Rule("dark", "brightness_perc_99", (-1,), 0.02, _compare("brightest parts", 2)),
    _Rule("over-exposed", "brightness", (1,), 0.02, _compare("mean brightness", 2)),
    _Rule("blur", "sharpness", (-1,), 0.1, _describe_blur),
    _Rule("low information", "entropy", (-1,), 0.2, _compare("bits per pixel", 2)),
    _Rule("odd size", "log_size", (-1, 1), 0.03, _compare("pixels (10^6)", 3, lambda log_size: 4**log_size / 1e6)),
    _Rule("odd shape", "elongation", (-1, 1), 0.03, _compare("height / width", 3, lambda elongation: 2**elongation)),
)
# CleanVision's limits that suit lines: our kind, the column, and the least quartile distance to divide by.
_LIMITS: Mapping[str, tuple[Fault, str, float]] = {
    "dark": ("dark", "brightness_perc_99", 0.02),
    "light": ("over-exposed", "brightness_perc_5", 0.02),
    "low_information": ("low information", "entropy", 0.2),
    "odd_aspect_ratio": ("odd shape", "aspect_ratio", 0.03),
}


@dataclass(frozen=True)
class _Finding:
    """The result of one rule for all images of a line."""

    kind: Fault
    is_fault: Bools
    """(N,) bool."""
    score: Doubles
    """(N,) float64, as `Issue.score`."""
    detail: Callable[[int], str]
    """Describes the image at an index."""


def find_outliers(table: pd.DataFrame) -> tuple[list[Issue], list[Trait]]:
    """Find outliers by all rules.

    Args:
        table: As in `Properties`, with at least one row.

    Returns:
        Issues, of which each image has at most one of a kind, sorted by kind, worst first; and traits of the line,
        sorted by kind.
    """
    table = table.assign(log_size=np.log2(table["size"]))
    findings = [*_apply_rules(table), *_apply_limits(table), _find_odd_colours(table)]
    worst: dict[tuple[str, str], Issue] = {}
    traits: dict[str, Trait] = {}
    for finding in findings:
        indices = np.flatnonzero(finding.is_fault)
        if len(indices) > USUAL * len(table):
            traits.setdefault(finding.kind, _trait(finding, indices, table))
            continue
        for index in indices.tolist():
            issue = _issue(finding, index, table)
            key = issue.image_id, issue.kind
            if key not in worst or worst[key].score < issue.score:
                worst[key] = issue
    issues = sorted(worst.values(), key=lambda issue: (issue.kind, -issue.score, issue.image_id))
    return issues, sorted(traits.values(), key=lambda trait: trait.kind)


def _issue(finding: _Finding, index: int, table: pd.DataFrame) -> Issue:
    row = table.iloc[index]
    score = round(float(finding.score[index]), 4)
    return Issue(row["image_id"], row["split"], finding.kind, score, finding.detail(index))


def _trait(finding: _Finding, indices: npt.NDArray[np.int64], table: pd.DataFrame) -> Trait:
    worst = indices[np.argsort(-finding.score[indices], kind="stable")][:_EXAMPLES]
    share = round(len(indices) / len(table), 4)
    examples = tuple(table["image_id"].iloc[worst])
    return Trait(finding.kind, len(indices), share, finding.detail(int(worst[0])), examples)


def _reference(table: pd.DataFrame) -> Bools:
    """Mark the OK training images, or all images if those are few."""
    train = ((table["split"] == "train") & (table["label"] == "ok")).to_numpy()
    return train if train.sum() >= MIN_REFERENCE else np.ones(len(table), np.bool_)


def _apply_rules(table: pd.DataFrame) -> Iterator[_Finding]:
    """Find images far outside the quartiles of the line."""
    reference = _reference(table)
    for rule in _RULES if reference.sum() >= MIN_REFERENCE else ():
        values = table[rule.column].to_numpy(np.float64)
        low, median, high = quartiles = np.percentile(values[reference], (25, 50, 75))
        width = max(high - low, rule.least)
        outside = np.zeros(len(values), np.bool_)
        for side in rule.sides:
            outside |= side * (values - (high if side > 0 else low)) > FAR_OUT * width
        detail = _detail(rule.describe, values, quartiles)
        yield _Finding(rule.kind, outside, np.abs(values - median) / width, detail)


def _detail(describe: Describe, values: Doubles, quartiles: Doubles) -> Callable[[int], str]:
    return lambda index: describe(float(values[index]), quartiles)


def _apply_limits(table: pd.DataFrame) -> Iterator[_Finding]:
    """Find images that CleanVision's fixed limits call a fault."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    manager = ImagePropertyIssueManager()
    manager.issues = pd.DataFrame(index=table.index)
    manager.update_issues(table, list(_LIMITS))
    for name, (kind, column, least) in _LIMITS.items():
        values = table[column].to_numpy(np.float64)
        low, median, high = np.percentile(values, (25, 50, 75))
        is_fault = manager.issues[f"is_{name}_issue"].to_numpy(np.bool_)
        scores = manager.issues[f"{name}_score"].to_numpy(np.float64)
        detail = _limit_detail(name, scores, manager.params[name]["threshold"])
        yield _Finding(kind, is_fault, np.abs(values - median) / max(high - low, least), detail)


def _limit_detail(name: str, scores: Doubles, limit: float) -> Callable[[int], str]:
    issue = name.replace("_", " ")
    return lambda index: f"CleanVision's score for {issue} is {scores[index]:.2f}; below {limit} it is a fault"


def _find_odd_colours(table: pd.DataFrame) -> _Finding:
    """Find images that differ from most of the line in colours or depth, as grey among colour, 16 bits among 8."""
    colours = table["colours"]
    usual = str(colours.mode().iloc[0])
    odd = (colours != usual).to_numpy(np.bool_)
    share = float(1 - odd.mean())
    score = np.where(odd, share, 0.0)
    return _Finding(
        "odd colours", odd, score, lambda index: f"{colours.iloc[index]}; {share:.0%} of the line's images are {usual}"
    )
