"""Decide which model a line should run, how certain the decision is, and why not the others.

Models are ranked by image AUROC. Two models are *tied* when the 95 % interval of their difference, resampled over the
same images, contains zero. Among the models tied with the leader, the verdict names the one with the highest utility
(see `criteria`).

Every model gets a grade:

best         tied with the leader, and image AUROC at least 0.8
good         at most 0.1 image AUROC behind the leader, and at least 0.8
not good     the rest, and every model whose false-alarm rate on OK test images is significantly above its budget
not enough images to tell
             tied with a leader whose 95 % interval is wider than 0.3 or reaches down to 0.5, chance
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raybench.analysis.criteria import Criteria, criteria, utility
from raybench.analysis.rows import BoardRow
from raybench.metrics.image import ImageScores
from raybench.metrics.mean_ranks import largest_table
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import Ranking, mean_ranking, rank

BEST, GOOD, NOT_GOOD, UNKNOWN = "best", "good", "not good", "not enough images to tell"
ENOUGH, NEAR = 0.8, 0.1  # image AUROC: least useful value; largest gap to the leader of a good model
TOO_WIDE, COIN = 0.3, 0.5  # width of an interval; image AUROC of a coin
ALL_LINES, NOT_RUN = "all lines", "not run on every line"
CRITERIA = {
    "recall": "recall",
    "heat_map": "heat map",
    "speed": "speed",
    "size": "size",
    "non_square": "images that are not square",
}


@dataclass(frozen=True)
class Verdict:
    """The model that a line should run, and a grade for each of the others."""

    line: str
    run: str | None
    """Model to run; None if the scores do not allow a decision."""
    tied: tuple[str, ...]
    """Models that cannot be told apart from `run`, the highest utility first."""
    sentence: str
    """The verdict for a person."""
    grades: Mapping[str, str] = field(default_factory=dict)
    """Grade by model."""
    conclusions: Mapping[str, str] = field(default_factory=dict)
    """Reason of the grade by model."""
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Best and worst possible place in the ranking, by model."""
    merits: Mapping[str, Criteria] = field(default_factory=dict)
    """Criteria by model."""
    worth: Mapping[str, float] = field(default_factory=dict)
    """Utility by model, the weighted mean of its criteria."""

    def __str__(self) -> str:
        """The sentence, and a row for each model: its grade and why it has that."""
        width = max(map(len, self.conclusions), default=0)
        words = {model: [self.grades.get(model, ""), why] for model, why in self.conclusions.items()}
        rows = [f"  {model:<{width}}  {': '.join(filter(None, words[model]))}" for model in words]
        return "\n".join([self.sentence, *rows])

    __repr__ = __str__


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict is based on."""

    name: str
    """Line, or a text for several lines."""
    ranking: Ranking
    numbers: Mapping[str, Estimate]
    """Image AUROC by model, as reported."""
    criteria: Mapping[str, Criteria]
    """Criteria by model."""
    weights: Mapping[str, float]
    """Weight by criterion."""
    alarms: Mapping[str, float]
    """False-alarm rate of each model that significantly exceeds its budget."""
    failed: Mapping[str, str]
    """Reason of each model without metrics."""

    def utility(self, model: str) -> float:
        """Return the weighted mean of a model's criteria, 0 to 1."""
        return utility(self.criteria.get(model, {}), self.weights)


def collect_evidence(
    line: str,
    rows: Sequence[BoardRow],
    scores: Mapping[str, Sequence[ImageScores]],
    weights: Mapping[str, float],
    budget: float,
) -> Evidence | Verdict:
    """Collect the evidence of one line.

    Args:
        line: Name of the line.
        rows: Rows of the line, one per model.
        scores: Image scores of each finished seed, by model.
        weights: Weight by criterion.
        budget: False-alarm budget of the line.

    Returns:
        The evidence, or a verdict without a model if the scores do not allow a decision.
    """
    failed = {row.model: _failed(row) for row in rows if row.quality is None}
    ranked = {row.model: scores[row.model] for row in rows if row.quality}
    if not ranked:
        return _no_verdict(line, "no model finished", failed)
    ranking = rank(ranked, name=line)
    if isinstance(ranking, Estimate):
        return _no_verdict(line, ranking.reason or "", failed | dict.fromkeys(ranked, "quality unknown"))
    alarms = {row.model: rate for row in rows if (rate := _excessive_false_alarms(row))}
    numbers = {row.model: row.quality.image_auroc for row in rows if row.quality}
    return Evidence(line, ranking, numbers, criteria(rows, budget), weights, alarms, failed)


def over_all(evidence: Sequence[Evidence]) -> Verdict | None:
    """Decide over several lines.

    Only the models and lines of the largest table without a gap are compared.

    Returns:
        The verdict, or None if that table has fewer than two lines.
    """
    _, lines = largest_table({line.name: set(line.ranking.models) for line in evidence})
    compared = [line for line in evidence if line.name in lines]
    ranking = mean_ranking([line.ranking for line in compared])
    if ranking is None or len(compared) < 2:
        return None
    rest = {model for line in evidence for model in (*line.ranking.models, *line.failed)} - set(ranking.models)
    failed = dict.fromkeys(
        sorted(model for model in rest if any(model in line.failed for line in evidence)),
        "did not finish on every line",
    )
    alarms = {
        model: max(line.alarms.get(model, 0.0) for line in compared)
        for model in ranking.models
        if sum(model in line.alarms for line in compared) * 2 > len(compared)  # on most lines
    }
    mean_criteria = {model: _mean_criteria([line.criteria[model] for line in compared]) for model in ranking.models}
    numbers = {model: ranking.value(model) for model in ranking.models}
    name = ALL_LINES if len(compared) == len(evidence) else f"{len(compared)} of {len(evidence)} lines"
    verdict = decide(Evidence(name, ranking, numbers, mean_criteria, evidence[0].weights, alarms, failed))
    return replace(verdict, conclusions=dict(verdict.conclusions) | dict.fromkeys(rest - failed.keys(), NOT_RUN))


