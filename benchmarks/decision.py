"""Check the decision against known truth: `python -m benchmarks.decision [parts] [--repeats N]`.

Worlds are simulated in which the truth is known: scores of OK images are normal, those of NG images are shifted by what
the model is worth (binormal model), images are hard or easy for all models alike, five photographs of one part are more
alike than those of two, trainings differ, and lines differ. The functions of raybench judge samples of these worlds.
Printed, as Markdown:

intervals    share of 95 % intervals that cover the truth (wanted: 0.93 to 0.98 with 20 images of a class or more)
pixels       the same for pixel metrics, on heat maps of images with defects of several regions
calibration  of the verdicts that say they are 80 % sure, how many are right
regret       true utility lost against an oracle, beside taking the model with the highest image AUROC
thresholds   share of lines on which nothing has changed that lose a model (at most 0.025), and of changed lines noticed
lines        the same for several lines, with intervals of mean ranks
speed        seconds that a decision takes
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.analysis.admissibility import refused_thresholds
from raybench.analysis.all_lines import over_all
from raybench.analysis.decision import ScoredLine, collect_evidence, decide
from raybench.analysis.rows import BoardRow, merge_seeds
from raybench.analysis.verdict import DecisionSettings, Evidence, Verdict
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.intervals import NORMAL_QUANTILE
from raybench.metrics.masks import Mask
from raybench.metrics.mean_ranks import average_ranks, mean_ranks
from raybench.metrics.numbers import Estimate, Quality, Speed, Threshold
from raybench.metrics.pixel import PixelMap, PixelQuality, PixelSketch
from raybench.metrics.ranking import paired_difference
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import FailedUnit
from tests.support.results import FAILURE, altered, done, made_unit

BUDGET, HELD_BACK, ALIKE = 0.05, 40, 0.5  # ALIKE: share of the variance of scores that all models have in common
SETTINGS = DecisionSettings()
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What is true of a line, and how much of it is seen."""

    name: str
    models: int
    ok: int
    ng: int
    mean: float = 0.9
    """Mean image AUROC of the models."""
    spread: float = 0.04
    """Standard deviation of the models' image AUROC."""
    seeds: int = 1
    seed_sd: float = 0.0
    """Standard deviation of image AUROC between trainings."""
    optimised: bool = False
    """Whether the models take optimiser steps, so that the decision assumes that their trainings differ."""
    group: int = 1
    """Photographs of one part."""
    rounding: float = 0.0
    """Scores are multiples of this: ties."""
    heavy: bool = False
    """Whether the scores are lognormal: outliers among OK images."""
    hidden: float = 0.0
    """Share of NG images whose defect no model sees."""
    real: bool = False
    """Whether models differ as those of `docs/ten-models.md` do and not in image AUROC alone: see `_real_traits`."""
    failures: int = 0
    """Number of models that fail."""


@dataclass(frozen=True)
class Line:
    """A sampled line, and the truth."""

    scores: Mapping[str, Sequence[ImageScores]]
    held_out: Mapping[str, Sequence[ImageScores]]
    rows: Sequence[BoardRow]
    aurocs: Mapping[str, float]
    """True expected image AUROC by model."""
    utilities: Mapping[str, float]
    """True utility by model."""


@dataclass(frozen=True)
class Traits:
    """What a model is beside its image AUROC."""

    ms: float = 10.0
    """Time per image."""
    heat: float = 0.0
    """Worth of its heat maps, from 0 to 1."""
    ng_sd: float = 1.0
    """Standard deviation of NG scores, in that of OK scores: with it recall differs at the same image AUROC."""


def shift_of(auroc: float, ng_sd: float = 1.0) -> float:
    """Return the distance of NG from OK scores, in standard deviations, that gives this image AUROC."""
    return float(stats.norm.ppf(auroc) * np.sqrt(1 + ng_sd**2))


