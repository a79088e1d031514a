from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import percentile_interval
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import (
    SEED_SD,
    SampledModel,
    SampledModels,
    paired_difference,
    sample_models,
    seed_error,
)
from raybench.metrics.threshold import conformal_threshold

Floats = npt.NDArray[np.float64]


def scored(ok: Floats, ng: Floats, groups: Sequence[str] | None = None) -> ImageScores:
    ids = [f"{at:04}" for at in range(len(ok) + len(ng))]
    return ImageScores.of(ids, ["ok"] * len(ok) + ["ng"] * len(ng), [*ok.tolist(), *ng.tolist()], groups)


def images(gap: float, seed: int = 0, count: int = 60) -> ImageScores:
    """Images whose difficulty is common to all models; `gap` is how well a model tells NG from OK."""
    common = np.random.default_rng(0).normal(size=2 * count)
    own = np.random.default_rng(seed + 1).normal(size=2 * count)
    scores = common + 0.3 * own + np.repeat([0, gap], count)
    return scored(scores[:count], scores[count:])


def held_out(seed: int = 0, count: int = 19) -> ImageScores:
    scores = np.random.default_rng(1000 + seed).normal(size=count)
    return ImageScores.of([f"h{at:03}" for at in range(count)], ["ok"] * count, scores.tolist())


def sampled(
    scores: Mapping[str, Sequence[ImageScores]],
    held: Mapping[str, Sequence[ImageScores]] | None = None,
    draws: int = 500,
) -> SampledModels:
    found = sample_models(scores, 0.05, held, draws)
    assert isinstance(found, SampledModels)
    return found


def assert_same(first: SampledModel, second: SampledModel) -> None:
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(second, name)), name


def test_values_on_all_images() -> None:
    one = images(1.5)
    held = held_out()
    found = sampled({"m": [one]}, {"m": [held]})
    model = found.models["m"]
    ok, ng = one.of_label("ok"), one.of_label("ng")
    assert (found.ok, found.ng, found.ok_groups, found.ng_groups) == (60, 60, 60, 60)
    assert model.auroc == pytest.approx(stats.mannwhitneyu(ng, ok).statistic / 3600)
    assert model.recall == pytest.approx((ng > np.sort(ok)[-4]).mean())  # 3 of 60 OK images lie above the 4th highest
    limit = conformal_threshold(held.scores, 0.05).value or 0.0
    assert model.own_recall == pytest.approx((ng > limit).mean())
    assert model.own_false_alarm_rate == pytest.approx((ok > limit).mean())


def test_without_held_back_images_there_are_no_own_thresholds() -> None:
    model = sampled({"m": [images(1.0)]}).models["m"]
    assert model.own_recall is None
    assert model.own_false_alarm_draws is None
    mixed = sampled({"m": [images(1.0)], "n": [images(1.0, 1)]}, {"m": [held_out()]}).models
    assert mixed["m"].own_recall is not None
    assert mixed["n"].own_recall is None


def test_a_model_s_value_is_the_mean_over_its_seeds() -> None:
    seeds = [images(2.0, 0), images(1.0, 1)]
    both = sampled({"m": seeds}).models["m"]
    each = [sampled({"m": [seed]}).models["m"] for seed in seeds]
    assert both.auroc == pytest.approx(np.mean([one.auroc for one in each]))
    assert both.recall == pytest.approx(np.mean([one.recall for one in each]))


def test_images_that_one_model_has_not_scored_do_not_count() -> None:
    whole, part = images(2.0), images(2.0, 1)
    part = part.only(part.image_ids[10:])
    found = sampled({"whole": [whole], "part": [part]})
    assert (found.ok, found.ng) == (50, 60)
    assert found.models["whole"].auroc == pytest.approx(
        sampled({"whole": [whole.only(part.image_ids)]}).models["whole"].auroc
    )


@pytest.mark.parametrize(("label", "reason"), [("ok", "no NG images"), ("ng", "no OK images")])
def test_without_a_class_nothing_is_drawn(label: str, reason: str) -> None:
    whole = images(2.0)
    found = sample_models({"m": [whole.only(whole.image_ids[whole.labels == label])]}, 0.05)
    assert isinstance(found, Estimate)
    assert found.reason == f"{reason} in the test split"


def test_draws_depend_on_scores_alone() -> None:
    """Neither names nor order nor other models change the draws of a model."""
    scores = {name: [images(gap, at)] for at, (name, gap) in enumerate({"a": 1.0, "b": 2.0, "c": 0.0}.items())}
    held = {name: [held_out(at)] for at, name in enumerate("abc")}
    first = sampled(scores, held).models
    turned = sampled(dict(reversed(scores.items())), held).models
    renamed = sampled({name.upper(): of for name, of in scores.items()}, {n.upper(): of for n, of in held.items()})
    copied = sampled(scores | {"copy": scores["a"]}, held | {"copy": held["a"]}).models
    alone = sampled({"b": scores["b"]}, {"b": held["b"]}).models
    for name, model in first.items():
        assert_same(model, turned[name])
        assert_same(model, renamed.models[name.upper()])
        assert_same(model, copied[name])
    assert_same(copied["copy"], first["a"])
    assert_same(alone["b"], first["b"])