def decide(evidence: Evidence) -> Verdict:
    """Name the model to run and grade the others."""
    ranking = evidence.ranking
    tied = [model for model in ranking.tied if model not in evidence.alarms] or list(ranking.tied)
    best = max(tied, key=lambda model: (evidence.utility(model), evidence.numbers[model].value or 0.0))
    others = sorted((model for model in tied if model != best), key=lambda model: (-evidence.utility(model), model))
    grades = {model: _grade(evidence, model) for model in ranking.models}
    conclusions = {model: _conclusion(evidence, model, best, tied) for model in ranking.models}
    return Verdict(
        line=evidence.name,
        run=best,
        tied=tuple(others),
        sentence=_sentence(evidence, best, others, grades[best]),
        grades=grades | dict.fromkeys(evidence.failed, NOT_GOOD),
        conclusions=conclusions | dict(evidence.failed),
        places={model: ranking.places(model) for model in ranking.models},
        merits=evidence.criteria,
        worth={model: evidence.utility(model) for model in ranking.models},
    )


def _grade(evidence: Evidence, model: str) -> str:
    leader, value = evidence.numbers[evidence.ranking.leader], evidence.numbers[model].value or 0.0
    if model in evidence.alarms:
        return NOT_GOOD
    if model in evidence.ranking.tied and _is_unsure(leader):
        return UNKNOWN
    if value < ENOUGH:
        return NOT_GOOD
    if model in evidence.ranking.tied:
        return BEST
    return GOOD if (leader.value or 0.0) - value <= NEAR else NOT_GOOD


def _is_unsure(leader: Estimate) -> bool:
    low, high = leader.low or 0.0, leader.high or 1.0
    return high - low > TOO_WIDE or low <= COIN


def _conclusion(evidence: Evidence, model: str, best: str, tied: Sequence[str]) -> str:
    if model in evidence.alarms:
        return f"its threshold does not hold here: {evidence.alarms[model]:.0%} false alarms"
    if model == best:
        return "run this one" if len(tied) == 1 else "run this one: tied, and worth most"
    if model in tied:
        return f"tied; worth {evidence.utility(model):.2f}, {best} {evidence.utility(best):.2f}"
    gap = evidence.ranking.gap(evidence.ranking.leader, model)
    return f"behind by {gap.value:.3f} ({gap.low:.3f}–{gap.high:.3f}) image AUROC"


def _sentence(evidence: Evidence, best: str, others: Sequence[str], grade: str) -> str:
    number = evidence.numbers[best]
    start = f"{evidence.name}: run {best} (image AUROC {format_number(number)})."
    if grade == UNKNOWN:
        start = (
            f"{evidence.name}: {UNKNOWN} ({number.n}); the best guess is {best} (image AUROC {format_number(number)})."
        )
    why = ""
    if others:
        why = f"It cannot be told apart from {', '.join(others)} on these images; {_reason(evidence, best, others[0])}."
    elif evidence.ranking.tied == (best,) and len(evidence.ranking.models) > 1:
        why = "It is better than every other model tried."
    if passed_over := [model for model in evidence.ranking.tied if model in evidence.alarms and model != best]:
        why += f" {', '.join(passed_over)} would rank with it, but the threshold does not hold here."
    if best in evidence.alarms:
        why += f" But {_conclusion(evidence, best, best, ())}."
    elif grade == NOT_GOOD:
        why += " None of them is good here."
    return f"{start} {why.strip()}".rstrip()


def _reason(evidence: Evidence, best: str, other: str) -> str:
    """Name the criterion that favours `best` most over `other`."""
    mine, theirs = evidence.criteria.get(best, {}), evidence.criteria.get(other, {})
    leads = {name: evidence.weights[name] * (mine[name] - theirs[name]) for name in mine if name in theirs}
    name = max(leads, key=lambda name: leads[name], default=None)
    if name is None or leads[name] <= 0:
        return "nothing else parts them"
    return f"its {CRITERIA[name]} speaks for it"


def _excessive_false_alarms(row: BoardRow) -> float | None:
    """Return the false-alarm rate on OK test images if its interval lies above the budget."""
    rate = row.quality.false_alarm_rate if row.quality else None
    if rate is None or row.threshold is None or (rate.low or 0.0) <= max(row.threshold.budget, row.threshold.promised):
        return None
    return rate.value


def _mean_criteria(lines: Sequence[Criteria]) -> Criteria:
    known = {name: [values[name] for values in lines if name in values] for name in CRITERIA}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _failed(row: BoardRow) -> str:
    failure = row.failures[-1]
    return f"failed in {failure.phase}: {failure.error_type}"


def _no_verdict(line: str, why: str, conclusions: Mapping[str, str]) -> Verdict:
    return Verdict(line, None, (), f"{line}: no verdict, {why}.", conclusions=dict(conclusions))


def format_number(number: Estimate) -> str:
    """Format a number with its interval, `0.953 (0.931–0.971)`; a dash if it is undefined."""
    if number.value is None:
        return "–"
    interval = f" ({number.low:.3f}–{number.high:.3f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.3f}{interval}"
