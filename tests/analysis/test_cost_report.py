from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.analysis.cost_report import (
    CostReport,
    Hours,
    cost,
    duration,
    format_cost,
    format_estimate,
    hours_of,
    total_hours,
)
from raybench.runs.cost_model import Forecast, Work
from raybench.runs.records import ResourceUsage, UnitResult
from tests.support.results import NOTHING_SPENT, UNIT


def result(
    train: ResourceUsage, score: ResourceUsage = NOTHING_SPENT, measure: ResourceUsage = NOTHING_SPENT
) -> UnitResult:
    return replace(
        UNIT,
        trained=replace(UNIT.trained, spent=train),
        judged=replace(UNIT.judged, spent=score),
        measured=replace(UNIT.measured, spent=measure),
    )


ON_GPU = result(
    train=ResourceUsage(3600, 100, 4 * 3600, 1800, "cuda"),
    score=ResourceUsage(1800, 50, 4 * 1800, 450, "cuda"),
    measure=ResourceUsage(360, 16, 16 * 360, 360, "cuda"),
)
ON_CPU = result(ResourceUsage(1800, 100, 3600, 0, "cpu"))


def test_a_task_is_charged_for_what_it_had_to_itself() -> None:
    hours = hours_of([ON_GPU])
    assert hours.units == 1
    assert [hours.cpu, hours.gpu] == pytest.approx([7.6, 0.725])
    assert hours.money(4.0) == pytest.approx(2.9)
    assert hours_of([ON_CPU]).money(0.05) == pytest.approx(0.05)
    assert hours.money(None) is None
    assert total_hours([hours, hours]) == hours_of([ON_GPU, ON_GPU])


def test_the_cell_is_money_or_hours_or_a_dash() -> None:
    hours = hours_of([ON_GPU])
    assert (cost(hours, 4.0), cost(hours, None), cost(hours_of([ON_CPU]), None)) == ("2.90", "0.725", "1")
    assert cost(Hours(), 4.0) == "–"


def test_prediction_beside_what_happened() -> None:
    forecast = Forecast(10, "cpu", 2, 1, {"recorded": 10}, Work(600, 1200), Work(660, 1300), 9)
    spent, compared = format_cost(CostReport(hours_of([ON_CPU]), 0.05, forecast))
    assert (
        spent
        == "cost: money at 0.05 per CPU-hour, in all 0.05; training, scoring and timing of 1 units took 1 CPU-hours"
    )
    assert compared == (
        "the latest command had 10 units to do: predicted 10 min (0.333 CPU-hours); took 11 min (0.361 CPU-hours), "
        "1.10 times the prediction; 1 of them failed"
    )
    assert format_cost(CostReport()) == []


@pytest.mark.parametrize(
    ("forecast", "said"),
    [
        (Forecast(3, "cpu", 2, 1, {"nothing": 3}), "nothing was recorded to predict from"),
        (Forecast(3, "cpu", 2, 1, {"nothing": 3}, None, Work(90, 180), 3), "predict from; they took 90 s (0.05 CPU"),
        (Forecast(3, "cpu", 2, 1, {"recorded": 3}, Work(90, 180)), "it has not ended"),
    ],
)
def test_a_prediction_that_is_missing_or_a_run_that_was_cut_off(forecast: Forecast, said: str) -> None:
    (text,) = format_cost(CostReport(forecast=forecast))
    assert said in text


def test_check_says_what_it_assumed() -> None:
    bases: dict[str, int] = {"recorded": 7, "same model": 2, "average": 1}
    forecast = Forecast(
        10, "cuda", 8, 2, bases, Work(7200, 9e5, 1e5), damaged=("costs/x.json",), trains=2, scores=40, judges=7
    )
    steps, *texts = format_estimate(forecast, 3.0)
    assert steps == "2 detectors are trained, 40 images scored over all units, and 7 units only judged anew"
    assert texts[0] == (
        "10 units to do, 8 tasks at once on 2 nodes (cuda): about 2.0 h (27.8 GPU-hours, 250 CPU-hours), money 83.33"
    )
    assert texts[1].startswith("7 of them estimated from recorded units")
    assert texts[2] == "assumed: 2 units from other input sizes or settings of the same model, by their pixels"
    assert texts[3].startswith("assumed: 1 units of a model without any record")
    assert texts[4].startswith("costs/x.json is damaged")
    _, nothing = format_estimate(Forecast(10, "cuda", 8, 2, {"nothing": 10}), None)
    assert "no prediction" in nothing
    assert format_estimate(Forecast(0, "cpu", 2, 1), None) == ["nothing is left to do"]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (59.6, 119, 150, 7300)] == ["60 s", "119 s", "2 min", "2.0 h"]
