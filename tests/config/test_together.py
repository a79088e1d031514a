from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from raybench.config.experiment import Experiment, InputChoice, ModelChoice, Override, Together, parse_experiment
from raybench.config.plan import Plan, make_plan, plan_of, planned_units
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, write_manifest
from raybench.errors import ExperimentError
from raybench.store import Store, open_store

PutLine = Callable[[Store, str], Manifest]


@pytest.fixture
def experiment(tmp_path_factory: pytest.TempPathFactory, put_line: PutLine) -> Experiment:
    """Three lines of 200×320 px with 10 OK images each; two of them share a detector."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    for name in ("cap", "solar-1", "solar-2"):
        put_line(store.sub("lines"), name)
    return Experiment(
        name="night",
        store=store.uri(),
        lines=("*",),
        models=(ModelChoice(name="padim"), ModelChoice(name="dfm")),
        squashed_twins=False,
        together={"solar": Together(lines=("solar-*",), models=("padim",))},
    )


def planned(experiment: Experiment, **changes: object) -> Plan:
    return make_plan(experiment.model_copy(update=changes))


def shared(plan: Plan) -> list[Unit]:
    return [unit for unit in plan.units if unit.together]


def problems(experiment: Experiment, **changes: object) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        planned(experiment, **changes)
    return list(caught.value.problems)


def change(experiment: Experiment, line: str, **fields: object) -> None:
    """Write a line's manifest anew, with other fields."""
    plan = planned(experiment, together={})
    write_manifest(plan.store.sub("lines"), replace(plan.manifests[line], **fields))  # type: ignore[arg-type]


def test_each_line_of_a_group_has_one_more_row(experiment: Experiment) -> None:
    plan = planned(experiment)
    assert [(unit.line, unit.model) for unit in plan.units] == [
        *((line, model) for model in ("padim", "dfm") for line in ("cap", "solar-1", "solar-2")),
        ("solar-1", "padim@solar"),
        ("solar-2", "padim@solar"),
    ]
    assert plan.compared == plan.units
    first, second = shared(plan)
    assert [each.line for each in first.together] == ["solar-1", "solar-2"]
    assert first.together == second.together
    found = {unit.model: (unit.train_ok, unit.together) for unit in planned_units(plan) if unit.line == "solar-1"}
    assert found == {"padim": (10, ()), "dfm": (10, ()), "padim@solar": (20, ("solar-1", "solar-2"))}


def test_the_detector_is_one_and_each_line_has_its_own_thresholds(experiment: Experiment) -> None:
    first, second = shared(planned(experiment, seeds=(0, 1)))[::2]
    assert first.fit_id == second.fit_id
    assert len({first.unit_id, first.detector_id, first.fit_id, second.unit_id, second.detector_id}) == 5
    alone = planned(experiment).units[0]
    assert alone.fit_id == alone.detector_id


def test_other_units_stay_what_they_are(experiment: Experiment) -> None:
    with_group, without = planned(experiment), planned(experiment, together={})
    assert [unit.unit_id for unit in with_group.units[:6]] == [unit.unit_id for unit in without.units]
    assert [unit.detector_id for unit in with_group.units[:6]] == [unit.detector_id for unit in without.units]
    assert experiment.digest != experiment.model_copy(update={"together": {}}).digest


def test_images_that_are_added_to_one_line_train_the_group_again(experiment: Experiment) -> None:
    before = planned(experiment)
    change(experiment, "solar-2", white_level=1023)  # the training digest depends on it, as on the images
    after = planned(experiment)
    for one, other in zip(shared(before), shared(after), strict=True):
        assert one.fit_id != other.fit_id
        assert one.detector_id != other.detector_id
        assert one.unit_id != other.unit_id
    ids = [
        [unit.unit_id for unit in plan.units if unit.line == "solar-1" and not unit.together]
        for plan in (before, after)
    ]
    assert ids[0] == ids[1]


def test_new_test_images_of_a_line_train_nothing(experiment: Experiment) -> None:
    before = shared(planned(experiment))
    shards = planned(experiment).manifests["solar-2"].shards
    change(
        experiment,
        "solar-2",
        shards=tuple(replace(each, sha256="f" * 64) if each.split == "test" else each for each in shards),
    )
    after = shared(planned(experiment))
    assert [unit.detector_id for unit in before] == [unit.detector_id for unit in after]
    assert before[0].unit_id == after[0].unit_id
    assert before[1].unit_id != after[1].unit_id


