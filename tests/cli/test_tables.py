from __future__ import annotations

from pathlib import Path

import pytest

from raybench.cli.models import GPU, MIRROR, OFFLINE, known_models
from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan, planned_units
from raybench.data.pack import PackOptions, pack
from raybench.detectors import registry
from raybench.runs.ledger import unit_statuses
from raybench.runs.run import scored_name
from raybench.store import open_store


@pytest.fixture
def plan(strips: Path, tmp_path: Path) -> Plan:
    store = open_store(str(tmp_path / "store"))
    pack(open_store(str(strips)), store.sub("lines"), "strip", PackOptions(shard_rows=4))
    models = (ModelChoice(name="fake"), ModelChoice(name="fake", label="other", config={"grid": 4}))
    return make_plan(
        Experiment(
            name="night",
            store=store.uri(),
            lines=("strip",),
            models=models,
            seeds=(0, 1),
            squashed_twins=False,
            input=InputChoice(pixels=64 * 64),
        )
    )


def test_what_is_planned(plan: Plan) -> None:
    found = planned_units(plan)
    assert [(unit.model, unit.seed, unit.train_ok, unit.scored) for unit in found] == [
        ("fake", 0, 24, 12),
        ("fake", 1, 24, 12),
        ("other", 0, 24, 12),
        ("other", 1, 24, 12),
    ]
    assert [unit.unit_id for unit in found] == [unit.unit_id for unit in plan.units]


def test_how_far_it_is(plan: Plan) -> None:
    done, trained, failed, waiting = plan.units
    shards = [scored_name(shard) for shard in plan.manifests["strip"].scored_shards]
    commits = {
        done.unit_id: {"finished"},  # as the ledger tells it
        trained.unit_id: {"train", shards[0]},
        failed.unit_id: {"train", shards[0], "failure"},
    }
    found = unit_statuses(plan, plan.units, commits)
    assert [unit.unit_id for unit in found] == [one.unit_id for one in (done, trained, failed, waiting)]
    assert [(unit.state, unit.scored_shards, unit.shards) for unit in found] == [
        ("done", 3, 3),
        ("trained", 1, 3),
        ("failed", 1, 3),
        ("waiting", 0, 3),
    ]
    assert [unit.text for unit in found] == [
        "done",
        "trained, 1 of 3 shards scored",
        "failed; the same command tries it again",
        "waiting",
    ]
    relabelled = unit_statuses(plan, plan.units, {done.unit_id: {"train", *shards}})[
        0
    ]  # of the detector, not of the unit
    assert relabelled.text == "scored, to be judged"


def test_models_with_the_defaults_of_a_preset() -> None:
    paper, cpu = ({model.name: model for model in known_models(preset)} for preset in ("paper", "cpu"))
    assert paper.keys() == cpu.keys()
    assert paper["draem"].settings != cpu["draem"].settings


def test_models_are_grouped_by_what_they_take() -> None:
    paper, cpu = ({model.name: model.group for model in known_models(preset)} for preset in ("paper", "cpu"))
    assert {name for name, group in cpu.items() if group == OFFLINE} == set(registry.default_names())
    assert GPU not in cpu.values()
    assert (paper["padim"], paper["anomaly_dino"], paper["draem"]) == (OFFLINE, MIRROR, GPU)
