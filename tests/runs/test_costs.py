"""What units have cost, kept in few objects, and what that says of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raybench.config.unit import Protocol, Unit
from raybench.data.geometry import Input
from raybench.data.manifest import Manifest, ShardInfo
from raybench.runs.cost_model import CostEstimate, CostModel, Forecast, read_forecast, write_forecast
from raybench.runs.costs import CostRow, Costs, merge_rows, read_costs, row_of, write_costs
from raybench.runs.ledger import Ledger
from raybench.runs.records import Phase, ResourceUsage, UnitResult
from raybench.runs.run import RunStore
from raybench.store import open_store
from tests.support.results import UNIT, made_unit

PIXELS = 64 * 64


def unit(detector: str = "padim", seed: int = 0, side: int = 64, **config: object) -> Unit:
    return Unit(
        "a", "digest", "training", detector, detector, config, {}, Input("native", side, side, side, side), seed
    )


def manifest(train: int, test: int) -> Manifest:
    shards = (ShardInfo("a/test-00000.parquet", "test", test, 100, "t", 8, ""),)
    counts = {"train/ok": train, "test/ok": test}
    return Manifest("a", 2, "mvtec", counts, 0, 64, 64, 64, 64, 64, 64, 255, shards, ())


def took(seconds: float, images: int, cpus: int = 2, device: str = "cpu") -> ResourceUsage:
    return ResourceUsage(seconds, images, seconds * cpus, 0.0, device)


def rows(one: Unit, train: tuple[float, int], score: tuple[float, int], cpus: int = 2) -> list[CostRow]:
    found: dict[Phase, ResourceUsage] = {
        "train": took(*train, cpus),
        "score": took(*score, cpus),
        "measure": took(4.0, 16, 8),
    }
    return [row_of(one, phase, spent) for phase, spent in found.items()]


def estimate(costs: Costs, one: Unit, train: int, test: int) -> CostEstimate:
    return CostModel(costs, "cpu").estimate(one, manifest(train, test))


def result(one: Unit, *, seconds: float) -> UnitResult:
    return made_unit(
        one.unit_id,
        one.line,
        one.model,
        one.seed,
        trained=replace(UNIT.trained, spent=took(seconds, 100)),
        judged=replace(UNIT.judged, spent=took(1.0, 50)),
        measured=replace(UNIT.measured, spent=took(4.0, 16, 8)),
    )


def test_what_is_alike_is_one_row() -> None:
    found = merge_rows(row for seed, s in enumerate((10.0, 30.0)) for row in rows(unit(seed=seed), (s, 100), (1.0, 50)))
    assert [(row.phase, row.units, row.seconds, row.cpus) for row in found] == [
        ("measure", 2, 4.0, 8),
        ("score", 2, 1.0, 2),
        ("train", 2, 20.0, 2),
    ]
    assert len(merge_rows([*found, *rows(unit(n_features=7), (1.0, 100), (1.0, 50))])) == 6


def test_the_sum_of_shards() -> None:
    first, second = (
        ResourceUsage(1.0, 4, 2.0, 0.5, "cuda", 100.0, 9e4),
        ResourceUsage(3.0, 6, 6.0, 3.0, "cuda", 80.0, 8e4),
    )
    assert first.plus(second) == ResourceUsage(4.0, 10, 8.0, 3.5, "cuda", 100.0, 8e4)
    assert took(1.0, 1).plus(took(1.0, 1)).peak_memory_mb is None


def test_recorded_units_alike() -> None:
    costs = Costs(others=merge_rows(rows(unit(), (20.0, 100), (5.0, 50))))
    found = estimate(costs, unit(seed=9), 100, 50)
    assert found == CostEstimate({"train": 20.0, "score": 5.0, "measure": 4.0}, "recorded", False)
    assert found.work_s == 25.0


def test_more_images_take_longer_in_proportion_or_along_a_line() -> None:
    once = Costs(others=merge_rows(rows(unit(), (20.0, 100), (5.0, 50))))
    assert estimate(once, unit(), 300, 100).seconds == pytest.approx({"train": 60.0, "score": 10.0, "measure": 4.0})
    both = merge_rows([*rows(unit(), (20.0, 100), (5.0, 50)), *rows(unit(), (30.0, 200), (7.0, 100))])
    assert estimate(Costs(others=both), unit(), 300, 150).seconds == pytest.approx(
        {"train": 40.0, "score": 9.0, "measure": 4.0}
    )


def test_no_prediction_is_negative_or_falls_with_the_images() -> None:
    falling = merge_rows([*rows(unit(), (30.0, 100), (5.0, 50)), *rows(unit(), (20.0, 200), (1.0, 100))])
    assert estimate(Costs(others=falling), unit(), 1000, 500).seconds["train"] == pytest.approx(25.0)
    steep = merge_rows([*rows(unit(), (1.0, 100), (1.0, 50)), *rows(unit(), (30.0, 200), (9.0, 100))])
    assert 0 < estimate(Costs(others=steep), unit(), 10, 5).seconds["train"] < 1.5


def test_a_number_of_steps_is_the_same_on_any_number_of_images() -> None:
    costs = Costs(others=merge_rows(rows(unit("stfpm", steps=100), (60.0, 100), (5.0, 50))))
    found = estimate(costs, unit("stfpm", steps=100), 900, 50)
    assert found.basis == "recorded"
    assert found.seconds["train"] == pytest.approx(60.0)


def test_the_closest_match_counts() -> None:
    known = unit(n_features=64)
    costs = Costs(others=merge_rows(rows(known, (20.0, 100), (5.0, 50))))
    assert estimate(costs, known, 100, 50).basis == "recorded"
    larger = estimate(costs, unit(n_features=64, side=128), 100, 50)
    assert larger.basis == "same model"
    assert larger.seconds["train"] == pytest.approx(80.0)
    assert estimate(costs, unit(n_features=100), 100, 50).basis == "same model"
    budget = replace(known, protocol=Protocol(train_budget_s=5.0))
    assert estimate(costs, budget, 100, 50).basis == "same model"
    unknown = estimate(costs, unit("dfm"), 100, 50)
    assert unknown.known
    assert unknown.basis == "average"
    assert unknown.seconds["train"] == pytest.approx(20.0)


def test_the_same_size_and_settings_come_before_the_rest_of_the_model() -> None:
    others = merge_rows([*rows(unit(), (20.0, 100), (5.0, 50)), *rows(unit(side=128), (200.0, 100), (50.0, 50))])
    assert estimate(Costs(others=others), unit(), 100, 50).seconds["train"] == pytest.approx(20.0)
    own = merge_rows(rows(unit(side=128), (400.0, 100), (50.0, 50)))
    found = estimate(Costs(own, others), unit(), 100, 50)  # a closer match of another run comes before the run's own
    assert found.seconds["train"] == pytest.approx(20.0)
    assert (found.basis, found.own) == ("recorded", False)


def test_many_units_weigh_more_than_few() -> None:
    one, two = rows(unit(), (10.0, 100), (1.0, 50)), rows(unit("dfm"), (40.0, 100), (1.0, 50))
    others = (*one, *(replace(row, units=2) for row in two))
    assert estimate(Costs(others=others), unit("patchcore"), 100, 50).seconds["train"] == pytest.approx(30.0)


def test_a_forecast_of_an_older_raybench_is_read(tmp_path: Path) -> None:
    run = RunStore(open_store(str(tmp_path)), "night")
    write_forecast(run, Forecast(3, "cpu", 2, 1, {"other CPUs": 2, "other settings": 1}))
    forecast = read_forecast(run)
    assert forecast is not None
    assert forecast.bases == {"other CPUs": 2, "other settings": 1}


def test_own_units_come_before_others_and_another_device_tells_nothing() -> None:
    own, others = merge_rows(rows(unit(), (10.0, 100), (5.0, 50))), merge_rows(rows(unit(), (90.0, 100), (5.0, 50)))
    found = estimate(Costs(own, others), unit(seed=4), 100, 50)
    assert (found.seconds["train"], found.own) == (10.0, True)
    gpu = CostModel(Costs(own, others), "cuda").estimate(unit(), manifest(100, 50))
    assert gpu == CostEstimate()
    assert not gpu.known
    assert estimate(Costs(), unit(), 100, 50) == CostEstimate()


def test_one_object_per_run_and_nothing_else_is_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    units = [unit(seed=seed) for seed in range(3)]
    before = RunStore(store, "before")
    write_costs(before, [(one, result(one, seconds=10.0 * (one.seed + 1))) for one in units])
    assert [item.key for item in store.list()] == ["costs/before.json"]
    new = RunStore(store, "new")
    found = read_costs(new, Ledger(new, {}), units)
    assert found.own == ()
    train = next(row for row in found.others if row.phase == "train")
    assert (train.units, train.seconds, train.images, train.cpus) == (3, 20.0, 100, 2)
    assert read_costs(before, Ledger(before, {}), units).others == ()


def test_no_units_write_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_costs(RunStore(store, "old"), [])
    assert list(store.list()) == []


def test_a_damaged_object_is_named_and_left_out(tmp_path: Path) -> None:
    store, new = open_store(str(tmp_path)), RunStore(open_store(str(tmp_path)), "new")
    write_costs(RunStore(store, "good"), [(unit(), result(unit(), seconds=1.0))])
    store.put("costs/bad.json", b'{"own": [{"detector": 1}]}')
    store.put("costs/worse.json", b"\xff")
    found = read_costs(new, Ledger(new, {}), [])
    assert found.damaged == ("costs/bad.json", "costs/worse.json")
    assert len(found.others) == 3
