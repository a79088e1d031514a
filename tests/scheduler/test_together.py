from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raybench.config.experiment import Experiment, ModelChoice, Together
from raybench.config.plan import Plan, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.report.console import RunSummary
from raybench.runs.ledger import Ledger
from raybench.runs.run import RunStore
from raybench.scheduler.capacity import assumed_nodes
from raybench.scheduler.estimate import estimate_plan
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from tests.support.finished import FinishedRun

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]
GROUP = {"both": Together(lines=("*",), models=("fake",))}


@pytest.fixture
def plan_with(experiment: Experiment, packed: Store, strips: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Plans a run on two lines; the detector counts its trainings in the folder `fits`."""
    pack(open_store(str(strips)), packed.sub("lines"), "other", PackOptions(shard_rows=6))
    (tmp_path / "fits").mkdir()
    fake = ModelChoice(name="fake", config={"count_fits_in": str(tmp_path / "fits")})

    def plan(*models: ModelChoice, **changes: object) -> Plan:
        settings = {"lines": ("*",), "models": models or (fake,), "together": GROUP, "inspect": False}
        return make_plan(experiment.model_copy(update=settings | changes))

    return plan


@pytest.fixture(scope="module")
def finished_once(
    finished_once: FinishedRun, packed_once: Store, strips: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    """What `finished` shares: a run of one detector on two lines and on both together, which counts in `fits`."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "fits").mkdir()
    store = open_store(str(folder / "store"))
    for line, rows in (("strip", 4), ("other", 6)):
        pack(open_store(str(strips)), store.sub("lines"), line, PackOptions(shard_rows=rows))
    fake = ModelChoice(name="fake", config={"count_fits_in": str(folder / "fits")})
    changes = {"store": store.uri(), "lines": ("*",), "models": (fake,), "together": GROUP}
    experiment = finished_once.experiment.model_copy(update=changes)
    return FinishedRun(experiment, store, run_plan(make_plan(experiment)))


def folder_of(finished: FinishedRun) -> Path:
    """The folder of the shared run's `fits`."""
    return Path(str(finished.experiment.models[0].config["count_fits_in"])).parent


def fits(folder: Path) -> int:
    return len(list((folder / "fits").iterdir()))


def failed(summary: RunSummary, plan: Plan) -> dict[tuple[str, str], str]:
    names = {unit.unit_id: (unit.line, unit.model) for unit in plan.units}
    return {names[unit_id]: failure.phase for unit_id, failure in summary.failed.items()}


def test_a_group_is_trained_once_and_judged_per_line(finished: FinishedRun, plan_with: Callable[..., Plan]) -> None:
    plan, summary, folder = make_plan(finished.experiment), finished.summary, folder_of(finished)
    nodes = assumed_nodes(plan.experiment.resources, 1, 2, 0)
    assert estimate_plan(plan_with(), nodes).trains == 3
    assert (summary.units, summary.failed) == (4, {})
    assert fits(folder) == 3  # one for each line, one for both
    rows = {(row.line, row.model): row.finished for row in summary.board.rows}
    assert set(rows) == {(line, model) for line in ("other", "strip") for model in ("fake", "fake@both")}
    together = {line: found.trained for (line, model), found in rows.items() if found and model == "fake@both"}
    assert [record.together for record in together.values()] == [("other", "strip")] * 2
    assert together["other"].train_ok == together["strip"].train_ok > 24
    for verdict in summary.board.verdicts:
        assert "fake@both" in verdict.grades
    report = plan.store.get("runs/night/report/index.html").decode()
    assert "fake@both: one detector, trained on the OK images of other, strip together" in report
    assert run_plan(plan).reused == 4
    again = estimate_plan(plan, nodes)
    assert (again.units, fits(folder)) == (0, 3)


def test_a_line_whose_images_are_damaged_fails_alone_and_the_rest_resumes(
    plan_with: Callable[..., Plan], packed: Store, tmp_path: Path
) -> None:
    plan = plan_with()
    shard = plan.manifests["other"].scored_shards[0]
    key = f"lines/{shard.key}"
    whole = packed.get(key)
    packed.put(key, whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    summary = run_plan(plan)
    assert set(failed(summary, plan)) == {("other", "fake"), ("other", "fake@both")}
    assert fits(tmp_path) == 3
    packed.put(key, whole)
    again = run_plan(plan)
    assert (again.failed, again.reused) == ({}, 2)
    assert fits(tmp_path) == 3


def test_a_detector_that_cannot_be_trained_is_a_row_of_each_line(plan_with: Callable[..., Plan]) -> None:
    broken = ModelChoice(name="fake", label="broken", config={"fail_in": "fit"})
    plan = plan_with(broken, ModelChoice(name="fake"), together={"both": Together(lines=("*",), models=("broken",))})
    summary = run_plan(plan)
    assert failed(summary, plan) == {
        ("other", "broken"): "train",
        ("strip", "broken"): "train",
        ("other", "broken@both"): "fit",
        ("strip", "broken@both"): "fit",
    }
    rows = {(row.line, row.model): row for row in summary.board.rows}
    assert [failure.phase for failure in rows["strip", "broken@both"].failures] == ["fit"]
    assert all(row.finished for (_, model), row in rows.items() if model == "fake")


def test_a_fitted_group_goes_on_where_it_stopped(finished: FinishedRun) -> None:
    """Only the thresholds of one line are lost, with what rests on them."""
    plan, store = make_plan(finished.experiment), finished.store
    run = RunStore.of(plan)
    unit = next(unit for unit in plan.units if unit.together and unit.line == "strip")
    for owner in (unit.unit_id, unit.detector_id):
        for item in store.list(run.key(owner, "")):
            store.delete(item.key)
    Ledger.read(run).forget({unit.unit_id})
    store.delete(f"{run.root}/ledger/report.json")
    again = run_plan(plan)
    assert (again.failed, again.reused, fits(folder_of(finished))) == ({}, 3, 3)
