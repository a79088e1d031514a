"""Which model a line should run, how sure that is, and why not the others.

Image AUROC ranks. Two models are *tied* when the 95 % interval of their difference, resampled over the same images,
holds zero. Of those tied with the leader, the one is named that is worth most by the weighted criteria of `criteria`.

Every model gets a grade:

best         tied with the leader, and image AUROC 0.8 or more
good         behind it by 0.1 image AUROC at most, and 0.8 or more
not good     the rest, and every model whose false-alarm rate on OK test images is surely above its budget
not enough images to tell
             where even the leader's image AUROC is known to 0.3 only, or may be that of a coin
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
ENOUGH, NEAR = 0.8, 0.1  # image AUROC: of any use at all; near enough to the best
TOO_WIDE, COIN = 0.3, 0.5
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
    """run: the model to run, None where nothing can be said. tied: models that are as good as far as one can tell.
    sentence: for a person. grades, conclusions: of each model, a word and why. places: the best and the worst that a
    model may have in the ranking. merits, worth: by criterion, and their weighted mean."""

    line: str
    run: str | None
    tied: tuple[str, ...]
    sentence: str
    grades: Mapping[str, str] = field(default_factory=dict)
    conclusions: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    merits: Mapping[str, Criteria] = field(default_factory=dict)
    worth: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """The sentence, and a row for each model: its grade and why it has that."""
        width = max(map(len, self.conclusions), default=0)
        words = {model: [self.grades.get(model, ""), why] for model, why in self.conclusions.items()}
        rows = [f"  {model:<{width}}  {': '.join(filter(None, words[model]))}" for model in words]
        return "\n".join([self.sentence, *rows])

    __repr__ = __str__


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on. numbers: image AUROC of each model as it is shown. alarms: false-alarm rates of
    models that surely exceed their budget. failed: what became of models without numbers."""

    name: str
    ranking: Ranking
    numbers: Mapping[str, Estimate]
    merits: Mapping[str, Criteria]
    weights: Mapping[str, float]
    alarms: Mapping[str, float]
    failed: Mapping[str, str]

    def utility(self, model: str) -> float:
        return utility(self.merits.get(model, {}), self.weights)


def collect_evidence(
    line: str,
    rows: Sequence[BoardRow],
    scores: Mapping[str, Sequence[ImageScores]],
    weights: Mapping[str, float],
    budget: float,
) -> Evidence | Verdict:
    """The case of one line, or the verdict that there is none. scores: by model, of each seed."""
    failed = {row.model: _failed(row) for row in rows if row.quality is None}
    ranked = {row.model: scores[row.model] for row in rows if row.quality}
    if not ranked:
        return _nothing(line, "no model finished", failed)
    found = rank(ranked, name=line)
    if isinstance(found, Estimate):
        return _nothing(line, found.reason or "", failed | dict.fromkeys(ranked, "quality unknown"))
    alarms = {row.model: rate for row in rows if (rate := _alarms(row))}
    numbers = {row.model: row.quality.image_auroc for row in rows if row.quality}
    return Evidence(line, found, numbers, criteria(rows, budget), weights, alarms, failed)


def over_all(cases: Sequence[Evidence]) -> Verdict | None:
    """The verdict over several lines, on the models and lines of the largest table without a gap; None where that has
    fewer than two lines."""
    _, lines = largest_table({case.name: set(case.ranking.models) for case in cases})
    together = [case for case in cases if case.name in lines]
    ranking = mean_ranking([case.ranking for case in together])
    if ranking is None or len(together) < 2:
        return None
    rest = {model for case in cases for model in (*case.ranking.models, *case.failed)} - set(ranking.models)
    failed = dict.fromkeys(
        sorted(model for model in rest if any(model in case.failed for case in cases)), "did not finish on every line"
    )
    alarms = {
        model: max(case.alarms.get(model, 0.0) for case in together)
        for model in ranking.models
        if sum(model in case.alarms for case in together) * 2 > len(together)  # on most lines
    }
    merits_of = {model: _mean_merits([case.merits[model] for case in together]) for model in ranking.models}
    numbers = {model: ranking.value(model) for model in ranking.models}
    name = ALL_LINES if len(together) == len(cases) else f"{len(together)} of {len(cases)} lines"
    found = decide(Evidence(name, ranking, numbers, merits_of, cases[0].weights, alarms, failed))
    return replace(found, conclusions=dict(found.conclusions) | dict.fromkeys(rest - failed.keys(), NOT_RUN))


