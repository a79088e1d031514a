from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.config.experiment import Experiment, InputChoice, ModelChoice, Override, Storage, parse_experiment
from raybench.config.plan import experiment_of, make_plan, plan_of
from raybench.data.corrections import Correction
from raybench.data.labels import correct_labels
from raybench.data.manifest import Change, Manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.detectors import weights
from raybench.detectors.weights.catalog import ASSETS
from raybench.errors import BucketMissing, ExperimentError, StoreDenied, StoreUnreachable
from raybench.runs.run import RunStore
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


def test_faults_of_keys_models_and_lines_are_in_one_message(packed: Store, tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    good = f"name: night\nstore: {packed.uri()}\nlines: [strip]\nmodels: [padim]\n"
    path.write_text(
        good.replace("[strip]", "[7, strp]").replace("[padim]", "[padin, {name: dfm, lable: a}]") + "seed: 1"
    )
    with pytest.raises(ExperimentError) as caught:
        plan_of(str(path))
    said = [
        "row 3: lines.0: `7` is read as a number; as text it is in quotes",
        "row 4: models.1.lable: unknown key; did you mean 'label'?",
        "row 5: seed: unknown key; did you mean 'seeds'?",
        "models: padin: unknown model 'padin'; did you mean 'padim'?",
        f"lines: 'strp' is not packed in {packed.uri('lines')}; did you mean 'strip'?",
    ]
    assert len(caught.value.problems) == len(said)
    for problem, start in zip(caught.value.problems, said, strict=True):
        assert problem.startswith(start)
    path.write_text(good.replace(packed.uri(), "s3://no-such-bucket").replace("padim", "padin") + "seed: 1")
    with pytest.raises(ExperimentError, match=r"3 problems(?s:.*)seeds(?s:.*)padim(?s:.*)does not exist"):
        plan_of(str(path))
    path.write_text(good.replace(packed.uri(), "s3://no-such-bucket").replace("padim", "padin"))
    with pytest.raises(ExperimentError, match=r"2 problems(?s:.*)padim(?s:.*)does not exist"):
        plan_of(str(path))
    path.write_text(good + "storage: {regoin: x}\nweights: [a]\n")  # what depends on these two is not looked at
    with pytest.raises(ExperimentError, match="2 problems"):
        plan_of(str(path))
    faults = "preset: gpu\noverrides: {strip: {models: [bogus]}, strp: {seeds: [1]}, other: {seeds: [x]}}\n"
    path.write_text(good.replace("[padim]", "[padim, padim, padin]") + faults)
    with pytest.raises(ExperimentError) as caught:
        plan_of(str(path))
    said = [
        "row 4: models: padim is duplicated",
        "row 5: preset: must be 'paper' or 'cpu'",
        "row 6: overrides.other.seeds.0: must be a whole number",
        "models: padin: unknown model 'padin'; did you mean 'padim'?",
        "models: bogus: unknown model 'bogus'",
        "overrides: 'strp' fits no line of the experiment; did you mean 'strip'?",
    ]
    for start in said:
        assert [problem for problem in caught.value.problems if problem.startswith(start)], start
    assert len(caught.value.problems) == len(said)


@pytest.mark.usefixtures("short_pauses")
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
    RunStore(packed, "night").freeze(experiment.to_yaml(), experiment.digest)
    assert experiment_of(packed.uri("runs/night")) == experiment
    with pytest.raises(ExperimentError, match="no such file"):
        experiment_of(str(tmp_path / "none.yaml"))


def test_a_run_in_a_copied_store_is_that_of_the_copy(experiment: Experiment, tmp_path: Path) -> None:
    copy = open_store(str(tmp_path / "copy"))
    RunStore(copy, "night").freeze(experiment.to_yaml(), experiment.digest)
    assert experiment_of(copy.uri("runs/night")) == experiment.model_copy(update={"store": copy.uri()})


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


PutLine = Callable[[Store, str], Manifest]


def test_a_model_whose_weights_are_missing_names_the_remedy(experiment: Experiment, tmp_path: Path) -> None:
    bad = experiment.model_copy(update={"models": (ModelChoice(name="anomaly_dino"),), "weights": str(tmp_path)})
    with pytest.raises(
        ExperimentError, match=r"add them: .*weights add dinov2_vits14.*weights mirror dinov2_vits14 --to"
    ):
        make_plan(bad)


def test_what_the_weights_store_decides_is_written_into_the_plan(
    plant: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are added later change no run that is under way, and files that are not there any more are missed."""
    plain = ModelChoice(name="efficient_ad")
    plant = plant.model_copy(
        update={"models": (plain, ModelChoice(name="padim")), "overrides": {"*": Override(models=(plain,))}}
    )
    before = make_plan(plant)
    assert before.experiment.models[0].config == {"teacher": "efficientnet-lite0", "not_ok": "line"}
    assert before.experiment.overrides["*"].models == (plain,)  # a label of the experiment
    monkeypatch.setitem(ASSETS, "pdn-official", replace(ASSETS["pdn-official"], sha256=""))
    store = open_store(str(tmp_path / "weights"))
    store.create()
    weights.add(store, "pdn-official", b"teacher")
    with_store = {"weights": str(tmp_path / "weights")}
    again = make_plan(before.experiment.model_copy(update=with_store))
    assert [unit.unit_id for unit in again.units] == [unit.unit_id for unit in before.units]
    new = make_plan(plant.model_copy(update=with_store))
    assert new.experiment.models[0].config == {"teacher": "pdn-official", "not_ok": "line"}
    assert {unit.config["teacher"] for unit in new.units} == {"pdn-official"}
    with pytest.raises(ExperimentError, match="pdn-official"):
        make_plan(new.experiment.model_copy(update={"weights": None}))


def test_the_experiment_of_a_plan_can_be_read_again(plant: Experiment) -> None:
    """An override that repeats a model in full is filled as the model is: they are still one model."""
    model = ModelChoice(name="efficient_ad", config={"remembered": 8})
    overrides = {"*": Override(models=(model, ModelChoice(name="padim")))}
    plan = make_plan(plant.model_copy(update={"models": (model, ModelChoice(name="padim")), "overrides": overrides}))
    assert parse_experiment(plan.experiment.to_yaml()) == plan.experiment


def test_a_plan_as_a_table(plant: Experiment) -> None:
    plan = make_plan(plant)
    frame = plan.to_frame()
    assert frame.columns.tolist() == [
        "unit_id", "detector", "input_mode", "input_height", "input_width", "train_ok", "scored",
    ]  # fmt: skip
    assert frame.index.names == ["line", "model", "seed"]
    assert frame["unit_id"].tolist() == [unit.unit_id for unit in plan.units]
    first = plan.units[0]
    assert list(frame.to_dict("records")[0].values()) == [
        first.unit_id, "fake", "native", first.input.height, first.input.width, 10, 10,
    ]  # fmt: skip
    assert frame.index.get_level_values("line").value_counts().to_dict() == {"bottle": 4, "pcb-1": 4, "pcb-2": 4}


@pytest.fixture
def plant(tmp_path: Path, put_line: PutLine) -> Experiment:
    """Two models on three packed lines, in a folder."""
    for name in ("bottle", "pcb-1", "pcb-2"):
        put_line(open_store(str(tmp_path / "plant")).sub("lines"), name)
    models = (ModelChoice(name="fake"), ModelChoice(name="padim", label="large", config={"n_features": 40}))
    return Experiment(name="night", store=str(tmp_path / "plant"), lines=("*",), models=models, train_budget_s=60.0)


def ids(experiment: Experiment) -> dict[tuple[str, str, int], str]:
    return {(unit.line, unit.model, unit.seed): unit.unit_id for unit in make_plan(experiment).units}


def test_unit_ids_without_overrides_are_what_they_were(plant: Experiment, tmp_path: Path, put_line: PutLine) -> None:
    """Pinned with ID_VERSION 11: a long run goes on with what it has done."""
    put_line(open_store(plant.store).sub("lines"), "strip")
    small = InputChoice(pixels=64 * 64)
    found = ids(plant.model_copy(update={"lines": ("strip",), "seeds": (0, 1), "input": small}))
    assert {place: unit_id for place, unit_id in found.items() if "large" in place[1]} == {
        ("strip", "large", 0): "091d0674e4ce2171fc7a",
        ("strip", "large", 1): "aabf077ebe8e0ff1d72f",
        ("strip", "large (squashed)", 0): "6a438c45c652abb20237",
    }


def test_overrides_make_other_units_of_their_lines_only(plant: Experiment) -> None:
    override = Override.model_validate(
        {"models": ["large", "dfm"], "seeds": [3], "false_alarm_budget": 0.01, "squashed_twins": False}
    )
    before, after = ids(plant), ids(plant.model_copy(update={"overrides": {"pcb-*": override}}))
    assert list(after) == [
        ("bottle", "fake", 0),
        ("bottle", "large", 0),
        ("pcb-1", "large", 3),
        ("pcb-2", "large", 3),
        ("pcb-1", "dfm", 3),
        ("pcb-2", "dfm", 3),
        ("bottle", "fake (squashed)", 0),
        ("bottle", "large (squashed)", 0),
    ]
    assert all(after[place] == before[place] for place in after if place[0] == "bottle")
    as_before = plant.model_copy(update={"overrides": {"pcb-1": Override(train_budget_s=60.0)}})
    assert ids(as_before) == before  # the same numbers, the same identity
    longer = plant.model_copy(update={"overrides": {"pcb-1": Override(train_budget_s=61.0)}})
    changed = {place for place, unit_id in ids(longer).items() if before[place] != unit_id}
    assert {line for line, _, _ in changed} == {"pcb-1"}
    assert len(changed) == 4


def test_overrides_that_change_nothing_are_listed_with_all_other_faults(plant: Experiment) -> None:
    overrides = {
        "pbc-*": Override(seeds=(1,)),
        "pcb-1": Override(seeds=(1,)),
        "bottle": Override(models=(ModelChoice(name="patchcor"),)),
        "pcb-*": Override(seeds=(2,)),
        "*": Override(),
    }
    with pytest.raises(ExperimentError) as caught:
        make_plan(plant.model_copy(update={"lines": ("bottle", "pcb-1", "can"), "overrides": overrides}))
    said = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for part in (
        "models: patchcor: unknown",
        "lines: 'can' is not packed",
        "overrides: 'pbc-*' fits no line of the experiment; did you mean 'pcb-1'?",
        "overrides: 'pcb-1' changes nothing",
        "overrides: '*' changes nothing",
    ):
        assert part in said


def test_a_race_needs_further_seeds_on_some_line(plant: Experiment) -> None:
    racing = plant.model_copy(update={"race": 0.01, "seeds": (0,), "overrides": {"pcb-*": Override(seeds=(0, 1))}})
    assert {unit.seed for unit in make_plan(racing).units} == {0, 1}
    with pytest.raises(ExperimentError, match="race: no model has a further seed"):
        make_plan(racing.model_copy(update={"overrides": {}}))


def test_lines_of_several_stores(plant: Experiment, tmp_path: Path, put_line: PutLine) -> None:
    other = open_store(str(tmp_path / "other"))
    put_line(other, "can")
    own = open_store(plant.store)
    mixed = plant.model_copy(update={"lines": (f"{other.uri()}/c*", "pcb-1", f"{own.uri('lines')}/bottle")})
    plan = make_plan(mixed)
    assert list(plan.manifests) == ["can", "pcb-1", "bottle"]
    assert {line: plan.lines_of(line).uri() for line in plan.manifests} == {
        "can": other.uri(),
        "pcb-1": own.uri("lines"),
        "bottle": own.uri("lines"),
    }
    assert list(plan.elsewhere) == ["can"]
    patient = plan.with_retry_timeout(7.0)
    assert [patient.lines_of(line).config.patience_s for line in plan.manifests] == [7.0] * 3


def test_a_line_in_an_earlier_state(plant: Experiment, strips: Path) -> None:
    lines = open_store(plant.store).sub("lines")
    packed = pack(open_store(str(strips)), lines, "strip")
    before = ids(plant.model_copy(update={"lines": ("strip",)}))
    image = next(row for row in read_rows(lines, packed.scored_shards[0], images=False) if row.label == "ok")
    bad = Correction(image.image_id, image.sha256, "unknown", "", None, "mia", "", "a.csv")
    correct_labels(lines, packed, [bad], Change("2026-11-28", "mia", "a bad picture", packed.digest))
    assert ids(plant.model_copy(update={"lines": ("strip",)})).keys() == before.keys()
    assert ids(plant.model_copy(update={"lines": ("strip",)})) != before
    named = f"strip@{packed.digest[:6]}"
    plan = make_plan(plant.model_copy(update={"lines": (named,)}))
    assert ids(plan.experiment) == before
    assert plan.entry_of("strip") == named
    assert not plan.line("strip").writable
    with pytest.raises(ExperimentError) as both:
        make_plan(plant.model_copy(update={"lines": ("s*", "strip@00000000")}))
    assert "asked for more than once" in str(both.value)
    assert "no such states" in str(both.value)
    for wrong in ("strip@", "strip@xyzw", "str*@00000000", "strip@000"):
        with pytest.raises(ExperimentError, match="hexadecimal digits"):
            Experiment.model_validate(plant.model_dump() | {"lines": (wrong,)})


def test_where_a_line_lies_is_no_part_of_its_units(plant: Experiment, tmp_path: Path, put_line: PutLine) -> None:
    other = open_store(str(tmp_path / "other"))
    put_line(other, "bottle")
    moved = plant.model_copy(update={"lines": (f"{other.uri()}/bottle",)})
    here = plant.model_copy(update={"lines": ("bottle",)})
    assert ids(moved) == ids(here)
    assert moved.digest != here.digest
    with pytest.raises(ExperimentError, match=r"'bottle' is packed in .*plant/lines and in .*other;"):
        make_plan(plant.model_copy(update={"lines": ("*", f"{other.uri()}/bottle")}))
