"""Lines of made-up scores, and what is decided on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from raybench.analysis.decision import ScoredLine, collect_evidence, decide
from raybench.analysis.rows import BoardRow, merge_seeds
from raybench.analysis.verdict import DecisionSettings, Evidence, Verdict
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import FailedUnit
from tests.support.results import FAILURE, THRESHOLD, made_unit

Floats = npt.NDArray[np.float64]
Scores = Mapping[str, Sequence[ImageScores] | None]
BUDGET = 0.05


def scored(ok: Floats, ng: Floats, groups: Sequence[str] | None = None) -> ImageScores:
    ids = [f"{at:04}" for at in range(len(ok) + len(ng))]
    return ImageScores.of(ids, ["ok"] * len(ok) + ["ng"] * len(ng), [*ok.tolist(), *ng.tolist()], groups)


def drawn(gap: float, seed: int = 0, ok: int = 40, ng: int = 40, common: float = 0.0) -> ImageScores:
    """Draw normal scores; `common` is the correlation of the images' difficulty over all seeds."""
    shared = np.random.default_rng(99).normal(size=ok + ng)
    own = np.random.default_rng(seed).normal(size=ok + ng)
    scores = np.sqrt(common) * shared + np.sqrt(1 - common) * own
    return scored(scores[:ok], scores[ok:] + gap)


def held_back(scores: Floats, groups: Sequence[str] | None = None) -> ImageScores:
    ids = [f"h{at:04}" for at in range(len(scores))]
    return ImageScores.of(ids, ["ok"] * len(scores), scores.tolist(), groups)


def row_of(
    model: str, seeds: Sequence[ImageScores] | None, held: Sequence[ImageScores] | None = None, line: str = "bolt"
) -> BoardRow:
    """Merge seeds into a row without heat maps; None failed."""
    if seeds is None:
        return merge_seeds([FailedUnit(f"{line}-{model}", line, model, 0, FAILURE)])
    threshold = THRESHOLD
    if held:
        threshold = conformal_threshold(held[0].scores, BUDGET, held[0].groups)
    results = [
        made_unit(
            f"{line}-{model}-{seed}",
            line,
            model,
            seed,
            threshold=threshold,
            **vars(image_quality(images, threshold, draws=50)),
        )
        for seed, images in enumerate(seeds)
    ]
    return merge_seeds(results)


def evidence_on(
    scores: Scores,
    settings: DecisionSettings | None = None,
    held: Mapping[str, Sequence[ImageScores]] | None = None,
    line: str = "bolt",
    change: Callable[[BoardRow], BoardRow] = lambda row: row,
    drift: str = "",
) -> Evidence | Verdict:
    """Collect the evidence of a line.

    Args:
        scores: Scores of each seed by model; None for a model that failed.
        settings: What the experiment says about the decision.
        held: Scores of held-back images of each seed by model.
        line: Name of the line.
        change: Called with the row of each finished model; returns the one to use.
        drift: What the inspection found.
    """
    rows = [row_of(model, seeds, (held or {}).get(model), line) for model, seeds in scores.items()]
    rows = [change(row) if row.finished else row for row in rows]
    finished = {model: seeds for model, seeds in scores.items() if seeds is not None}
    scored = ScoredLine(line, rows, finished, BUDGET, held or {}, drift)
    return collect_evidence(scored, settings or DecisionSettings())


def verdict_on(
    scores: Scores,
    settings: DecisionSettings | None = None,
    held: Mapping[str, Sequence[ImageScores]] | None = None,
    line: str = "bolt",
    change: Callable[[BoardRow], BoardRow] = lambda row: row,
    drift: str = "",
) -> Verdict:
    """Decide on the evidence; the arguments are those of `evidence_on`."""
    evidence = evidence_on(scores, settings, held, line, change, drift)
    return evidence if isinstance(evidence, Verdict) else decide(evidence)


def clear_evidence(
    scores: Scores,
    settings: DecisionSettings | None = None,
    line: str = "bolt",
    change: Callable[[BoardRow], BoardRow] = lambda row: row,
) -> Evidence:
    """Collect the evidence of a line that can be decided."""
    evidence = evidence_on(scores, settings, line=line, change=change)
    assert isinstance(evidence, Evidence)
    return evidence
