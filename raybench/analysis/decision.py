"""Decide which model a line should run, how sure that is, and why not the others.

One calculation: images, held-back images and seeds, or lines, are resampled for all models together
(`metrics.ranking`), each draw gives each model its utility (`utility`), and `comparison` turns the draws into
probabilities. A model takes part if it is *admissible* (`admissibility`): it finished, keeps the limits of the
experiment, and no test refuses its threshold. Models that are not good enough take part only where none is.

Every model gets a grade:

best             at most the margin behind any other model, with a probability of 95 %
not told apart   neither best nor worse
worse            more than the margin behind another model, with a probability of 95 %
not good enough  an image AUROC below `verdict.good_enough`
not admissible   breaks a limit, or its threshold is refused
failed           no seed finished

The verdict names the model with the lowest expected loss among those with the highest grade.

If most thresholds of a line are refused, the line has changed since training: then the thresholds exclude no model, and
the verdict says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from raybench.analysis.admissibility import (
    broken_limits,
    change_note,
    count_distinct,
    refused_thresholds,
    unknown_times,
)
from raybench.analysis.comparison import SURE, Standing, compare, shrinkage
from raybench.analysis.rows import BoardRow
from raybench.analysis.sentences import conclusion, sentence
from raybench.analysis.utility import failed_utility, utility
from raybench.analysis.verdict import (
    BEST,
    FAILED,
    GRADES,
    NOT_ADMISSIBLE,
    NOT_GOOD_ENOUGH,
    NOT_TOLD_APART,
    WORSE,
    DecisionSettings,
    Evidence,
    Verdict,
)
from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import percentile_interval, spread
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import OPTIMISED_SEED_SD, sample_models

MOST_IMAGES = 10_000
"""More images than this are not asked for."""
_SURE_DEVIATIONS = float(special.ndtri(SURE))
_STUDENT_SPREAD = 1.44  # variance of Student's distribution with three degrees of freedom, by the quantiles of `spread`


@dataclass(frozen=True)
class ScoredLine:
    """What models did on a line."""

    name: str
    """Name of the line."""
    rows: Sequence[BoardRow]
    """One per model."""
    scores: Mapping[str, Sequence[ImageScores]]
    """Image scores of each finished seed, by model."""
    budget: float
    """False-alarm budget."""
    held_out: Mapping[str, Sequence[ImageScores]] = field(default_factory=dict)
    """Scores of the held-back images of each finished seed, by model, in the order of `scores`. Without them thresholds
    are not tested."""
    drift: str = ""
    """What the inspection found to differ between OK training and test images, in words."""
    test_thresholds: bool = True
    """Whether `held_out` are images that the test OK images can be compared with."""


def collect_evidence(line: ScoredLine, settings: DecisionSettings) -> Evidence | Verdict:
    """Collect the evidence of one line.

    Args:
        line: What models did on it.
        settings: What the experiment says about the decision.

    Returns:
        The evidence, or a verdict without a model if the scores do not allow a decision.
    """
    failed = {row.model: _failed(row) for row in line.rows if row.finished is None}
    finished = {row.model: row.finished for row in line.rows if row.finished}
    if not finished:
        return _no_verdict(line.name, "no model finished", failed)
    # What no seed shows of another training depends on whether there is an optimiser; see `docs/decision.md`.
    optimised = {model: OPTIMISED_SEED_SD for model, found in finished.items() if found.steps}
    scores = {model: line.scores[model] for model in finished}
    sampled = sample_models(scores, line.budget, line.held_out, seed_sds=optimised)
    if isinstance(sampled, Estimate):
        return _no_verdict(line.name, sampled.reason or "", failed | dict.fromkeys(finished, "quality unknown"))
    speeds = [found.measured.speed for found in finished.values()]
    disturbed, devices = any(speed.is_disturbed for speed in speeds), {(each.device, each.threads) for each in speeds}
    timed = not disturbed and len(devices) == 1
    refused = refused_thresholds(finished, line.scores, line.held_out) if line.test_thresholds else {}
    has_changed = count_distinct(refused, line.scores) * 2 > count_distinct(finished, line.scores)
    broken = {
        model: text
        for model, found in finished.items()
        if (text := broken_limits(found, settings.limits, settings.licences.get(model, {})))
    }
    notes = [change_note(refused, finished, line.drift)] if has_changed else []
    if has_changed and settings.costs:
        notes.append("Costs count for nothing in this verdict: they are about recall and false alarms.")
        settings = replace(settings, costs=None)
    if len(devices) > 1:
        notes.append(
            "Models were timed on different devices, or by different numbers of threads: their times count for nothing "
            "in this verdict. `timed_on: NAME` in the experiment times all of them anew."
        )
    elif disturbed:
        notes.append("Times were taken on a busy machine: they are estimates, and count for nothing in this verdict.")
    if text := unknown_times(finished, settings.limits):
        notes.append(text)
    if line.test_thresholds and line.held_out and (untested := sorted(finished.keys() - line.held_out.keys())):
        notes.append(f"Nothing says whether thresholds hold: held-back scores are missing of {', '.join(untested)}.")
    return Evidence(
        name=line.name,
        settings=settings,
        utilities={
            model: utility(finished[model], found, settings.verdict, settings.costs, timed)
            for model, found in sampled.models.items()
        },
        aurocs={model: found.auroc for model, found in sampled.models.items()},
        auroc_draws={model: found.auroc_draws for model, found in sampled.models.items()},
        excluded=broken if has_changed else refused | broken,
        failed=failed,
        numbers={model: found.quality.image_auroc for model, found in finished.items()},
        ng=sampled.ng,
        seed_errors={model: found.seed_error for model, found in sampled.models.items()},
        notes=tuple(notes),
        has_changed=has_changed,
        timed=timed,
        reference=failed_utility(settings.verdict, settings.costs, line.budget),
    )


def decide(evidence: Evidence) -> Verdict:
    """Name the model to run and grade the others."""
    settings = evidence.settings
    admissible = {model: found for model, found in evidence.utilities.items() if model not in evidence.excluded}
    refusals = dict.fromkeys(evidence.excluded, NOT_ADMISSIBLE) | dict.fromkeys(evidence.failed, FAILED)
    terms = {model: found.terms for model, found in evidence.utilities.items()}
    if not admissible:
        reasons = "; ".join(f"{model}: {why}" for model, why in evidence.excluded.items())
        return Verdict(
            line=evidence.name,
            run=None,
            tied=(),
            sentence=f"{evidence.name}: no model is admissible. {reasons}.",
            grades=refusals,
            conclusions=dict(evidence.excluded) | dict(evidence.failed),
            terms=terms,
            notes=evidence.notes,
        )
    limit = settings.verdict.good_enough
    good = {model for model in admissible if evidence.aurocs[model] >= limit}
    # A model that few images put below the limit may be the best: it is not named, and counts in how sure that is.
    maybe = {model for model in admissible if (evidence.numbers[model].high or 0.0) >= limit} if good else admissible
    compared = {model: found for model, found in admissible.items() if model in good or model in maybe}
    standings = compare(compared, settings.verdict.margin, settings.prior_sd)
    grades = {model: _grade(standing) if model in good else NOT_GOOD_ENOUGH for model, standing in standings.items()}
    standings = dict(sorted(standings.items(), key=lambda item: GRADES.index(grades[item[0]])))  # keeps order of losses
    run = next(iter(standings))
    others = tuple(model for model, standing in standings.items() if model in good - {run} and not standing.is_worse)
    weak = dict.fromkeys((model for model in admissible if model not in standings), NOT_GOOD_ENOUGH)
    expected = _expected(evidence, {model: standings[model] for model in good or standings}, run)
    more_ng = _images_to_settle(evidence, standings, run, others)
    found = Verdict(
        line=evidence.name,
        run=run,
        tied=others,
        sentence="",
        grades=grades | weak | refusals,
        standings=standings,
        terms=terms,
        expected=expected,
        sure=standings[run].best,
        loss=standings[run].loss,
        more_ng=more_ng,
        notes=evidence.notes,
    )
    conclusions = {model: conclusion(evidence, found, model) for model in (*standings, *weak)}
    return replace(
        found,
        sentence=sentence(evidence, found),
        conclusions=conclusions | dict(evidence.excluded) | dict(evidence.failed),
    )


def _grade(standing: Standing) -> str:
    if standing.is_best:
        return BEST
    return WORSE if standing.is_worse else NOT_TOLD_APART


def _expected(evidence: Evidence, standings: Mapping[str, Standing], run: str) -> Estimate:
    """Estimate the image AUROC of the named model on new images.

    Where several models may be the best, the one that came out ahead was lucky: its luck is its utility minus the mean
    of all utilities, weighted by the probability that each model is the best (bagging, Breiman 1996). It may have had
    none, so the upper end of the interval stays.
    """
    if evidence.settings.costs:
        return Estimate(None, reason="utility is about costs")
    total = sum(standing.best for standing in standings.values())
    mean = sum(standing.best / total * evidence.utilities[model].value for model, standing in standings.items())
    luck = max(0.0, evidence.utilities[run].value - mean)
    low, high = percentile_interval(evidence.auroc_draws[run])
    return Estimate(max(0.0, evidence.aurocs[run] - luck), max(0.0, low - luck), high, evidence.numbers[run].n)


def _images_to_settle(
    evidence: Evidence, standings: Mapping[str, Standing], run: str, others: Sequence[str]
) -> int | None:
    """Return the number of NG images with which the runner-up would probably be graded best or worse.

    The variance of the difference falls with the number of images, but for the part of training; its distance from the
    margin must be SURE, as in `comparison`.
    """
    runner_up = next((model for model in others if not standings[model].is_best), None)
    if runner_up is None or not evidence.ng:
        return None
    first, second = evidence.utilities[run], evidence.utilities[runner_up]
    gap, variance = abs(first.value - second.value), spread(first.draws - second.draws) ** 2
    of_training = _STUDENT_SPREAD * sum(evidence.seed_errors.get(model, 0.0) ** 2 for model in (run, runner_up))
    prior_sd = evidence.settings.prior_sd
    for more in np.unique(np.geomspace(1, MOST_IMAGES, 200).astype(int)).tolist():
        left = of_training + max(0.0, variance - of_training) * evidence.ng / (evidence.ng + more)
        kept = shrinkage(left, prior_sd)
        if abs(evidence.settings.verdict.margin - kept * gap) >= _SURE_DEVIATIONS * math.sqrt(kept * left):
            return _round_up(more) if more > 1 else None
    return None


def _round_up(number: int) -> int:
    """Round up to tens, from 1,000 on to two significant digits."""
    step: int = 10 ** max(1, len(str(number)) - 2)
    return -(-number // step) * step


def _failed(row: BoardRow) -> str:
    failure = row.failures[-1]
    return f"{failure.error_type} in {failure.phase}"


def _no_verdict(line: str, why: str, conclusions: Mapping[str, str]) -> Verdict:
    return Verdict(line, None, (), f"{line}: no verdict, {why}.", conclusions=dict(conclusions))
