from __future__ import annotations

from pathlib import Path

import pytest

from raybench.errors import BucketMissing, ExperimentError, StoreDenied, StoreUnreachable
from raybench.experiment import Experiment, InputChoice, ModelChoice, Storage
from raybench.lines.pack import pack
from raybench.plan import experiment_of, make_plan
from raybench.runs import Run
from raybench.store import Store, open_store


def test_every_line_model_and_seed_once(experiment: Experiment, packed: Store, strips: Path) -> None:
    pack(open_store(str(strips)), packed.sub("lines"), "strip-2")
    models = (ModelChoice(name="fake"), ModelChoice(name="padim"))
    plan = make_plan(experiment.model_copy(update={"lines": ("strip*",), "models": models, "seeds": (0, 1)}))
    found = [(unit.model, unit.line, unit.seed) for unit in plan.units]
    assert found == [(m, line, s) for m in ("fake", "padim") for line in ("strip", "strip-2") for s in (0, 1)]
    assert len({unit.unit_id for unit in plan.units}) == 8
    sizes = {unit.model: (unit.input.height, unit.input.width) for unit in plan.units}
    assert sizes["padim"] == (64, 96)  # 64 is the least side of the model; the aspect is kept


def test_planning_touches_nothing(experiment: Experiment, packed: Store) -> None:
    before = list(packed.list())
    make_plan(experiment)
    assert list(packed.list()) == before


def test_every_problem_of_models_and_lines_at_once(experiment: Experiment, packed: Store, strips: Path) -> None:
    ok = strips / "train" / "good" / "000.png"
    few = strips.parent / "few"
    (few / "train" / "good").mkdir(parents=True, exist_ok=True)
    (few / "train" / "good" / "0.png").write_bytes(ok.read_bytes())
    pack(open_store(str(few)), packed.sub("lines"), "few")
    bad = experiment.model_copy(
        update={
            "lines": ("strp", "few"),
            "models": (ModelChoice(name="patchcor"), ModelChoice(name="padim", config={"n_feature": 3})),
        }
    )
    with pytest.raises(ExperimentError) as caught:
        make_plan(bad, "night.yaml")
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    for part in (
        "did you mean 'patchcore'",
        "did you mean 'n_features'",
        "did you mean 'strip'",
        "few has 1 OK images",
    ):
        assert part in problems
    assert "raybench pack" in problems


def test_stores_that_cannot_be_used(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BucketMissing):
        make_plan(experiment.model_copy(update={"store": "s3://no-such-bucket"}))
    away = Storage(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreUnreachable):
        make_plan(experiment.model_copy(update={"storage": away}))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied):
        make_plan(experiment)


def test_an_experiment_by_file_or_by_its_run(experiment: Experiment, packed: Store, tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text(experiment.to_yaml())
    assert experiment_of(str(path)) == experiment
    Run(packed, "night").freeze(experiment.to_yaml(), experiment.digest)
    assert experiment_of(packed.uri("runs/night")) == experiment
    with pytest.raises(ExperimentError, match="no such file"):
        experiment_of(str(tmp_path / "none.yaml"))


def test_a_line_that_is_not_square_gets_squashed_twins(experiment: Experiment) -> None:
    models = (ModelChoice(name="fake"), ModelChoice(name="fake", label="stretched", input=InputChoice(fit="squash")))
    plan = make_plan(experiment.model_copy(update={"models": models, "seeds": (0, 1), "squashed_twins": True}))
    assert [unit.model for unit in plan.compared] == ["fake", "fake", "stretched", "stretched"]
    (aside,) = [unit for unit in plan.units if unit.unit_id in plan.asides]
    assert (aside.model, aside.seed, aside.input.mode, aside.input.height) == ("fake (squashed)", 0, "squash", 64)
    assert plan.squashed == {plan.units[0].unit_id: aside.unit_id}


def test_a_squashed_model_of_the_experiment_is_its_own_twin_and_stays_on_the_board(experiment: Experiment) -> None:
    squash = InputChoice(fit="squash", pixels=experiment.input.pixels)
    models = (ModelChoice(name="fake"), ModelChoice(name="fake", label="squashed", input=squash))
    plan = make_plan(experiment.model_copy(update={"models": models, "squashed_twins": True}))
    assert len(plan.units) == len(plan.compared) == 2
    assert plan.squashed == {plan.units[0].unit_id: plan.units[1].unit_id}


def test_tiles_are_planned(experiment: Experiment) -> None:
    tiled = make_plan(experiment.model_copy(update={"input": InputChoice(fit="tile", pixels=64 * 64, tiles=4)}))
    found = tiled.units[0].input
    assert (found.mode, found.tile) == ("tile", 64)
    assert found.height * found.width == pytest.approx(4 * 64 * 64, rel=0.1)
    assert found.width / found.height == pytest.approx(320 / 200, rel=0.1)


def test_weights_that_no_store_holds(experiment: Experiment, tmp_path: Path) -> None:
    models = (ModelChoice(name="padim", config={"backbone": "resnet18"}),)
    bad = experiment.model_copy(update={"models": models, "weights": str(tmp_path)})
    with pytest.raises(ExperimentError, match=r"weights 'resnet18' \(resnet18-f37072fd.pth\) are not in .*weights add"):
        make_plan(bad)
