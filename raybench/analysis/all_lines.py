"""Decide over several lines: the model to run where one model must serve them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from raybench.analysis.comparison import Floats, Utility
from raybench.analysis.decision import decide
from raybench.analysis.verdict import Evidence, Verdict
from raybench.metrics.intervals import RESAMPLES, percentile_interval, resamples
from raybench.metrics.mean_ranks import largest_table
from raybench.metrics.numbers import Estimate

FEWEST_LINES = 5
"""Lines from which on lines are resampled together with their images. Of fewer lines only the images are."""
ALL_LINES, NOT_RUN = "all lines", "not run on every line"


def over_all(evidence: Sequence[Evidence], lines_of_run: int | None = None) -> Verdict | None:
    """Decide over several lines.

    Only the models and lines of the largest table without a gap are compared; a model that failed on a line, or is not
    admissible there, has the utility of a detector that tells nothing.

    Args:
        evidence: Evidence of each line that can be decided.
        lines_of_run: Number of all lines; None if all can be decided.

    Returns:
        The verdict, or None if that table has fewer than two lines or no model that finished on any of them.
    """
    total = len(evidence) if lines_of_run is None else lines_of_run
    conditions = _conditions(evidence)
    with_costs = [line for line in evidence if line.settings.costs]
    evidence = with_costs or evidence  # a changed line is decided without costs, in another unit
    models, lines = largest_table({line.name: {*line.utilities, *line.failed} for line in evidence})
    compared = sorted(
        (line for line in evidence if line.name in lines),
        # lines are drawn in this order, which neither their names nor a worse model may change
        key=lambda line: sorted((found.value for found in line.utilities.values()), reverse=True),
    )
    compared = [_shuffled(line, number) for number, line in enumerate(compared)]
    finished = [model for model in models if any(model in line.utilities for line in compared)]
    if len(compared) < 2 or not finished:
        return None
    missing = {model: sorted(line.name for line in compared if not _takes_part(line, model)) for model in finished}
    name = ALL_LINES if len(compared) == total else f"{len(compared)} of {total} lines"
    rest = {model for line in evidence for model in (*line.utilities, *line.failed)} - set(models)
    aurocs = {model: [_auroc(line, model) for line in compared] for model in finished}
    verdict = decide(
        Evidence(
            name=name,
            settings=evidence[0].settings,
            utilities={model: _mean_utility(compared, model) for model in finished},
            aurocs={model: float(np.mean([value for value, _ in values])) for model, values in aurocs.items()},
            auroc_draws={
                model: _over_lines([value for value, _ in values], [draws for _, draws in values])
                for model, values in aurocs.items()
            },
            excluded={
                model: f"not admissible on any line: {compared[0].excluded.get(model, 'failed')}"
                for model, lost in missing.items()
                if len(lost) == len(compared)
            },
            failed=dict.fromkeys(sorted(set(models) - set(finished)), "finished on no compared line"),
            numbers={
                model: _estimate([value for value, _ in values], [draws for _, draws in values])
                for model, values in aurocs.items()
            },
            notes=(*conditions, *_missing_notes(missing)),
        )
    )
    return replace(verdict, conclusions=dict(verdict.conclusions) | dict.fromkeys(sorted(rest), NOT_RUN))


def _shuffled(line: Evidence, number: int) -> Evidence:
    """Return a line with its draws in another order, the same for all models: lines are drawn independently."""
    order = np.random.default_rng(number).permutation(RESAMPLES)
    return replace(
        line,
        utilities={model: replace(found, draws=found.draws[order]) for model, found in line.utilities.items()},
        auroc_draws={model: draws[order] for model, draws in line.auroc_draws.items()},
    )


def _takes_part(line: Evidence, model: str) -> bool:
    return model in line.utilities and model not in line.excluded


def _missing_notes(missing: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Say what models that are missing on some lines count there; models that miss the same lines have one note."""
    models_of: dict[tuple[str, ...], list[str]] = {}
    for model, lines in missing.items():
        models_of.setdefault(tuple(lines), []).append(model)
    return tuple(
        f"{', '.join(models)} failed or {'is' if len(models) == 1 else 'are'} not admissible on {_few(lines)}; there "
        f"{'it counts' if len(models) == 1 else 'each counts'} as one that tells nothing."
        for lines, models in models_of.items()
        if lines
    )


def _conditions(evidence: Sequence[Evidence]) -> list[str]:
    """Say on which lines thresholds or times mean nothing."""
    changed = sorted(line.name for line in evidence if line.has_changed)
    untimed = sorted(line.name for line in evidence if not line.timed)
    texts = []
    if changed:
        texts.append(
            f"OK images of the test split differ from those trained on: {_few(changed)}. Most thresholds are refused "
            "there, and exclude no model; recall and false alarms mean little."
        )
    if untimed:
        texts.append(f"Times count for nothing, because of where or when they were taken: {_few(untimed)}.")
    return texts


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more lines" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _auroc(line: Evidence, model: str) -> tuple[float, Floats]:
    if model in line.aurocs:
        return line.aurocs[model], line.auroc_draws[model]
    return 0.5, np.full(RESAMPLES, 0.5)


def _mean_utility(lines: Sequence[Evidence], model: str) -> Utility:
    parts = [
        line.utilities[model]
        if _takes_part(line, model)
        else Utility(line.reference, np.full(RESAMPLES, line.reference), {"failed or not admissible": line.reference})
        for line in lines
    ]
    names = dict.fromkeys(name for part in parts for name in part.terms)
    terms = {name: float(np.mean([part.terms.get(name, 0.0) for part in parts])) for name in names}
    draws = _over_lines([part.value for part in parts], [part.draws for part in parts])
    return Utility(float(np.mean([part.value for part in parts])), draws, terms)


def _over_lines(values: Sequence[float], draws: Sequence[Floats]) -> Floats:
    """Return draws of the mean over lines: the images vary, and from FEWEST_LINES on the lines do too."""
    mean: Floats = np.mean(draws, axis=0)
    if len(values) < FEWEST_LINES:
        return mean
    weights = np.concatenate([drawn for (drawn,) in resamples([np.arange(len(values))], RESAMPLES)])
    resampled: Floats = weights @ (np.array(values) - np.mean(values)) / len(values)
    return mean + resampled


def _estimate(values: Sequence[float], draws: Sequence[Floats]) -> Estimate:
    return Estimate(float(np.mean(values)), *percentile_interval(_over_lines(values, draws)), len(values))