def test_how_each_line_is_split_is_part_of_the_identity(experiment: Experiment) -> None:
    less = {"solar-2": Override(held_out=0.4)}
    before, after = shared(planned(experiment)), shared(planned(experiment, overrides=less))
    assert before[0].fit_id != after[0].fit_id
    assert asdict(after[0].together[1])["protocol"]["held_out"] == 0.4


def test_the_label_names_the_model_with_its_settings(experiment: Experiment) -> None:
    small = ModelChoice(name="padim", label="small", config={"n_features": 50})
    group = Together(lines=("cap", "solar-1"), models=("small",))
    (first, second) = shared(planned(experiment, models=(*experiment.models, small), together={"all": group}))
    assert (first.model, first.detector, first.config["n_features"]) == ("small@all", "padim", 50)
    assert (first.line, second.line) == ("cap", "solar-1")


def test_lines_of_other_sizes_are_refused_with_the_remedy(experiment: Experiment) -> None:
    change(experiment, "solar-2", median_height=320)
    (problem,) = problems(experiment)
    assert problem == (
        "together: solar: padim: its lines have different inputs, and one detector has one: solar-1 192×320 native "
        "(images 200×320), solar-2 256×256 native (images 320×320); `input: {fit: squash}` or `{fit: letterbox}` "
        "makes them alike"
    )
    for fit in ("squash", "letterbox"):
        assert len(shared(planned(experiment, input=InputChoice.model_validate({"fit": fit})))) == 2


def test_one_detector_has_one_seed_and_one_budget(experiment: Experiment) -> None:
    overrides = {"solar-2": Override(seeds=(0, 1), train_budget_s=60)}
    assert problems(experiment, overrides=overrides) == [
        "together: solar: padim: its lines have different seeds by their overrides, and one detector has one: "
        "solar-1 [0], solar-2 [0, 1]",
        "together: solar: padim: its lines have different train_budget_s by their overrides, and one detector has one: "
        "solar-1 None, solar-2 60.0",
    ]


def test_groups_without_lines_are_named_together(experiment: Experiment) -> None:
    groups = {
        "solar": Together(lines=("sola-*", "solar-1"), models=("padim",)),
        "caps": Together(lines=("cap*",), models=("dfm",)),
    }
    assert problems(experiment, together=groups) == [
        "together: solar: 'sola-*' fits no line of the experiment; did you mean 'solar-2'?",
        "together: solar: only solar-1 matches; what is trained together are two lines at least",
        "together: caps: only cap matches; what is trained together are two lines at least",
    ]


def test_faults_of_the_keys_have_their_row(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> None:
    good = f"name: night\nstore: {experiment.store}\nlines: ['*']\nmodels: [padim]\n"
    faults = {
        "together: {solar: {lines: ['solar-*'], models: [padin]}}": (
            "row 5: together: solar: 'padin' is no label of a model; did you mean 'padim'?"
        ),
        "together: {'so lar': {lines: ['solar-*'], models: [padim]}}": "row 5: together: 'so lar' is no name: letters",
        "together: {solar: {lines: [], models: [padim]}}": "row 5: together.solar.lines: ",
        "together: {solar: {line: [a], models: [padim]}}": "row 5: together.solar.line: unknown key; did you",
        "together: {solar: {lines: [a, a], models: [padim]}}": "row 5: together.solar.lines: a is duplicated",
    }
    for text, start in faults.items():
        with pytest.raises(ExperimentError) as caught:
            parse_experiment(good + text)
        assert [problem for problem in caught.value.problems if problem.startswith(start)], caught.value.problems
    path = tmp_path_factory.mktemp("file") / "night.yaml"
    path.write_text(
        good.replace("padim]", "padim, padin]") + "seed: 1\ntogether: {solar: {lines: [x], models: [padin]}}"
    )
    with pytest.raises(ExperimentError) as caught:
        plan_of(str(path))
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "row 5: seed: unknown key",
        "models: padin: unknown model 'padin'",
        "together: solar: 'x' fits no line of the experiment",
    ]
