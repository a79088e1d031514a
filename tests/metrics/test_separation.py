from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raybench.metrics.image import Ranked
from raybench.metrics.intervals import bootstrap, percentile_interval
from raybench.metrics.separation import auroc_interval, auroc_variance, confidence_draws

Floats = npt.NDArray[np.float64]


def resampled(ok: Floats, ng: Floats, groups: int = 1, draws: int = 300) -> tuple[float, Floats]:
    """Return the AUROC and its resamples; `groups` images in a row belong together."""
    ranked = Ranked(ok, ng)

    def auroc(of_ok: Floats, of_ng: Floats) -> Floats:
        found: Floats = ranked.auroc_and_recall(of_ok, of_ng, 0.05)[0]
        return found

    strata = [np.arange(len(scores)) // groups for scores in (ok, ng)]
    whole = float(auroc(np.ones((1, len(ok))), np.ones((1, len(ng))))[0])
    return whole, bootstrap(strata, auroc, count=draws)


def interval(ok: Floats, ng: Floats, groups: int = 1, draws: int = 300) -> tuple[float, float]:
    sizes = len(ok), len(ng)
    return auroc_interval(*resampled(ok, ng, groups, draws), sizes, (len(ok) // groups, len(ng) // groups))


@given(auroc=st.floats(0.01, 0.99), n=st.integers(2, 300))
def test_the_variance_is_that_of_hanley_and_mcneil_for_classes_of_one_size(auroc: float, n: int) -> None:
    first, second = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    known = (auroc * (1 - auroc) + (n - 1) * (first + second - 2 * auroc**2)) / n**2
    assert float(auroc_variance(np.array(auroc), n, n)) == pytest.approx(known)


def test_the_spread_of_resamples_is_delong_s() -> None:
    """DeLong, DeLong and Clarke-Pearson 1988, with Student's widening for 60 images of a class."""
    rng = np.random.default_rng(0)
    ok, ng = rng.normal(0, 1, 60), rng.normal(1, 1, 60)
    above = (ng[:, np.newaxis] > ok).astype(float)
    variance = (above.mean(axis=1).var(ddof=1) + above.mean(axis=0).var(ddof=1)) / 60
    widening = stats.t.ppf(0.975, 59) / stats.norm.ppf(0.975)
    assert resampled(ok, ng, draws=4000)[1].std() == pytest.approx(np.sqrt(variance) * widening, rel=0.06)


def test_perfect_separation_is_about_as_certain_as_one_error() -> None:
    ok, perfect = np.arange(40.0), 100 + np.arange(10.0)
    lows = []
    for errors in range(4):
        ng = perfect.copy()
        ng[:errors] = 38.5  # below one OK image
        low, high = interval(ok, ng)
        assert low < high
        lows.append(low)
    assert lows == sorted(lows, reverse=True)
    assert lows[0] - lows[1] < 0.05
    assert 0.85 < lows[0] < 0.97
    assert interval(ok, perfect)[1] == 1.0


@given(st.integers(1, 60), st.integers(1, 60))
def test_perfect_separation_is_never_certain(ok: int, ng: int) -> None:
    low, high = interval(np.arange(float(ok)), 100 + np.arange(float(ng)), draws=20)
    assert (high, low < 1 - 0.5 / (ok + ng)) == (1.0, True)
    turned = interval(100 + np.arange(float(ok)), np.arange(float(ng)), draws=20)
    assert turned == pytest.approx((0.0, 1 - low), abs=1e-6)


def test_more_images_narrow_it() -> None:
    widths = [np.diff(interval(np.arange(float(n)), 0.8 * n + np.arange(float(n))))[0] for n in (1, 3, 10, 40, 200)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.5


def test_images_of_one_part_that_look_alike_count_once() -> None:
    ok, ng = np.arange(20.0), 14 + np.arange(20.0)
    alone = interval(ok, ng, draws=2000)
    five = interval(np.repeat(ok, 5), np.repeat(ng, 5), groups=5, draws=2000)
    assert five == pytest.approx(alone, abs=0.03)
    perfect = interval(np.repeat(ok, 5), np.repeat(ng + 50, 5), groups=5)
    assert perfect == pytest.approx(interval(ok, ng + 50), abs=1e-9)


def test_the_draws_have_the_interval_s_quantiles_and_the_order_of_the_resamples() -> None:
    rng = np.random.default_rng(0)
    value, samples = resampled(rng.normal(0, 1, 40), rng.normal(1.5, 1, 40), draws=4000)
    ends = auroc_interval(value, samples, (40, 40), (40, 40))
    draws = confidence_draws(value, samples, (40, 40), (40, 40), rng.standard_normal(4000))
    assert percentile_interval(draws) == pytest.approx(ends, abs=0.01)
    assert stats.spearmanr(draws, samples).statistic > 0.9
    assert ((draws >= 0) & (draws <= 1)).all()


def test_perfect_models_have_draws_of_their_own() -> None:
    rng = np.random.default_rng(0)
    perfect = np.ones(2000)
    first, second = (confidence_draws(1.0, perfect, (40, 10), (40, 10), rng.standard_normal(2000)) for _ in "ab")
    assert first.std() > 0.005
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize(("ok", "ng"), [(40, 1), (40, 2), (40, 3), (40, 5), (20, 20), (100, 100)])
@pytest.mark.parametrize("auroc", [0.75, 0.95, 0.99])
def test_the_interval_covers_the_truth(ok: int, ng: int, auroc: float) -> None:
    gap = float(np.sqrt(2) * stats.norm.ppf(auroc))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(rng.normal(0, 1, ok), rng.normal(gap, 1, ng), draws=150)
        hits += low <= auroc <= high
    assert hits / 200 >= 0.90


def test_the_interval_covers_the_truth_with_five_photographs_of_each_part() -> None:
    rng, repeats = np.random.default_rng(0), 200
    truth = float(stats.norm.cdf(1.5 / np.sqrt(2 * (1 + 0.3**2))))
    hits = ignoring = 0
    for _ in range(repeats):
        ok, ng = (np.repeat(rng.normal(gap, 1, 12), 5) + rng.normal(0, 0.3, 60) for gap in (0, 1.5))
        low, high = interval(ok, ng, groups=5, draws=200)
        hits += low <= truth <= high
        low, high = interval(ok, ng, draws=200)
        ignoring += low <= truth <= high
    assert hits / repeats >= 0.90
    assert ignoring / repeats < 0.75  # five photographs are not five images


def test_the_interval_covers_the_truth_with_ties() -> None:
    """Scores of four values."""
    rng, repeats = np.random.default_rng(0), 200
    shares = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]])
    truth = sum(shares[1, i] * shares[0, j] * (1.0 if i > j else 0.5 * (i == j)) for i in range(4) for j in range(4))
    hits = 0
    for _ in range(repeats):
        ok, ng = (rng.choice(4, 30, p=share).astype(float) for share in shares)
        low, high = interval(ok, ng, draws=200)
        hits += low <= truth <= high
    assert hits / repeats >= 0.91


def test_with_many_errors_resampling_counts_and_with_few_the_numbers_of_images() -> None:
    """Normal scores vary less than Newcombe assumes, which only a ranking with errors can show."""
    rng = np.random.default_rng(0)
    ratios = []
    for auroc in (0.95, 0.98, 0.995):
        gap = float(np.sqrt(2) * stats.norm.ppf(auroc))
        ok, ng = (
            stats.norm.ppf((np.arange(200) + 0.5) / 200),
            gap + rng.permutation(stats.norm.ppf((np.arange(200) + 0.5) / 200)),
        )
        value, samples = resampled(ok, ng, draws=2000)
        low, high = auroc_interval(value, samples, (200, 200), (200, 200))
        of_resampling = 2 * stats.norm.ppf(0.975) * samples.std()
        of_numbers = 2 * stats.norm.ppf(0.975) * np.sqrt(auroc_variance(np.array(value), 200, 200))
        ratios.append(float((high - low - of_resampling) / (of_numbers - of_resampling)))
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.3
    assert ratios[-1] > 0.6


def test_the_interval_is_not_too_wide_with_many_images() -> None:
    """The wider of resampling and Newcombe covered 0.986."""
    rng, truth, hits, repeats = np.random.default_rng(0), 0.98, 0, 300
    gap = float(np.sqrt(2) * stats.norm.ppf(truth))
    for _ in range(repeats):
        low, high = interval(rng.normal(0, 1, 200), rng.normal(gap, 1, 200), draws=150)
        hits += low <= truth <= high
    assert 0.93 <= hits / repeats <= 0.98