def _real_traits(auroc: float, mean: float, rng: np.random.Generator) -> Traits:
    """Draw what a model is beside its image AUROC, on a line where models have this mean one.

    In the ten models' table times reach from 20 to 200 ms, and AU-PRO from 0.4 to 0.95: within a line it rises by 0.86
    for 1 of image AUROC, with a scatter of 0.15 to 0.2. Recall differs by tenths at the same image AUROC. Sizes count
    for less than 0.001 and are left out.
    """
    ms, heat = 20 * 10 ** rng.uniform(), rng.normal(0.7 + 0.86 * (auroc - mean), 0.15)
    return Traits(float(ms), float(np.clip(heat, 0.4, 0.95)), float(np.exp(rng.normal(0, 0.3))))


def sample(
    world: World,
    rng: np.random.Generator,
    truths: Sequence[float] | None = None,
    traits: Mapping[str, Traits] | None = None,
) -> Line:
    """Draw models, where their image AUROCs or traits are not given, trainings and images."""
    drawn = rng.normal(world.mean, world.spread, world.models) if truths is None else np.array(truths)
    aurocs = dict(zip([f"m{number}" for number in range(world.models)], np.clip(drawn, 0.5, 0.9995), strict=True))
    scores, held_out, rows, truth, utilities = {}, {}, [], {}, {}
    common = [_noise(rng, count, world.group) for count in (world.ok, world.ng)]
    is_seen = rng.random(world.ng) >= world.hidden
    for model, auroc in aurocs.items():
        found = (traits or {}).get(model) or (_real_traits(auroc, world.mean, rng) if world.real else Traits())
        of_seen = min((auroc - world.hidden / 2) / (1 - world.hidden), 0.9995)
        shift = shift_of(of_seen, found.ng_sd)
        slope = float(stats.norm.pdf(stats.norm.ppf(of_seen))) / np.sqrt(1 + found.ng_sd**2)  # of AUROC over the shift
        spread = world.seed_sd / slope
        trained = rng.normal(shift, spread, world.seeds)
        truth[model] = _with_hidden(world, stats.norm.cdf(shift / np.sqrt(1 + found.ng_sd**2 + spread**2)), 0.5)
        limit = stats.norm.ppf(1 - BUDGET)
        recall = stats.norm.cdf((shift - limit) / np.hypot(found.ng_sd, spread))
        recall = _with_hidden(world, recall, stats.norm.cdf(-limit / found.ng_sd))
        worth = SETTINGS.verdict.recall * recall - SETTINGS.verdict.ms * found.ms
        utilities[model] = truth[model] + worth + SETTINGS.verdict.heat_map * found.heat
        scores[model] = [_images(world, common, one * is_seen, rng, found.ng_sd) for one in trained]
        held_out[model] = [_held_out(world, rng) for _ in trained]
        row = _row(model, scores[model][0], held_out[model][0], found.ms, world.optimised)
        rows += [altered(row, quality=_with_heat(done(row).quality, found.heat, world.ng, rng)) if found.heat else row]
    for model in list(aurocs)[: world.failures]:
        del scores[model], held_out[model], truth[model], utilities[model]
        rows[int(model[1:])] = merge_seeds([FailedUnit(model, "line", model, 0, FAILURE)])
    return Line(scores, held_out, rows, truth, utilities)


def _with_hidden(world: World, of_seen: float, of_hidden: float) -> float:
    """Return a mean over NG images, from that of the seen ones and that of the hidden ones."""
    return float((1 - world.hidden) * of_seen + world.hidden * of_hidden)