def test_seeds_of_a_model_may_come_in_any_order() -> None:
    seeds = [images(1.0, at) for at in range(3)]
    forth, back = (sampled({"m": of}).models["m"] for of in (seeds, seeds[::-1]))
    assert forth.auroc_draws == pytest.approx(back.auroc_draws)


def test_models_are_drawn_on_the_same_images() -> None:
    found = sampled({"a": [images(1.0)], "b": [images(1.0, 5)]}, draws=2000).models
    a, b = found["a"].recall_draws, found["b"].recall_draws
    assert np.corrcoef(a, b)[0, 1] > 0.4
    difference = found["a"].auroc_draws - found["b"].auroc_draws
    apart = np.hypot(found["a"].auroc_draws.std(), found["b"].auroc_draws.std())
    assert difference.std() < 0.9 * apart


def test_held_back_images_are_drawn_too() -> None:
    """The draw of 20 held-back images moves recall, so its interval must show that."""
    rng = np.random.default_rng(0)
    many = scored(rng.normal(0, 1, 2000), rng.normal(2.0, 1, 2000))
    widths = []
    for count in (20, 400):
        model = sampled({"m": [many]}, {"m": [held_out(1, count)]}).models["m"]
        assert model.own_recall_draws is not None
        widths.append(np.diff(percentile_interval(model.own_recall_draws))[0])
    assert widths[0] > 1.5 * widths[1]
    assert widths[0] > 0.2


def test_groups_are_drawn_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    ok, ng = (np.repeat(rng.normal(gap, 1, 12), 5) + rng.normal(0, 0.2, 60) for gap in (0, 1.5))
    parts = [f"part {at // 5}" for at in range(120)]
    together, apart = (sampled({"m": [scored(ok, ng, of)]}) for of in (parts, None))
    assert (together.ok, together.ok_groups, together.ng_groups) == (60, 12, 12)
    assert together.models["m"].recall_draws.std() > 1.5 * apart.models["m"].recall_draws.std()


def test_the_error_of_seeds_falls_with_their_number() -> None:
    values = [0.86, 0.90, 0.94]
    errors = [seed_error(values * times)[0] for times in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] == pytest.approx(errors[0] / 2, rel=0.25)
    assert seed_error([0.9]) == pytest.approx((SEED_SD * 2 * 0.3, 3))
    assert seed_error([0.86, 0.94])[0] > seed_error([0.90, 0.90])[0]
    assert seed_error([1.0, 1.0])[0] == 0.0
    assert seed_error([1.0 + 2**-52])[0] == 0.0  # rounding


def test_more_seeds_narrow_the_draws() -> None:
    gaps = [0.8, 1.2, 1.6]
    few = sampled({"m": [images(gap, at) for at, gap in enumerate(gaps)]}, draws=2000).models["m"]
    many = sampled({"m": [images(gap, at) for at, gap in enumerate(gaps * 4)]}, draws=2000).models["m"]
    assert np.diff(percentile_interval(many.auroc_draws)) < np.diff(percentile_interval(few.auroc_draws))


def test_paired_difference_sees_what_single_intervals_cannot() -> None:
    first = images(1.0)
    second = replace(first, scores=np.where(first.labels == "ng", first.scores - 0.35, first.scores))
    gap = paired_difference([first], [second])
    assert gap.value is not None
    assert gap.low is not None
    assert gap.low > 0
    alone = sampled({"first": [first], "second": [second]}).models
    ends = [percentile_interval(alone[name].auroc_draws) for name in ("first", "second")]
    assert ends[1][1] > ends[0][0]
    assert paired_difference([second], [first]).value == pytest.approx(-gap.value)
    assert paired_difference([first], [first]) == Estimate(0.0, 0.0, 0.0, 120)


@pytest.mark.parametrize(
    ("ok", "ng", "auroc", "hidden"), [(200, 25, 0.98, 0.1), (50, 50, 0.98, 0.0), (20, 20, 0.9, 0.0)]
)
def test_differences_of_good_models_are_covered(ok: int, ng: int, auroc: float, hidden: float) -> None:
    """Models that miss the same defects, models without many errors, and few images."""
    rng, repeats, hits = np.random.default_rng(0), 150, 0
    gap = np.sqrt(2) * special.ndtri(auroc)
    for _ in range(repeats):
        is_seen = rng.random(ng) >= hidden
        common = rng.normal(size=ok + ng)
        first, second = (np.sqrt(0.5) * (common + rng.normal(size=ok + ng)) for _ in "ab")
        one, two = ([scored(of[:ok], of[ok:] + gap * is_seen)] for of in (first, second))
        found = paired_difference(one, two, draws=300)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.value == pytest.approx(found.value - found.low)
        hits += found.low <= 0 <= found.high
    assert hits / repeats >= 0.93


def test_the_difference_of_equally_good_models_is_covered() -> None:
    rng, repeats, hits = np.random.default_rng(0), 150, 0
    for _ in range(repeats):
        common = rng.normal(size=80) + np.repeat([0, 1], 40)
        first, second = (common + rng.normal(size=80) for _ in "ab")
        gap = paired_difference([scored(first[:40], first[40:])], [scored(second[:40], second[40:])], draws=300)
        assert gap.low is not None
        assert gap.high is not None
        hits += gap.low <= 0 <= gap.high
    assert hits / repeats >= 0.91
