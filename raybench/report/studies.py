"""What was measured of a line besides the comparison: slices, learning curves, robustness. As the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raybench.analysis.learning_curve import CurvePoint
from raybench.analysis.learning_curve import conclude as conclude_curve
from raybench.analysis.robustness import AS_TAKEN, RobustnessPoint
from raybench.analysis.robustness import conclude as conclude_robustness
from raybench.analysis.slices import Slice
from raybench.metrics.numbers import Estimate
from raybench.report.marks import ALARMS, AUROC, SHARE, Axis, Dot, dot

LOWER = Axis(-0.1, 0.3, (0, 0.3), reference=0.0)


@dataclass(frozen=True)
class Studies:
    """What was measured besides the comparison, by line."""

    slices: Mapping[str, Sequence[Slice]] = field(default_factory=dict)
    """The named model on the images of each camera, lot or light."""
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    """Points of learning curves."""
    robustness: Mapping[str, Sequence[RobustnessPoint]] = field(default_factory=dict)
    """Models on perturbed images."""


@dataclass(frozen=True)
class CurveRow:
    """A model, trained on more and more images."""

    model: str
    dots: tuple[Dot | None, ...]
    """Image AUROC, in the order of `CurveTable.sizes`. None: not trained on so many."""


@dataclass(frozen=True)
class CurveTable:
    """The learning curves of a line."""

    sizes: tuple[int, ...]
    """Numbers of OK images; the last is the run's own."""
    axis: Axis
    rows: tuple[CurveRow, ...]
    conclusions: tuple[str, ...]


@dataclass(frozen=True)
class RobustnessRow:
    """A model on images that are perturbed in one way."""

    model: str
    perturbation: str
    dots: tuple[Dot, ...]
    """In the order of `RobustnessTable.columns`. Empty if the measurement failed."""
    failure: str
    """Why there are no numbers."""


@dataclass(frozen=True)
class RobustnessTable:
    """The robustness of a line's models."""

    columns: tuple[tuple[str, Axis], ...]
    """Header and scale of each column of dots."""
    shown: str
    """The model whose rows stand first: the named one, where it was measured."""
    images: int
    """Number of images that were perturbed."""
    rows: tuple[RobustnessRow, ...]
    """The model that is shown first, then the others."""
    conclusions: tuple[str, ...]


def curve_table(points: Sequence[CurvePoint], models: Sequence[str], margin: float) -> CurveTable | None:
    """Return the learning curves of a line, None if there are none.

    Args:
        points: Its points.
        models: Labels of the models in the order of rows.
        margin: Difference of image AUROC that does not count.
    """
    if not points:
        return None
    sizes = tuple(sorted({point.images for point in points}))
    by_place = {(point.model, point.images): point for point in points}
    rows = tuple(
        CurveRow(model, tuple(_curve_dot(by_place.get((model, size))) for size in sizes))
        for model in models
        if any((model, size) in by_place for size in sizes)
    )
    return CurveTable(sizes, AUROC, rows, tuple(conclude_curve(points, margin)))


def robustness_table(points: Sequence[RobustnessPoint], models: Sequence[str], margin: float) -> RobustnessTable | None:
    """Return the robustness of a line's models, None if it was not measured.

    Args:
        points: Its points.
        models: Labels of the models, the named one first.
        margin: Difference of image AUROC that does not count.
    """
    if not points:
        return None
    columns = {
        "image AUROC": AUROC,
        "lower by": replace(LOWER, reference=margin),
        "false alarms": replace(ALARMS, high=1.0, ticks=(0, 0.5, 1), reference=points[0].budget),
        "recall": SHARE,
    }
    place = {model: at for at, model in enumerate(models)}
    ordered = sorted(points, key=lambda point: place.get(point.model, len(place)))
    return RobustnessTable(
        columns=tuple(columns.items()),
        shown=ordered[0].model,
        images=max(point.image_auroc.n for point in points),
        rows=tuple(_robustness_row(point, columns) for point in ordered),
        conclusions=tuple(conclude_robustness(ordered, margin)),
    )


def _curve_dot(point: CurvePoint | None) -> Dot | None:
    if point is None:
        return None
    name = f"{point.model} with {point.images} OK images: image AUROC"
    found = dot(name, point.image_auroc, AUROC)
    note = "" if point.has_threshold else "; too few images for a threshold within the false-alarm budget"
    return replace(found, title=f"{found.title}{note}", is_strong=point.has_threshold)


def _robustness_row(point: RobustnessPoint, columns: Mapping[str, Axis]) -> RobustnessRow:
    if point.failure:
        failure = f"{point.failure.error_type}: {point.failure.message}"
        return RobustnessRow(point.model, point.perturbation, (), failure)
    lower = Estimate(None, reason="nothing to compare with") if point.perturbation == AS_TAKEN else point.lower
    numbers = (point.image_auroc, lower, point.false_alarm_rate, point.recall)
    dots = (
        dot(f"{point.model}, {point.perturbation}: {name}", number, axis, "+.3f" if name == "lower by" else ".3f")
        for (name, axis), number in zip(columns.items(), numbers, strict=True)
    )
    return RobustnessRow(point.model, point.perturbation, tuple(dots), "")
