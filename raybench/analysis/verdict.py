"""The evidence that a decision is based on, and the verdict that comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raybench.analysis.comparison import PRIOR_SD, Floats, Standing, Utility
from raybench.config.experiment import Costs, Limits, VerdictSettings
from raybench.metrics.numbers import Estimate

BEST, NOT_TOLD_APART, WORSE = "best", "not told apart", "worse"
NOT_GOOD_ENOUGH, NOT_ADMISSIBLE, FAILED = "not good enough", "not admissible", "failed"
GRADES = (BEST, NOT_TOLD_APART, WORSE, NOT_GOOD_ENOUGH, NOT_ADMISSIBLE, FAILED)
"""The highest first."""


@dataclass(frozen=True)
class DecisionSettings:
    """What the experiment says about the decision."""

    verdict: VerdictSettings = field(default_factory=VerdictSettings)
    costs: Costs | None = None
    limits: Limits = field(default_factory=Limits)
    licences: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By model, the licences of its code and weights; see `registry.licences`."""

    @property
    def prior_sd(self) -> float:
        """Standard deviation of the true utilities of models. With costs a false alarm can weigh more than a defect."""
        return PRIOR_SD * (1 + self.costs.alarms_per_defect) if self.costs else PRIOR_SD

    @property
    def unit(self) -> str:
        """Unit of utility, in words."""
        return "the cost of missing every defect" if self.costs else "image AUROC"


@dataclass(frozen=True)
class Verdict:
    """The model that a line should run, and a grade for each of the others."""

    line: str
    run: str | None
    """Model to run; None if no model is admissible or nothing can be compared."""
    tied: tuple[str, ...]
    """Other models that are best or not told apart, in the order of `standings`."""
    sentence: str
    """The verdict for a person."""
    grades: Mapping[str, str] = field(default_factory=dict)
    """Grade by model, one of GRADES."""
    conclusions: Mapping[str, str] = field(default_factory=dict)
    """Reason of the grade by model."""
    standings: Mapping[str, Standing] = field(default_factory=dict)
    """How each compared model stands, the highest grade first, of a grade the lowest expected loss."""
    terms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Summands of the utility of each finished model, by name."""
    expected: Estimate = field(default_factory=lambda: Estimate(None))
    """Image AUROC that the named model is expected to have on new images: less than the measured one where it may have
    come out ahead by luck."""
    sure: float | None = None
    """Probability that no other compared model is better than the named one."""
    loss: float | None = None
    """Expected utility of the best model, whichever it is, minus that of the named one."""
    more_ng: int | None = None
    """NG images, with OK images in proportion, that would probably settle whether the runner-up is as good. None if it
    is settled, or no number of images up to MOST_IMAGES would do."""
    notes: tuple[str, ...] = ()
    """Conditions that a person must know before acting on the verdict."""

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """Best and worst possible place in the ranking, by model."""
        return {model: standing.places for model, standing in self.standings.items()}

    @property
    def utilities(self) -> Mapping[str, float]:
        """Utility on all images, by model."""
        return {model: sum(terms.values()) for model, terms in self.terms.items()}

    def __str__(self) -> str:
        """The sentence, the notes, and a row for each model: its grade and why it has that."""
        width = max(map(len, self.conclusions), default=0)
        words = {model: [self.grades.get(model, ""), why] for model, why in self.conclusions.items()}
        rows = [f"  {model:<{width}}  {': '.join(filter(None, words[model]))}" for model in words]
        return "\n".join([self.sentence, *self.notes, *rows])

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that a verdict is based on."""

    name: str
    """Line, or a text for several lines."""
    settings: DecisionSettings
    utilities: Mapping[str, Utility]
    """Utility of each finished model."""
    aurocs: Mapping[str, float]
    """Image AUROC of each finished model on the common images."""
    auroc_draws: Mapping[str, Floats]
    """Its draws, (B,) float64."""
    excluded: Mapping[str, str]
    """Reason of each finished model that is not admissible."""
    failed: Mapping[str, str]
    """Reason of each model without metrics."""
    numbers: Mapping[str, Estimate]
    """Image AUROC by model, as reported."""
    ng: int = 0
    """Number of NG images; 0 for several lines."""
    notes: tuple[str, ...] = ()
    """Conditions that a person must know."""
    has_changed: bool = False
    """Whether most thresholds are refused, so that they exclude no model."""
    timed: bool = True
    """Whether times count."""
    seed_errors: Mapping[str, float] = field(default_factory=dict)
    """Standard error of training of each finished model, in image AUROC, which more images do not reduce."""
    reference: float = 0.0
    """Utility of a model that tells nothing."""