def decide(case: Evidence) -> Verdict:
    """The verdict on a case."""
    ranking = case.ranking
    tied = [model for model in ranking.tied if model not in case.alarms] or list(ranking.tied)
    best = max(tied, key=lambda model: (case.utility(model), case.numbers[model].value or 0.0))
    others = sorted((model for model in tied if model != best), key=lambda model: (-case.utility(model), model))
    grades = {model: _grade(case, model) for model in ranking.models}
    conclusions = {model: _conclusion(case, model, best, tied) for model in ranking.models}
    return Verdict(
        line=case.name,
        run=best,
        tied=tuple(others),
        sentence=_sentence(case, best, others, grades[best]),
        grades=grades | dict.fromkeys(case.failed, NOT_GOOD),
        conclusions=conclusions | dict(case.failed),
        places={model: ranking.places(model) for model in ranking.models},
        merits=case.merits,
        worth={model: case.utility(model) for model in ranking.models},
    )


def _grade(case: Evidence, model: str) -> str:
    leader, value = case.numbers[case.ranking.leader], case.numbers[model].value or 0.0
    if model in case.alarms:
        return NOT_GOOD
    if model in case.ranking.tied and _is_unsure(leader):
        return UNKNOWN
    if value < ENOUGH:
        return NOT_GOOD
    if model in case.ranking.tied:
        return BEST
    return GOOD if (leader.value or 0.0) - value <= NEAR else NOT_GOOD


def _is_unsure(leader: Estimate) -> bool:
    low, high = leader.low or 0.0, leader.high or 1.0
    return high - low > TOO_WIDE or low <= COIN


def _conclusion(case: Evidence, model: str, best: str, tied: Sequence[str]) -> str:
    if model in case.alarms:
        return f"its threshold does not hold here: {case.alarms[model]:.0%} false alarms"
    if model == best:
        return "run this one" if len(tied) == 1 else "run this one: tied, and worth most"
    if model in tied:
        return f"tied; worth {case.utility(model):.2f}, {best} {case.utility(best):.2f}"
    gap = case.ranking.gap(case.ranking.leader, model)
    return f"behind by {gap.value:.3f} ({gap.low:.3f}–{gap.high:.3f}) image AUROC"


def _sentence(case: Evidence, best: str, others: Sequence[str], grade: str) -> str:
    number = case.numbers[best]
    start = f"{case.name}: run {best} (image AUROC {format_number(number)})."
    if grade == UNKNOWN:
        start = f"{case.name}: {UNKNOWN} ({number.n}); the best guess is {best} (image AUROC {format_number(number)})."
    why = ""
    if others:
        why = f"It cannot be told apart from {', '.join(others)} on these images; {_reason(case, best, others[0])}."
    elif case.ranking.tied == (best,) and len(case.ranking.models) > 1:
        why = "It is better than every other model tried."
    if passed_over := [model for model in case.ranking.tied if model in case.alarms and model != best]:
        why += f" {', '.join(passed_over)} would rank with it, but the threshold does not hold here."
    if best in case.alarms:
        why += f" But {_conclusion(case, best, best, ())}."
    elif grade == NOT_GOOD:
        why += " None of them is good here."
    return f"{start} {why.strip()}".rstrip()


def _reason(case: Evidence, best: str, other: str) -> str:
    """What speaks most for the named one against the next best."""
    mine, theirs = case.merits.get(best, {}), case.merits.get(other, {})
    leads = {name: case.weights[name] * (mine[name] - theirs[name]) for name in mine if name in theirs}
    name = max(leads, key=lambda name: leads[name], default=None)
    if name is None or leads[name] <= 0:
        return "nothing else parts them"
    return f"its {CRITERIA[name]} speaks for it"


def _alarms(row: BoardRow) -> float | None:
    """The false-alarm rate, where OK images of the test split show that the threshold does not keep to its budget."""
    rate = row.quality.false_alarm_rate if row.quality else None
    if rate is None or row.threshold is None or (rate.low or 0.0) <= max(row.threshold.budget, row.threshold.promised):
        return None
    return rate.value


def _mean_merits(found: Sequence[Criteria]) -> Criteria:
    names = [name for name in CRITERIA if any(name in one for one in found)]
    known = {name: [one[name] for one in found if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items()}


def _failed(row: BoardRow) -> str:
    failure = row.failures[-1]
    return f"failed in {failure.phase}: {failure.error_type}"


def _nothing(line: str, why: str, conclusions: Mapping[str, str]) -> Verdict:
    return Verdict(line, None, (), f"{line}: no verdict, {why}.", conclusions=dict(conclusions))


def format_number(number: Estimate) -> str:
    """`0.953 (0.931–0.971)`, or a dash."""
    if number.value is None:
        return "–"
    interval = f" ({number.low:.3f}–{number.high:.3f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.3f}{interval}"