def _noise(rng: np.random.Generator, count: int, group: int) -> Floats:
    if group == 1:
        return rng.standard_normal(count)
    parts = np.repeat(rng.standard_normal(-(-count // group)), group)[:count]
    noise: Floats = np.sqrt(0.7) * parts + np.sqrt(0.3) * rng.standard_normal(count)
    return noise


def _images(
    world: World, common: Sequence[Floats], shift: Floats | float, rng: np.random.Generator, ng_sd: float = 1.0
) -> ImageScores:
    own = [_noise(rng, len(part), world.group) for part in common]
    ok, ng = (np.sqrt(ALIKE) * part + np.sqrt(1 - ALIKE) * other for part, other in zip(common, own, strict=True))
    values = np.concatenate([ok, ng_sd * ng + shift])
    values = np.exp(values) if world.heavy else values
    if world.rounding:
        values = np.round(values / world.rounding) * world.rounding
    ids = [f"ok/{number:05}" for number in range(len(ok))] + [f"ng/{number:05}" for number in range(len(ng))]
    groups = [f"{name[:2]}-{int(name[3:]) // world.group}" if world.group > 1 else name for name in ids]
    return ImageScores.of(ids, ["ok"] * len(ok) + ["ng"] * len(ng), values.tolist(), groups)


def _held_out(world: World, rng: np.random.Generator) -> ImageScores:
    values = _noise(rng, HELD_BACK, world.group)
    ids = [f"held/{number:04}" for number in range(HELD_BACK)]
    groups = [f"held-{number // world.group}" if world.group > 1 else ids[number] for number in range(HELD_BACK)]
    return ImageScores.of(ids, ["ok"] * HELD_BACK, (np.exp(values) if world.heavy else values).tolist(), groups)


def _with_heat(quality: Quality, worth: float, ng: int, rng: np.random.Generator) -> Quality:
    """Return a quality whose heat maps were measured on so many NG images to have this worth.

    The mean of the three parts varies by 0.2 from image to image; errors of the parts are taken to be independent.
    """
    error = 0.2 / np.sqrt(ng)
    seen, reach = worth + error * rng.standard_normal(), NORMAL_QUANTILE * np.sqrt(3) * error
    parts = {"au_pro": seen, "noise_around": 1 - seen, "noise_ok": 1 - seen}
    errors = {name: Estimate(value, value - reach, value + reach, ng) for name, value in parts.items()}
    return replace(quality, **errors)


def _row(model: str, images: ImageScores, held_out: ImageScores, ms: float, optimised: bool) -> BoardRow:
    threshold = conformal_threshold(held_out.scores, BUDGET, held_out.groups)
    found = image_quality(images, threshold, draws=300)
    auroc, alarms = found.image_auroc, found.false_alarm_rate
    speed = Speed(ms, ms, 0.0, ms, 1.0, 1, "", "", 1)
    unit = made_unit(model, "line", model, threshold=threshold, speed=speed, image_auroc=auroc, false_alarm_rate=alarms)
    unit = altered(unit, steps=TrainSteps(1000, 1000) if optimised else None)
    return merge_seeds([unit])


def judge(line: Line, name: str = "line") -> Evidence | Verdict:
    """Collect the evidence of a line as a run does."""
    return collect_evidence(ScoredLine(name, line.rows, line.scores, BUDGET, line.held_out), SETTINGS)


SMALL = tuple(World(f"{ok} OK, {ng} NG", 2, ok, ng) for ok, ng in ((200, 1), (40, 2), (40, 5), (16, 16)))
LARGE = (
    World("20 OK, 20 NG", 2, 20, 20),
    World("100 OK, 30 NG", 2, 100, 30),
    World("200 OK, 200 NG", 2, 200, 200),
    World("50 OK, 50 NG, AUROC near 0.98", 2, 50, 50, mean=0.98, spread=0.01),
    World("200 OK, 50 NG, a tenth of defects hidden", 2, 200, 50, mean=0.92, spread=0.02, hidden=0.1),
    World("50 OK, 50 NG, ties", 2, 50, 50, rounding=1.0),
    World("50 OK, 50 NG, outliers", 2, 50, 50, heavy=True),
    World("100 OK, 100 NG in parts of 5", 2, 100, 100, group=5),
    World("100 OK, 100 NG, 3 seeds that differ by 0.02", 2, 100, 100, seeds=3, seed_sd=0.02, optimised=True),
)
CHOICES = (
    *(World(f"2 models, {count} + {count}", 2, count, count, real=True) for count in (20, 100)),
    *(World(f"5 models, {count} + {count}", 5, count, count, real=True) for count in (20, 100)),
    World("10 models, 16 + 16", 10, 16, 16, real=True),
    World("10 models, 50 + 50", 10, 50, 50, real=True),
    World("10 models, 50 + 50, alike", 10, 50, 50, spread=0.02, real=True),
    World("10 models, 50 + 50, apart", 10, 50, 50, mean=0.85, spread=0.07, real=True),
    World("10 models, 200 + 200", 10, 200, 200, real=True),
    World("10 models, 40 OK, 3 NG", 10, 40, 3, real=True),
    World("10 models, 50 + 50, three fail", 10, 50, 50, failures=3, real=True),
    World("5 models, 50 + 50, ties", 5, 50, 50, rounding=1.0, real=True),
    World("5 models, 50 + 50, nearly perfect", 5, 50, 50, mean=0.995, spread=0.005, real=True),
    World("5 models, 100 + 100, a tenth of defects hidden", 5, 100, 100, mean=0.9, spread=0.03, hidden=0.1, real=True),
    World("5 models, 200 OK, 1 NG", 5, 200, 1, real=True),
    World("5 models, 100 + 100 in parts of 5", 5, 100, 100, group=5, real=True),
    World("5 models, 100 + 100, no optimiser, seeds differ by 0.01", 5, 100, 100, seed_sd=0.01, real=True),
    *(
        World(
            f"5 models, 100 + 100, optimised, seeds differ by {sd}", 5, 100, 100, seed_sd=sd, optimised=True, real=True
        )
        for sd in (0.0, 0.01, 0.02, 0.04)
    ),
    World(
        "5 models, 100 + 100, 3 seeds that differ by 0.03",
        5,
        100,
        100,
        seeds=3,
        seed_sd=0.03,
        optimised=True,
        real=True,
    ),
    World("image AUROC alone differs: 5 models, 20 + 20", 5, 20, 20),
    World("image AUROC alone differs: 5 models, 100 + 100", 5, 100, 100),
    World("image AUROC alone differs: 10 models, 50 + 50", 10, 50, 50),
)


def intervals(repeats: int) -> Iterator[str]:
    """Coverage of intervals. The named model, which takes the longest, is sought on every fifth of the samples."""
    yield "| images | image AUROC | average precision | difference of two models | named model, on new images |"
    yield "|---|---|---|---|---|"
    for world in (*SMALL, *LARGE):
        rng = np.random.default_rng(1)
        hits = np.array([_covered(world, rng, named=at % 5 == 0) for at in range(5 * repeats)], np.float64)
        shares = ["–" if np.isnan(found).all() else f"{np.nanmean(found):.3f}" for found in hits.T]
        yield f"| {world.name} | " + " | ".join(shares) + " |"


def _covered(world: World, rng: np.random.Generator, *, named: bool) -> list[float]:
    line = sample(world, rng)
    found = [image_quality(images, Threshold(None, 0, BUDGET, 0.0), draws=500) for images in line.scores["m0"]]
    row = merge_seeds([made_unit(f"{seed}", "line", "m0", seed, **vars(quality)) for seed, quality in enumerate(found)])
    merged = done(row).quality
    truth, other = line.aurocs["m0"], line.aurocs["m1"]
    precision = _true_precision(world, truth) if world.seeds == 1 and not world.rounding else None
    gap = paired_difference(line.scores["m0"][:1], line.scores["m1"][:1], 500) if world.seeds == 1 else Estimate(None)
    truth = _true_ties(world, truth) if world.rounding else truth
    other = _true_ties(world, other) if world.rounding else other
    verdict = judge(line) if named and not world.rounding else None
    decided = decide(verdict) if isinstance(verdict, Evidence) else None
    return [
        _holds(merged.image_auroc, truth),
        _holds(merged.image_ap, precision),
        _holds(gap, truth - other),
        _holds(decided.expected, line.aurocs[decided.run]) if decided and decided.run else np.nan,
    ]


def _holds(number: Estimate, truth: float | None) -> float:
    if truth is None or number.value is None or number.low is None or number.high is None:
        return np.nan
    return float(number.low - 1e-12 <= truth <= number.high + 1e-12)


def _true_precision(world: World, auroc: float) -> float:
    """Average precision at the sample's share of NG images, by integration over thresholds."""
    grid = np.linspace(-8, 14, 4001)
    alarms = stats.norm.sf(grid)
    shift = shift_of((auroc - world.hidden / 2) / (1 - world.hidden))
    hits = (1 - world.hidden) * stats.norm.sf(grid - shift) + world.hidden * alarms
    precision = world.ng * hits / (world.ng * hits + world.ok * alarms)
    return float(np.sum((precision[1:] + precision[:-1]) / 2 * -np.diff(hits)))


def _true_ties(world: World, auroc: float) -> float:
    """AUROC of rounded scores."""
    cells = np.arange(-12, 20) * world.rounding
    ok = np.diff(stats.norm.cdf(cells))
    ng = np.diff(stats.norm.cdf(cells - shift_of(auroc)))
    below = np.cumsum(ok) - ok
    return float((ng * (below + ok / 2)).sum())


_PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "au_pro", "au_pro_05", "aupimo")
_SIDE, _MANY = 64, 4000


def pixels(repeats: int) -> Iterator[str]:
    """Coverage of intervals of pixel metrics."""
    yield "| images | pixel AUROC | pixel AP | AU-PRO | AU-PRO at 0.05 | AUPIMO |"
    yield "|---|---|---|---|---|---|"
    for ok, ng in ((40, 5), (30, 20), (40, 40), (100, 30), (100, 100)):
        rng = np.random.default_rng(7)
        times = _MANY // (ok + ng)
        truth = _pixel_quality(rng, ok * times, ng * times, intervals=False)  # of the same share of NG images
        found = [_pixel_quality(rng, ok, ng) for _ in range(repeats)]
        hits = [[_holds(getattr(one, name), getattr(truth, name).value) for name in _PIXEL_METRICS] for one in found]
        shares = np.nanmean(np.array(hits, np.float64), axis=0)
        yield f"| {ok} OK, {ng} NG | " + " | ".join(f"{share:.3f}" for share in shares) + " |"


def _pixel_quality(rng: np.random.Generator, ok: int, ng: int, *, intervals: bool = True) -> PixelQuality:
    """Draw images and count their pixels: smooth noise, images of different brightness, defects hard and easy to see.

    The 1 to 3 defects of an NG image are rectangles of 3 to 12 px, and an image's defects have something in common.
    """
    sketch = PixelSketch.empty()
    for number in range(ok + ng):
        heat = cv2.GaussianBlur(rng.normal(size=(_SIDE, _SIDE)), (0, 0), 1.5) * 5 + rng.normal(scale=0.3)
        mask = np.zeros((_SIDE, _SIDE), np.bool_)
        strength = rng.normal(2.5, 0.7)
        for _ in range(rng.integers(1, 4) if number >= ok else 0):
            (top, left), (height, width) = rng.integers(0, _SIDE - 12, 2), rng.integers(3, 13, 2)
            part = slice(top, top + height), slice(left, left + width)
            heat[part] += strength + rng.normal(0, 0.7)
            mask[part] = True
        sketch.add([PixelMap(f"{number:05}", heat.astype(np.float32), Mask.of(mask))])
    return sketch.evaluate(intervals=intervals)


def calibration(repeats: int) -> Iterator[str]:
    """Calibration of P(best), and regret."""
    sure, right, rows = [], [], []
    for world in CHOICES:
        rng = np.random.default_rng(2)
        outcomes = [_outcome(sample(world, rng)) for _ in range(repeats)]
        found = np.array([outcome for outcome in outcomes if outcome is not None])
        sure.append(found[:, 0])
        right.append(found[:, 1])
        rows.append(
            f"| {world.name} | {found[:, 0].mean():.2f} | {found[:, 1].mean():.2f} | {found[:, 2].mean():.4f} "
            f"| {found[:, 3].mean():.4f} | {_more(found[:, 3], found[:, 4])} |"
        )
    says, is_right = np.concatenate(sure), np.concatenate(right)
    yield "| says it is sure by | on average | right | verdicts |"
    yield "|---|---|---|---|"
    for low in np.arange(0.2, 1.0, 0.1):
        chosen = (says >= low) & (says < low + 0.1 + (low > 0.85))
        if chosen.sum() >= 20:
            row = f"{says[chosen].mean():.2f} | {is_right[chosen].mean():.2f} | {chosen.sum()}"
            yield f"| {low:.0%} to {low + 0.1:.0%} | {row} |"
    yield ""
    yield "| world | sure | right | regret said | regret | more than of the highest AUROC |"
    yield "|---|---|---|---|---|---|"
    yield from rows


def _more(regret: Floats, of_highest: Floats) -> str:
    """Say how much more regret the decision has, on the same samples, so that their luck cancels out."""
    more = regret - of_highest
    return f"{more.mean():+.4f} ± {1.96 * stats.sem(more):.4f}"


def _outcome(line: Line) -> tuple[float, float, float, float, float] | None:
    evidence = judge(line)
    if not isinstance(evidence, Evidence):
        return None
    verdict = decide(evidence)
    if verdict.run is None or verdict.sure is None or verdict.loss is None:
        return None
    best = max(line.utilities.values())
    highest = max(evidence.aurocs, key=lambda model: evidence.aurocs[model])
    compared = max(line.utilities[model] for model in verdict.standings)
    return (
        verdict.sure,
        float(line.utilities[verdict.run] >= compared - 1e-9),
        verdict.loss,
        best - line.utilities[verdict.run],
        best - line.utilities[highest],
    )


def thresholds(repeats: int) -> Iterator[str]:
    """False and right refusals of thresholds."""
    yield "| 10 models, OK test images | a model lost | called changed | 1.5 sd up: noticed | 1.5 sd down: noticed |"
    yield "|---|---|---|---|---|"
    for ok, group in ((16, 1), (50, 1), (200, 1), (1000, 1), (200, 5)):
        world = World("", 10, ok, 20, group=group)
        rng = np.random.default_rng(3)
        found = np.array([_refusals(sample(world, rng)) for _ in range(repeats)], np.float64)
        parts = f", parts of {group}" if group > 1 else ""
        yield f"| {ok}{parts} | " + " | ".join(f"{share:.3f}" for share in found.mean(axis=0)) + " |"


def _refusals(line: Line) -> list[bool]:
    usual, up, down = (_refused(line, shift) for shift in (0.0, 1.5, -1.5))
    return [usual > 0, usual * 2 > len(line.rows), up * 2 > len(line.rows), down * 2 > len(line.rows)]


def _refused(line: Line, shift: float) -> int:
    moved = {
        model: [replace(images, scores=images.scores + shift * (images.labels == "ok")) for images in seeds]
        for model, seeds in line.scores.items()
    }
    return len(refused_thresholds({row.model: row.finished for row in line.rows if row.finished}, moved, line.held_out))


def lines(repeats: int) -> Iterator[str]:
    """Several lines: mean ranks, calibration and regret."""
    yield "| lines | mean rank of a model | of the winner | sure | right | regret | more than of the highest mean |"
    yield "|---|---|---|---|---|---|---|"
    for count in (2, 5, 10, 20, 40):
        rng = np.random.default_rng(4)
        found = np.array([_lines_outcome(count, rng) for _ in range(max(20, repeats // 4))])
        *shares, regret, of_highest = (found[:, at] for at in range(6))
        words = ["–" if np.isnan(share).all() else f"{np.nanmean(share):.3f}" for share in shares]
        yield f"| {count} | {' | '.join(words)} | {regret.mean():.4f} | {_more(regret, of_highest)} |"


_DIFFERENCES, _LINE_SD = (0.01, 0.0, -0.02), 0.03


def _lines_outcome(count: int, rng: np.random.Generator) -> list[float]:
    world = World("", 3, 40, 40)
    truths = [_true_aurocs(rng) for _ in range(count)]
    # What a model is beside its image AUROC is the same on all lines.
    traits = {f"m{at}": replace(_real_traits(0.9 + part, 0.9, rng), ng_sd=1.0) for at, part in enumerate(_DIFFERENCES)}
    sampled = [sample(world, rng, truth.tolist(), traits) for truth in truths]
    evidence = [judge(line, f"line-{number}") for number, line in enumerate(sampled)]
    verdict = over_all([one for one in evidence if isinstance(one, Evidence)])
    assert verdict is not None
    values = {one.name: dict(one.aurocs) for one in evidence if isinstance(one, Evidence)}
    ranks = mean_ranks(values)
    winner = min(ranks, key=lambda model: ranks[model].value or 0.0)
    means = {model: np.mean([by_model[model] for by_model in values.values()]) for model in ranks}
    highest = max(means, key=lambda model: means[model])
    # From five lines on the verdict is about lines like these, of fewer about these lines.
    true = _expected_utilities(traits) if count >= 5 else _mean_utilities(sampled)
    best = max(true.values())
    expected = _expected_ranks()
    return [
        _holds(ranks["m0"], expected[0]) if count >= 3 else np.nan,
        _holds(ranks[winner], expected[list(ranks).index(winner)]) if count >= 3 else np.nan,
        verdict.sure or 0.0,
        float(true[verdict.run or "m2"] == best),
        best - true[verdict.run or "m2"],
        best - true[highest],
    ]


def _true_aurocs(rng: np.random.Generator) -> Floats:
    """Draw a line: the image AUROC of each model."""
    drawn: Floats = np.clip(rng.normal(0.9, 0.02) + np.array(_DIFFERENCES) + rng.normal(0, _LINE_SD, 3), 0.55, 0.995)
    return drawn


def _mean_utilities(sampled: Sequence[Line]) -> Mapping[str, float]:
    return {model: float(np.mean([line.utilities[model] for line in sampled])) for model in sampled[0].utilities}


def _expected_utilities(traits: Mapping[str, Traits]) -> Mapping[str, float]:
    """Return mean utilities over infinitely many lines."""
    worths = SETTINGS.verdict
    return {
        model: float(worth) - worths.ms * traits[model].ms + worths.heat_map * traits[model].heat
        for model, worth in zip(traits, _expected_worths(), strict=True)
    }


@functools.cache
def _expected_worths() -> Floats:
    """Mean worths of image AUROC and recall over infinitely many lines."""
    rng = np.random.default_rng(8)
    aurocs = np.array([_true_aurocs(rng) for _ in range(20_000)])
    recalls = stats.norm.cdf(np.sqrt(2) * stats.norm.ppf(aurocs) - stats.norm.ppf(1 - BUDGET))
    worths: Floats = (aurocs + SETTINGS.verdict.recall * recalls).mean(axis=0)
    return worths


@functools.cache
def _expected_ranks() -> Floats:
    """Mean ranks over infinitely many lines, each measured on 40 + 40 images."""
    rng = np.random.default_rng(5)
    world = World("", 3, 40, 40)
    drawn = []
    for _ in range(4000):
        common = [_noise(rng, count, 1) for count in (world.ok, world.ng)]
        drawn.append([_auroc(_images(world, common, shift_of(float(one)), rng)) for one in _true_aurocs(rng)])
    found: Floats = average_ranks(np.array(drawn)).mean(axis=0)
    return found


def _auroc(images: ImageScores) -> float:
    ok, ng = images.of_label("ok"), images.of_label("ng")
    return float(stats.mannwhitneyu(ng, ok).statistic / (len(ok) * len(ng)))


def speed(repeats: int) -> Iterator[str]:
    """Seconds of one process."""
    rng = np.random.default_rng(6)
    one = sample(World("", 10, 500, 500), rng)
    many = [sample(World("", 10, 50, 50), rng) for _ in range(50)]
    started = time.process_time()
    evidence = judge(one)
    if isinstance(evidence, Evidence):
        decide(evidence)
    single = time.process_time() - started
    started = time.process_time()
    found = [judge(line, str(number)) for number, line in enumerate(many)]
    over_all([item for item in found if isinstance(item, Evidence)])
    yield f"One line, 10 models × 1,000 images × 2,000 draws: {single:.1f} s of a core. "
    yield f"50 lines × 10 models × 100 images, and all lines: {time.process_time() - started:.1f} s of a core."


PARTS: Mapping[str, Callable[[int], Iterator[str]]] = {
    "intervals": intervals,
    "pixels": pixels,
    "calibration": calibration,
    "thresholds": thresholds,
    "lines": lines,
    "speed": speed,
}


def main() -> None:
    """Print the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=400, help="samples of each world")
    arguments = parser.parse_args()
    for name in arguments.parts:
        print(f"\n### {name.capitalize()} ({arguments.repeats} samples of each world)\n")
        for row in PARTS[name](arguments.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
