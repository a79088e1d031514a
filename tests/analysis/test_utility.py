from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from raybench.analysis.comparison import Utility
from raybench.analysis.heatmap_grade import heatmap_grade
from raybench.analysis.rows import FinishedModel
from raybench.analysis.utility import failed_utility, utility
from raybench.config.experiment import Costs, VerdictSettings
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import SampledModel, SampledModels, sample_models
from tests.support.decisions import BUDGET, drawn, held_back, row_of
from tests.support.results import SPEED, altered, done

IMAGES = drawn(2.0)
HELD = held_back(np.random.default_rng(5).normal(size=39))
NAMES = ("au_pro", "noise_around", "noise_ok")


def sampled(held: bool = True) -> SampledModel:
    found = sample_models({"m": [IMAGES]}, BUDGET, {"m": [HELD]} if held else None)
    assert isinstance(found, SampledModels)
    return found.models["m"]


MODEL = sampled()


def finished(**heat: float) -> FinishedModel:
    found = done(row_of("m", [IMAGES], [HELD]))
    numbers = {name: Estimate(value, value - 0.05, value + 0.05, 40) for name, value in heat.items()}
    quality = replace(found.quality, **numbers)
    return replace(found, quality=quality, heat=heatmap_grade(quality))


def of(
    model: FinishedModel, draws: SampledModel = MODEL, settings: VerdictSettings | None = None, timed: bool = True
) -> Utility:
    return utility(model, draws, settings or VerdictSettings(), None, timed)


def test_in_units_of_image_auroc() -> None:
    settings = VerdictSettings(recall=0.2, heat_map=0.3, ms=1e-3, mb=1e-2)
    found = of(finished(au_pro=0.9, noise_around=0.1, noise_ok=0.4), settings=settings)
    assert found.terms == {
        "image AUROC": MODEL.auroc,
        "recall": pytest.approx(0.2 * MODEL.recall),
        "heat map": pytest.approx(0.3 * (0.9 + 0.9 + 0.6) / 3),
        "time": pytest.approx(-0.01),
        "size": pytest.approx(-0.05),
    }
    assert found.value == pytest.approx(sum(found.terms.values()))
    assert found.draws.mean() == pytest.approx(found.value, abs=0.02)
    assert found.draws.std() > MODEL.auroc_draws.std()


def test_in_units_of_the_cost_of_missing_every_defect() -> None:
    """A line with 1 % NG images: a defect is missed at 100, a false alarm costs 2, 10 ms cost 0.1."""
    costs = Costs(missed_defect=100.0, false_alarm=2.0, defect_rate=0.01, ms=0.01)
    found = utility(finished(), MODEL, VerdictSettings(), costs, timed=True)
    recall, rate = MODEL.own_recall, MODEL.own_false_alarm_rate
    assert recall is not None
    assert rate is not None
    per_image = -0.01 * 100 * (1 - recall) - 0.99 * 2 * rate - 10 * 0.01
    assert found.value == pytest.approx(per_image / (0.01 * 100))
    assert found.draws.mean() == pytest.approx(found.value, abs=0.2)
    assert found.draws.std() > 0


def test_with_costs_a_model_without_a_threshold_finds_nothing() -> None:
    costs = Costs(missed_defect=100.0, false_alarm=2.0, defect_rate=0.01)
    found = utility(finished(), sampled(held=False), VerdictSettings(), costs, timed=True)
    assert found.value == failed_utility(VerdictSettings(), costs, BUDGET) == -1.0
    assert (found.draws == -1.0).all()


@pytest.mark.parametrize("known", [names for count in range(3) for names in itertools.combinations(NAMES, count)])
def test_an_unknown_heat_map_never_helps(known: tuple[str, ...]) -> None:
    poor = {"au_pro": 0.0, "noise_around": 1.0, "noise_ok": 1.0}
    good = {"au_pro": 0.9, "noise_around": 0.05, "noise_ok": 0.1}
    some = of(finished(**{name: good[name] for name in known})).terms["heat map"]
    assert (
        0
        <= some
        <= of(
            finished(**{name: good[name] for name in known} | {name: poor[name] for name in NAMES if name not in known})
        ).terms["heat map"]
    )
    assert (some == 0) == (not known)


def test_times_of_a_busy_machine_count_for_nothing() -> None:
    quick, slow = (altered(finished(), speed=replace(SPEED, p50_ms=ms, other_load=0.5)) for ms in (15.0, 1190.0))
    assert of(quick, timed=False).value == of(slow, timed=False).value
    assert np.array_equal(of(quick, timed=False).draws, of(slow, timed=False).draws)
    assert of(quick).value > of(slow).value


def test_the_intervals_of_heat_maps_count() -> None:
    settings = VerdictSettings(heat_map=1.0)
    qualities = (replace(finished().quality, au_pro=Estimate(0.8, 0.8 - half, 0.8 + half)) for half in (0.0, 0.2))
    known, vague = (of(replace(finished(), quality=quality), settings=settings) for quality in qualities)
    added = (0.2 / 1.96 / 3) ** 2
    assert vague.draws.var() - known.draws.var() == pytest.approx(added, rel=0.3)


def test_a_failed_model_tells_nothing() -> None:
    found = failed_utility(VerdictSettings(), None, BUDGET)
    assert found == pytest.approx(0.5 + VerdictSettings().recall * BUDGET)
