from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raybench.analysis.comparison import PRIOR_SD, SURE, Standing, Utility, compare

Floats = npt.NDArray[np.float64]
MARGIN = 0.02


def utility(value: float, noise: Floats) -> Utility:
    return Utility(value, value + noise, {"image AUROC": value})


def made(values: Mapping[str, float], spread: float = 0.05, seed: int = 0, draws: int = 4000) -> dict[str, Utility]:
    rng = np.random.default_rng(seed)
    return {model: utility(value, spread * rng.standard_normal(draws)) for model, value in values.items()}


def numbers(standing: Standing) -> list[float]:
    behind = standing.behind
    return [
        standing.best,
        standing.within_margin,
        standing.loss,
        *(number for number in (behind.value, behind.low, behind.high) if number is not None),
        *standing.places,
    ]


@given(gap=st.floats(0.001, 0.3), spread=st.floats(0.005, 0.2), seed=st.integers(0, 9))
@settings(max_examples=30)
def test_two_models_have_the_posterior_of_a_normal_prior(gap: float, spread: float, seed: int) -> None:
    found = compare(made({"a": 0.9, "b": 0.9 - gap}, spread / np.sqrt(2), seed, 20_000), MARGIN)
    kept = 2 * PRIOR_SD**2 / (2 * PRIOR_SD**2 + spread**2)
    truth = stats.norm(kept * gap, np.sqrt(kept) * spread)
    assert found["a"].best == pytest.approx(truth.sf(0), abs=0.03)
    assert found["b"].best == pytest.approx(truth.cdf(0), abs=0.03)
    assert found["b"].within_margin == pytest.approx(truth.cdf(MARGIN), abs=0.03)
    assert found["b"].behind.value == pytest.approx(truth.mean(), abs=0.03 * spread + 1e-9)
    assert found["b"].behind.low == pytest.approx(truth.ppf(0.025), abs=0.1 * spread)
    excess = truth.expect(lambda x: max(x, 0.0))
    assert found["b"].loss == pytest.approx(excess, abs=0.03 * spread + 1e-6)


def test_one_model_is_the_best() -> None:
    found = compare(made({"only": 0.7}), MARGIN)["only"]
    assert numbers(found) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1, 1]
    assert found.is_best
    assert not found.is_worse


def test_what_is_sure_is_graded() -> None:
    found = compare(made({"first": 0.95, "near": 0.949, "far": 0.7}, spread=0.002), MARGIN)
    assert [found[model].is_best for model in ("first", "near", "far")] == [True, True, False]
    assert [found[model].is_worse for model in ("first", "near", "far")] == [False, False, True]
    assert [found[model].places for model in ("near", "far")] == [(1, 2), (3, 3)]
    assert list(found)[-1] == "far"


@given(
    values=st.lists(st.integers(0, 4), min_size=2, max_size=5),
    order=st.permutations(range(5)),
    spread=st.sampled_from([0.0, 0.02, 0.1]),
    seed=st.integers(0, 20),
)
def test_names_and_order_decide_nothing(values: list[int], order: list[int], spread: float, seed: int) -> None:
    models = made({f"m{at}": 0.8 + value / 50 for at, value in enumerate(values)}, spread, seed, 300)
    names = [f"m{order[at]}" for at in range(len(values))]
    found = compare(models, MARGIN)
    renamed = compare(dict(reversed(list(zip(names, models.values(), strict=True)))), MARGIN)
    for name, model in zip(names, models, strict=True):
        assert numbers(renamed[name]) == pytest.approx(numbers(found[model]), abs=1e-12)


@given(
    values=st.lists(st.floats(0.7, 1.0), min_size=1, max_size=4),
    copied=st.integers(0, 3),
    spread=st.sampled_from([0.01, 0.1]),
    seed=st.integers(0, 9),
)
def test_a_copy_or_a_worse_model_changes_nothing(values: list[float], copied: int, spread: float, seed: int) -> None:
    models = made({f"m{at}": value for at, value in enumerate(values)}, spread, seed, 300)
    found = compare(models, MARGIN)
    original = f"m{copied % len(values)}"
    with_copy = compare(models | {"copy": models[original]}, MARGIN)
    worse = utility(-1.0, 0.01 * np.random.default_rng(1).standard_normal(300))
    with_worse = compare(models | {"worse": worse}, MARGIN)
    for model, standing in found.items():
        assert numbers(with_copy[model])[:-2] == pytest.approx(numbers(standing)[:-2], abs=1e-12)
        assert numbers(with_worse[model]) == pytest.approx(numbers(standing), abs=1e-12)
    assert numbers(with_copy["copy"]) == numbers(with_copy[original])
    assert with_worse["worse"].is_worse
    assert list(with_worse)[-1] == "worse"


@pytest.mark.parametrize("models", [2, 4, 10])
@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_probabilities_are_calibrated(models: int, spread: float) -> None:
    """Lines whose models differ as the prior assumes: what is said to be 80 % sure is right in 80 %."""
    rng, lines, draws = np.random.default_rng(0), 500, 300
    said, right, regret, expected = (np.zeros(lines) for _ in range(4))
    for line in range(lines):
        truth = rng.normal(0.8, PRIOR_SD, models)
        measured = truth + spread * rng.standard_normal(models)
        noise = spread * rng.standard_normal((models, draws))
        found = compare({str(at): utility(measured[at], noise[at]) for at in range(models)}, MARGIN)
        named, standing = next(iter(found.items()))
        said[line], right[line] = standing.best, truth[int(named)] == truth.max()
        regret[line], expected[line] = truth.max() - truth[int(named)], standing.loss
    assert said.mean() == pytest.approx(right.mean(), abs=0.05)
    assert expected.mean() == pytest.approx(regret.mean(), abs=0.01)


def test_a_truly_best_model_among_many_is_rarely_beaten_in_grade() -> None:
    """One of 0.95 and nine of 0.90, all known to 0.02: the nine are hardly ever best."""
    rng = np.random.default_rng(0)
    best = 0
    for _ in range(100):
        values = np.array([0.95, *[0.90] * 9]) + 0.02 * rng.standard_normal(10)
        noise = 0.02 * rng.standard_normal((10, 300))
        found = compare({str(at): utility(values[at], noise[at]) for at in range(10)}, MARGIN)
        best += sum(found[str(at)].is_best for at in range(1, 10))
    assert best / 900 <= 1 - SURE
