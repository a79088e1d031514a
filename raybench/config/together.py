"""Groups of lines on which a model is trained together."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from raybench.config.experiment import Experiment, ModelChoice, Together
from raybench.config.unit import TrainingLine, Unit
from raybench.data.manifest import Manifest
from raybench.errors import did_you_mean


def lines_of_group(group: Together, lines: Iterable[str]) -> list[str]:
    """Return the lines that a group trains its models on together, by name."""
    return sorted({line for line in lines if any(fnmatch.fnmatchcase(line, pattern) for pattern in group.lines)})


def idle_groups(experiment: Experiment, lines: Sequence[str]) -> Iterator[str]:
    """Describe patterns of groups that fit no line, and groups of fewer than two."""
    for name, group in experiment.together.items():
        for pattern in group.lines:
            if not fnmatch.filter(lines, pattern):
                yield f"together: {name}: {pattern!r} fits no line of the experiment; {did_you_mean(pattern, lines)}"
        found = lines_of_group(group, lines)
        if len(found) == 1:
            yield f"together: {name}: only {found[0]} matches; what is trained together are two lines at least"


def units_together(
    experiment: Experiment,
    by_line: Mapping[str, Experiment],
    manifests: Mapping[str, Manifest],
    unit_of: Callable[[str, ModelChoice, int], Unit],
    problems: list[str],
) -> tuple[Unit, ...]:
    """Return the units of models that are trained on several lines together: by group, model, line and seed.

    Args:
        experiment: The experiment.
        by_line: The experiment with the overrides for each line applied.
        manifests: Manifests of the lines, by name.
        unit_of: Makes the unit of a line, model and seed that is trained on that line alone.
        problems: What is wrong with groups is added to it.
    """
    labels = {choice.shown: choice for choice in experiment.all_models}
    units: list[Unit] = []
    for name, group in experiment.together.items():
        lines = lines_of_group(group, manifests)
        trained_on = tuple(
            TrainingLine(line, manifests[line].training_digest, by_line[line].protocol) for line in lines
        )
        for label in group.models:
            of_model = [
                replace(unit_of(line, choice, seed), together=trained_on)
                for line in lines
                for choice in [next((own for own in by_line[line].models if own.shown == label), labels[label])]
                for seed in by_line[line].seeds
            ]
            problems += [f"together: {name}: {label}: {text}" for text in _differences(of_model, by_line)]
            units += [replace(unit, model=f"{label}@{name}") for unit in of_model]
    return tuple(units)


def _differences(units: Sequence[Unit], by_line: Mapping[str, Experiment]) -> Iterator[str]:
    """Describe why these units of one model cannot share a detector."""
    seeds = {unit.line: list(by_line[unit.line].seeds) for unit in units}
    budgets = {unit.line: unit.protocol.train_budget_s for unit in units}
    for what, found in (("seeds", seeds), ("train_budget_s", budgets)):
        if len(set(map(str, found.values()))) > 1:
            told = ", ".join(f"{line} {value}" for line, value in found.items())
            yield f"its lines have different {what} by their overrides, and one detector has one: {told}"
    inputs = {unit.line: (unit.input.height, unit.input.width, unit.input.tile, unit.input.mode) for unit in units}
    if len(set(inputs.values())) > 1:
        sizes = {unit.line: f"{unit.input.source_height}×{unit.input.source_width}" for unit in units}
        told = ", ".join(
            f"{line} {height}×{width} {mode} (images {sizes[line]})"
            for line, (height, width, _, mode) in inputs.items()
        )
        yield (
            f"its lines have different inputs, and one detector has one: {told}; `input: {{fit: squash}}` or "
            "`{fit: letterbox}` makes them alike"
        )
