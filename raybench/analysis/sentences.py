"""Say a verdict in words for a quality engineer: what to run, how sure that is, what it may cost, and why."""

from __future__ import annotations

from raybench.analysis.verdict import BEST, NOT_GOOD_ENOUGH, Evidence, Verdict
from raybench.metrics.numbers import Estimate

LUCK = 0.005
"""Image AUROC by which the named model may be expected to be worse on new images before the sentence says so."""


def conclusion(evidence: Evidence, verdict: Verdict, model: str) -> str:
    margin = evidence.settings.verdict.margin
    if verdict.grades[model] == NOT_GOOD_ENOUGH and model != verdict.run:
        return f"image AUROC {evidence.aurocs[model]:.3f}, {evidence.settings.verdict.good_enough:g} asked for"
    if model == verdict.run:
        return f"run this one: best with a probability of {format_probability(verdict.standings[model].best)}"
    standing = verdict.standings[model]
    behind = f"behind by {standing.behind.value:.3f} ({standing.behind.low:.3f} to {standing.behind.high:.3f})"
    if verdict.grades[model] == BEST:
        return f"as good within {margin:g}; {behind}"
    return f"{behind}; best with a probability of {format_probability(standing.best)}"


def sentence(evidence: Evidence, verdict: Verdict) -> str:
    run = verdict.run or ""
    grade, loss, sure = verdict.grades[run], verdict.loss or 0.0, verdict.sure or 0.0
    settings = evidence.settings
    unit = f"of {settings.unit}" if settings.costs else settings.unit
    number = evidence.numbers[run]
    lucky = verdict.expected.value is not None and (number.value or 0.0) - verdict.expected.value >= LUCK
    on_new = f", {verdict.expected.value:.3f} expected on new images" if lucky else ""
    parts = [f"{evidence.name}: run {run} (image AUROC {format_number(number)}{on_new})."]
    if len(verdict.standings) > 1:
        parts.append(f"{format_probability(sure)} sure that no other model is better; expected loss {loss:.3f} {unit}.")
    parts.append(_why(evidence, verdict))
    if grade == NOT_GOOD_ENOUGH:
        parts.append(f"No model is good enough (image AUROC {settings.verdict.good_enough:g}).")
    elif (evidence.numbers[run].low or 0.0) < settings.verdict.good_enough:
        parts.append(f"Whether it reaches an image AUROC of {settings.verdict.good_enough:g} is not certain.")
    if excluded := [model for model in evidence.excluded if evidence.aurocs[model] > evidence.aurocs[run]]:
        verb = "separates better but is" if len(excluded) == 1 else "separate better but are"
        parts.append(f"{', '.join(excluded)} {verb} not admissible.")
    return " ".join(filter(None, parts))


def _why(evidence: Evidence, verdict: Verdict) -> str:
    equal = [model for model in verdict.tied if verdict.standings[model].is_best]
    unclear = [model for model in verdict.tied if not verdict.standings[model].is_best]
    parts = []
    if equal:
        reason = _reason(evidence, verdict.run or "", equal[0])
        parts.append(f"{', '.join(equal)} {'is' if len(equal) == 1 else 'are'} as good{reason}.")
    if unclear:
        settle = f"; about {verdict.more_ng} more NG images would settle the first" if verdict.more_ng else ""
        if len(unclear) == 1:
            settle = settle.replace("the first", "it")
        parts.append(f"Not told apart from {', '.join(unclear)}{settle}.")
    if not verdict.tied and len(verdict.standings) > 1 and verdict.grades[verdict.run or ""] == BEST:
        parts.append("It is better than every other model compared.")
    return " ".join(parts)


def _reason(evidence: Evidence, best: str, other: str) -> str:
    """Name the term of the utility that favours `best` most over `other`."""
    mine, theirs = evidence.utilities[best].terms, evidence.utilities[other].terms
    leads = {name: mine[name] - theirs[name] for name in mine if name in theirs}
    name = max(leads, key=lambda name: leads[name], default=None)
    return f"; {name} speaks for {best}" if name and leads[name] > 0 else ""


def format_probability(value: float) -> str:
    """Format a probability as a whole percentage, never as 0 % or 100 %: `<1 %`, `>99 %`."""
    if value < 0.01:
        return "<1 %"
    return ">99 %" if value > 0.99 else f"{value:.0%}".replace("%", " %")


def format_number(number: Estimate) -> str:
    """Format a number with its interval, `0.953 (0.931–0.971)`; a dash if it is undefined."""
    if number.value is None:
        return "–"
    interval = f" ({number.low:.3f}–{number.high:.3f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.3f}{interval}"
