"""The verdict that docs/decision.md explains is what the code says of simulated scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raybench.analysis.decision import ScoredLine, collect_evidence, decide
from raybench.analysis.rows import merge_seeds
from raybench.analysis.verdict import DecisionSettings, Evidence
from raybench.config.experiment import Limits
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Speed
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import ModelSize, UnitResult
from tests.support.commands import ROOT
from tests.support.pages import blocks
from tests.support.results import altered, result

OK, NG, HELD_OUT = 60, 40, 60
# By model: distance of NG images in standard deviations, median and 95th percentile in ms, MB, AU-PRO
MODELS = {
    "model-a": (3.0, 30.0, 33.0, 20.0, 0.9),
    "model-b": (2.7, 12.0, 14.0, 6.0, 0.7),
    "model-c": (1.7, 20.0, 22.0, 8.0, 0.9),
    "model-d": (0.9, 20.0, 22.0, 8.0, 0.9),
    "model-e": (3.4, 140.0, 160.0, 70.0, 0.9),
}


def test_the_page_shows_what_the_code_says() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=OK + NG + HELD_OUT)
    results: dict[str, UnitResult] = {}
    scores: dict[str, list[ImageScores]] = {}
    held_out: dict[str, list[ImageScores]] = {}
    for model, (gap, ms, p95_ms, mb, au_pro) in MODELS.items():
        values = 0.8 * common + 0.6 * rng.normal(size=len(common))
        values[OK : OK + NG] += gap
        test = ImageScores.of(
            [f"{number:03}" for number in range(OK + NG)], ["ok"] * OK + ["ng"] * NG, values[: OK + NG].tolist()
        )
        held = ImageScores.of(
            [f"held-{number:03}" for number in range(HELD_OUT)], ["ok"] * HELD_OUT, values[OK + NG :].tolist()
        )
        scores[model], held_out[model] = [test], [held]
        threshold = conformal_threshold(held.scores, 0.05)
        made = result(model, test, ms, Estimate(au_pro, au_pro - 0.03, au_pro + 0.02, NG))
        results[model] = altered(
            made,
            quality=replace(made.judged.quality, **vars(image_quality(test, threshold))),
            threshold=threshold,
            speed=Speed(ms, p95_ms, 2.0, ms + 2, 50.0, 8, "cpu", "float32", 1),
            size=ModelSize(mb, 1000),
        )
    rows = [merge_seeds([made]) for made in results.values()]
    settings = DecisionSettings(limits=Limits(p95_ms=50))
    evidence = collect_evidence(ScoredLine("bottle", rows, scores, 0.05, held_out), settings)
    assert isinstance(evidence, Evidence)
    shown = blocks(ROOT / "docs" / "decision.md")[0].text
    assert str(decide(evidence)) == shown.rstrip("\n")
