"""Results of made-up units."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.data.geometry import Input
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.runs.records import (
    Blob,
    Failure,
    ImageCounts,
    MeasureRecord,
    ModelSize,
    QualityRecord,
    ResourceUsage,
    TrainRecord,
    UnitResult,
)
from raybench.runs.run import versions

Whole = TypeVar("Whole")
NONE = Estimate(None, reason="no masks")
FAILURE = Failure("train", "ModelError", "no", "Traceback", 1)
THRESHOLD = Threshold(2.0, 19, 0.05, 0.05, 1.0)
SPEED = Speed(10.0, 12.0, 10.0, 20.0, 100.0, 8, "cpu", "float32", 1)
NOTHING_SPENT = ResourceUsage(0.0, 0, 0.0, 0.0, "cpu")
BLOB = Blob("key", 1, "0" * 64)
UNIT = UnitResult(
    "unit",
    "bolt",
    "m",
    0,
    Input("native", 64, 128, 300, 600),
    TrainRecord(
        detector_id="detector",
        model={},
        threshold=THRESHOLD,
        pixel_threshold=THRESHOLD,
        provenance="imagenet",
        backbone="none",
        weights_note="",
        parameters=100,
        memory_bank=0,
        heat_low=None,
        heat_high=None,
        train_ok=80,
        held_out_ok=20,
        train_s=3.0,
        device="cpu",
        versions=versions(),
        held_out=BLOB,
        spent=NOTHING_SPENT,
    ),
    MeasureRecord("detector", SPEED, ModelSize(5.0, 100), NOTHING_SPENT),
    QualityRecord(
        "unit",
        Quality(**dict.fromkeys([each.name for each in fields(Quality)], NONE)),
        RegionRecall(NONE, {}, {}),
        BLOB,
        80,
        ImageCounts(40, 40, 0, 0),
        versions(),
        NOTHING_SPENT,
    ),
)


def made_unit(unit_id: str = "unit", line: str = "bolt", model: str = "m", seed: int = 0, **values: Any) -> UnitResult:
    """Return a finished unit. values: fields of its records; a metric by its own name."""
    metrics = {each.name: values.pop(each.name) for each in fields(Quality) if each.name in values}
    unit = altered(UNIT, unit_id=unit_id, line=line, model=model, seed=seed, **values)
    return altered(unit, quality=replace(unit.judged.quality, **metrics))


def altered(whole: Whole, **values: Any) -> Whole:
    """Replace fields of a row or a unit, wherever they are: of its own, or of the records that it is made of."""
    own = {each.name for each in fields(whole)}  # type: ignore[arg-type]
    changed = {name: value for name, value in values.items() if name in own}
    left = {name: value for name, value in values.items() if name not in own}
    for name in (name for name in ("finished", "trained", "measured", "judged") if name in own):
        part = changed.get(name, getattr(whole, name))
        if inside := {name: left.pop(name) for name in [*left] if _has(part, name)}:
            changed[name] = altered(part, **inside)
    assert not left, f"{whole} has no {', '.join(left)}"
    return replace(whole, **changed)  # type: ignore[type-var]


def _has(part: Any, name: str) -> bool:
    own = {each.name for each in fields(part)}
    return name in own or any(_has(getattr(part, each), name) for each in own & {"trained", "measured"})


def done(row: BoardRow) -> FinishedModel:
    """Return what is known of a model that finished."""
    assert row.finished is not None
    return row.finished


def images(gap: float, noise: float = 0.0, ng: int = 40) -> ImageScores:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(gap, 1, ng)])
    scores += noise * np.random.default_rng(1).normal(size=len(scores))
    ids = [f"{number:03}" for number in range(len(scores))]
    return ImageScores.of(ids, ["ok"] * 40 + ["ng"] * ng, scores.tolist())


def result(model: str, scores: ImageScores, ms: float = 10.0, au_pro: Estimate = NONE, seed: int = 0) -> UnitResult:
    quality = vars(image_quality(scores, THRESHOLD)) | {"au_pro": au_pro}
    speed = Speed(ms, ms, ms, 2 * ms, 100.0, 8, "cpu", "float32", 1)
    return made_unit(f"{model}-{seed}", model=model, seed=seed, speed=speed, **quality)
