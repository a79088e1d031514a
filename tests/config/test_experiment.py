from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from raybench.config import experiment as module
from raybench.config.draft import parse_draft
from raybench.config.experiment import (
    Experiment,
    InputChoice,
    Limits,
    ModelChoice,
    parse_experiment,
    read_experiment,
    split_line,
)
from raybench.errors import ExperimentError

GOOD = """
name: night
store: s3://bucket/bench
lines: [bottle, "pcb-*"]
models:
  - padim
  - {name: patchcore, label: patchcore-1pct, config: {coreset_ratio: 0.01}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text, "night.yaml")
    return list(caught.value.problems)


def test_short_and_long_forms() -> None:
    found = parse_experiment(GOOD)
    assert [model.shown for model in found.models] == ["padim", "patchcore-1pct"]
    assert found.seeds == (0,)
    assert found.false_alarm_budget == 0.05


def test_every_fault_is_named_at_once_with_its_row() -> None:
    found = problems(GOOD + "seed: [1]\nfalse_alarm_budget: 2\ninput: {fit: stretch}\nresources: {cpu: 1}\n")
    assert sorted(found) == [
        "row 10: input.fit: must be 'native', 'letterbox', 'squash' or 'tile', and is stretch",
        "row 11: resources.cpu: unknown key; did you mean 'cpus'?",
        "row 8: seed: unknown key; did you mean 'seeds'?",
        "row 9: false_alarm_budget: must be less than 0.5, and is 2",
    ]


def test_the_annotation_budget() -> None:
    assert parse_experiment(GOOD).annotation.budget == 50
    chosen = parse_experiment(GOOD + "annotation: {budget: 7}\n")
    assert chosen.annotation.budget == 7
    assert chosen.digest != parse_experiment(GOOD).digest
    assert parse_experiment(GOOD + "annotation: {signals: 0}\n").digest == parse_experiment(GOOD).digest
    assert chosen.digest != parse_experiment(GOOD).digest  # the report says other numbers
    assert problems(GOOD + "annotation: {budget: 0}\n") == ["row 8: annotation.budget: must be at least 1, and is 0"]
    assert problems(GOOD + "annotation: {buget: 9}\n") == [
        "row 8: annotation.buget: unknown key; did you mean 'budget'?"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lines: [007]", 'lines.0: `007` is read as a number, 7; as text it is in quotes: "007"'),
        ("lines: [1.10]", 'lines.0: `1.10` is read as a number, 1.1; as text it is in quotes: "1.10"'),
        ("lines: [12]", 'lines.0: `12` is read as a number; as text it is in quotes: "12"'),
        ("lines: [no]", 'lines.0: `no` is read as a truth value, False; as text it is in quotes: "no"'),
        ("lines: [2026-01-31]", 'lines.0: `2026-01-31` is read as a date; as text it is in quotes: "2026-01-31"'),
        ("lines: [~]", 'lines.0: `~` is read as nothing; as text it is in quotes: "~"'),
        ("lines: [[a]]", "lines.0: must be text, and is a list"),
        ("lines: bottle", "lines: must be a list, and is bottle; a list of one is [bottle]"),
        ("lines: [a]\nseeds: 3", "seeds: must be a list, and is 3; a list of one is [3]"),
        ("lines:", "lines: must be a list, and is empty"),
        (
            "lines: [a]\nlimits: {mb: yes}",
            "limits.mb: must be a number, and `yes` is read as a truth value, True; write it in digits",
        ),
        (
            "lines: [a]\nseeds: [0, off]",
            "seeds.1: must be a number, and `off` is read as a truth value, False; write it in digits",
        ),
        ("lines: {a: b}", "lines: must be a list, and is a mapping; write `- ` before each of its members"),
        ("lines: [a]\noverrides: {a: {seeds: 3}}", "overrides.a.seeds: must be a list, and is 3; a list of one is [3]"),
    ],
)
def test_what_yaml_reads_otherwise_is_said_with_how_to_write_it(text: str, said: str) -> None:
    [found] = problems(f"name: x\nstore: y\nmodels: [padim]\n{text}\n")
    assert found.partition(": ")[2] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [1.5]", "seeds.0: must be a whole number, and is 1.5"),
        ("seeds: [two]", "seeds.0: must be a whole number, and is two"),
        ("held_out: a fifth", "held_out: must be a number, and is a fifth"),
        ("held_out: 0", "held_out: must be greater than 0.0, and is 0"),
        ("held_out: .nan", "held_out: must be a finite number, and is .nan"),
        ("held_out: [0.2]", "held_out: must be a number, and is a list"),
        ("held_out:", "held_out: must be a number, and is empty"),
        ("inspect: maybe", "inspect: must be true or false, and is maybe"),
        ("inspect: 7", "inspect: must be true or false, and is 7"),
        ("preset: gpu", "preset: must be 'paper' or 'cpu', and is gpu"),
        ("resources: 3", "resources: must be a mapping, `key: value` for each of its keys, and is 3"),
        ("overrides: [a]", "overrides: must be a mapping, `key: value` for each of its keys, and is a list"),
        ("threshold: {source: held_out}", "threshold.source: unknown key; known: excess, from, promised, recall"),
        (
            "threshold: {recall: 0.9, excess: 1}",
            "threshold: excess and recall move the threshold; give one of them",
        ),
        (
            "overrides: {bottle: {threshold: {from: test_ok, recall: 0.9}}}",
            "overrides.bottle.threshold: recall moves thresholds that held-back images set, not `test_ok`",
        ),
        ("resources: {retries: 101}", "resources.retries: must be at most 100, and is 101"),
    ],
)
def test_a_value_of_another_kind_is_said_with_what_is_wanted(text: str, said: str) -> None:
    assert problems(f"{GOOD}{text}\n") == [f"row 8: {said}"]


def test_what_can_be_read_of_an_experiment_with_faults() -> None:
    draft = parse_draft(Experiment, GOOD.replace("  - padim", "  - 7\n  - padim") + "seed: [1]\nresources: {cpus: 0}\n")
    assert [problem.partition(": ")[0] for problem in draft.problems] == ["row 6", "row 10", "row 9"]
    assert draft.left_out == {"seed", "resources"}
    assert draft.experiment == parse_experiment(GOOD)
    draft = parse_draft(Experiment, "lines: [7]\nmodels: [padim]\noverrides: {a: {models: [large]}}\n")
    assert draft.left_out == {"name", "store", "lines"}
    assert draft.whole_overrides == set()  # the line that is left out may be a
    assert [model.shown for model in draft.experiment.all_models] == ["padim", "large"]


@pytest.mark.parametrize(
    ("models", "overrides", "kept", "whole"),
    [
        ("[padim, padim, dfm]", "{a: {models: [padim]}}", ["padim", "dfm"], {"a"}),
        ("[padim, padim, 7]", "{a: {seeds: [1, 1]}, b: {seeds: [2]}}", ["padim"], {"b"}),
        (
            "[padim, {name: dfm, lable: x}]",
            "{a: {models: [x, dfm, cflow]}, b: {models: [x]}}",
            ["padim", "cflow"],
            set(),
        ),
        ("[padim, padim]", "{a: {seed: 1, models: [dfm, 7]}, 7: {seeds: [1]}}", ["padim", "dfm"], set()),
        ("[padim, padim]", "{a: {~: 1}, b: 3, true: {1: 2}}", ["padim"], set()),
        ("padim", "{a: {models: [x]}, b: {models: []}, c: {held_out: 0.1}}", ["padim", "x"], {"a", "c"}),
        ("[padim, padim]", "{a: {models: [{name: dfm, label: padim}]}, b: {}}", ["padim"], set()),
        ("[{label: x}, {name: dfm}]", "[]", ["dfm"], set()),
    ],
)
def test_one_fault_hides_no_other(models: str, overrides: str, kept: list[str], whole: set[str]) -> None:
    draft = parse_draft(
        Experiment, f"name: x\nstore: y\nlines: [a, a, b]\nmodels: {models}\noverrides: {overrides}\n~: 1\n"
    )
    assert [model.shown for model in draft.experiment.all_models] == kept
    assert draft.experiment.lines == ("a", "b")
    assert draft.whole_overrides == whole
    said = "\n".join(draft.problems)
    assert "row 3: lines: a is duplicated" in said
    assert ("padim is duplicated" in said) is (models.count("padim") == 2)
    assert len(set(draft.problems)) == len(draft.problems)


def test_what_python_gives_instead_of_text_or_a_list_is_said() -> None:
    with pytest.raises(ExperimentError) as caught:
        Experiment.model_validate({"name": "x", "store": "y", "models": ["padim"], "lines": [7], "seeds": 3})
    assert caught.value.problems == (
        "lines.0: must be text, and is 7",
        "seeds: must be a list, and is 3; a list of one is [3]",
    )


def test_a_truth_value_is_no_number_in_any_section() -> None:
    schema = Experiment.model_json_schema()
    found = []
    for section in (Experiment, *(getattr(module, name) for name in schema["$defs"])):
        for key, about in section.model_json_schema()["properties"].items():
            kinds = {about.get("type"), *(one.get("type") for one in about.get("anyOf", ()))}
            if kinds & {"integer", "number"}:
                found.append(f"{section.__name__}.{key}")
                with pytest.raises((ValidationError, ExperimentError), match=rf"{key}\b(?s:.*)must be a number"):
                    section.model_validate({key: True})
    assert {"Limits.mb", "Override.train_budget_s", "Costs.ms", "VerdictSettings.margin"} < set(found)
    assert len(found) > 25


@pytest.mark.parametrize("label", ["a/b", "../two words", "-a", "a:b"])
def test_a_label_can_be_part_of_a_file_s_name(label: str) -> None:
    [found] = problems(GOOD.replace("label: patchcore-1pct", f"label: '{label}'"))
    assert found.startswith("row 7: models.1.label: must begin with a letter or digit and have up to 100 letters")
    assert found.endswith(f", and is {label}")


def test_missing_keys() -> None:
    assert problems("name: x\ncosts: {missed_defect: 1, false_alarm: 1}") == [
        "store: is missing: URI of the store, or a folder, that holds the packed lines and the run",
        "lines: is missing: Names of lines packed in `store`, patterns over them, and URIs of lines in other stores, "
        "such as `s3://bucket/bench/lines/*`",
        "models: is missing: Models to compare, by name or with settings",
        "row 2: costs.defect_rate: is missing: Share of NG images in production",
    ]


def test_a_bad_member_is_one_fault() -> None:
    assert problems(GOOD + "seeds: [-1]\n") == ["row 8: seeds.0: must be at least 0, and is -1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a YAML mapping"),
        ("- a\n", "must be a YAML mapping"),
        ("name: [", "not valid YAML"),
        (GOOD.replace("[bottle,", "[bottle, bottle,"), "bottle is duplicated"),
        (GOOD.replace("  - padim", "  - padim\n  - padim"), "give each its own label"),
        (GOOD.replace("night", "../night"), "name: must begin with a letter or digit and have up to 100 letters"),
        ("a: &a [*a]\n", ""),
    ],
)
def test_bad_files(text: str, said: str) -> None:
    assert any(said in problem for problem in problems(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no such file"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="UTF-8"):
        read_experiment(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("data/lines/bottle", "a line's name has no `/`"),
        ("s3://bucket/lines/", "must name a line, or have a pattern"),
        ("s3://bucket", "must name a line, or have a pattern"),
        ("file:///*", "must name a line, or have a pattern"),
        ("s3://bucket/*/lines/pcb", "after the last `/` only"),
        ("s3://bucket/lines;a/pcb", "not allowed in the URI of a store"),
        ("s3://key:hunter2@bucket/lines/*", "holds a user name or password"),
        ("s3://key:hunter2@bucket", "must name a line, or have a pattern"),
    ],
)
def test_lines_that_no_store_can_hold(entry: str, said: str) -> None:
    found = problems(GOOD.replace("[bottle, ", f"[bottle, '{entry}', "))
    assert len(found) == 1
    assert found[0].startswith("row 4: lines.1: ")
    assert said in found[0]
    assert "hunter2" not in found[0]


def test_lines_in_several_stores() -> None:
    found = parse_experiment(GOOD.replace("[bottle, ", "[bottle, 's3://other/packed/pcb-?', 'file:///data/lines/*', "))
    assert [split_line(entry) for entry in found.lines] == [
        ("", "bottle", ""),
        ("s3://other/packed", "pcb-?", ""),
        ("file:///data/lines", "*", ""),
        ("", "pcb-*", ""),
    ]


OVERRIDES = """
overrides:
  "pcb-*": {models: [patchcore-1pct, dfm], train_budget_s: 60, seeds: [0, 1], input: {fit: tile, tiles: 16}}
  "*-9": {false_alarm_budget: 0.01, train_budget_s: null}
"""


def test_overrides_stand_in_place_of_the_experiment_s_own_keys() -> None:
    found = parse_experiment(GOOD + "train_budget_s: 600" + OVERRIDES)
    assert found.on("bottle") == found.model_copy(update={"overrides": {}})
    one = found.on("pcb-1")
    assert one.models == (found.models[1], ModelChoice(name="dfm"))  # the label means the experiment's own model
    assert (one.seeds, one.train_budget_s, one.false_alarm_budget) == ((0, 1), 60.0, 0.05)
    assert (one.input.fit, one.input.tiles, one.held_out) == ("tile", 16, 0.2)
    nine = found.on("pcb-9")  # both fit: key by key, the later one wins
    assert (nine.seeds, nine.train_budget_s, nine.false_alarm_budget) == ((0, 1), None, 0.01)
    assert [model.shown for model in found.all_models] == ["padim", "patchcore-1pct", "dfm"]


def test_the_digest_knows_overrides_and_their_order() -> None:
    plain, over = parse_experiment(GOOD), parse_experiment(GOOD + OVERRIDES)
    first, second = over.overrides.items()
    turned = over.model_copy(update={"overrides": dict([second, first])})
    assert len({plain.digest, over.digest, turned.digest}) == 3
    for one in (plain, over, turned):
        again = parse_experiment(one.to_yaml())
        assert again.digest == one.digest
        assert again.on("pcb-9") == one.on("pcb-9")


def test_every_fault_of_overrides_is_named_with_its_row() -> None:
    text = """
overrides:
  bottle: {modles: [padim]}
  "pcb-*":
    input: {fits: tile}
    seeds: [1, 1]
    models: []
  models: {train_budget: 3, false_alarm_budget: null}
"""
    assert problems(GOOD + text) == [
        "row 10: overrides.bottle.modles: unknown key; did you mean 'models'?",
        "row 14: overrides.pcb-*.models: must have a member at least, and is empty",
        "row 13: overrides.pcb-*.seeds: 1 is duplicated",
        "row 12: overrides.pcb-*.input.fits: unknown key; did you mean 'fit'?",
        "row 15: overrides.models.false_alarm_budget: must be a number, and is empty",
        "row 15: overrides.models.train_budget: unknown key; did you mean 'train_budget_s'?",
    ]


def test_a_label_stands_for_one_model_on_all_lines() -> None:
    text = "overrides: {bottle: {models: [{name: padim, config: {n_features: 9}}]}}\n"
    assert problems(GOOD + text) == [
        "row 8: overrides: bottle: padim stands for two models; give this one its own label"
    ]
    fits = parse_experiment(GOOD + "overrides: {bottle: {models: [{name: padim, input: {fit: squash}}]}}\n")
    assert fits.on("bottle").models[0].input is not None


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")


@given(
    name=names,
    lines=st.lists(names, min_size=1, max_size=4, unique=True),
    models=st.lists(names, min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4, unique=True),
    budget=st.floats(0.001, 0.499),
)
def test_yaml_round_trip(name: str, lines: list[str], models: list[str], seeds: list[int], budget: float) -> None:
    first = Experiment(
        name=name,
        store="s3://b",
        lines=tuple(lines),
        models=tuple(ModelChoice(name=model) for model in models),
        seeds=tuple(seeds),
        false_alarm_budget=budget,
    )
    again = parse_experiment(first.to_yaml())
    assert again == first
    assert again.digest == first.digest


def test_the_digest_of_an_experiment_without_overrides_is_what_it_was() -> None:
    """Runs that are under way were frozen with it."""
    found = Experiment(
        name="night",
        store="s3://bucket/bench",
        lines=("strip",),
        models=(ModelChoice(name="fake"), ModelChoice(name="padim", label="large", config={"n_features": 40})),
        seeds=(0, 1),
        train_budget_s=60.0,
        input=InputChoice(pixels=64 * 64),
    )
    assert found.digest == "ffdc40b71ff6336b18f91034064027c78680f9084af3c2429fd9aef3f4328ea4"


class LaterLimits(Limits):
    watts: float | None = None
    """A key of a later version."""


class Later(Experiment):
    limits: LaterLimits = Field(default_factory=LaterLimits)
    plants: InputChoice = Field(default_factory=InputChoice)
    """A section of a later version."""
    shift: int = 1
    """A key of a later version."""


def test_the_order_of_seeds_does_not_matter() -> None:
    listed, sorted_ = (parse_experiment(f"{GOOD}seeds: {seeds}\n") for seeds in ("[7, 0, 2]", "[0, 2, 7]"))
    assert listed.seeds == (0, 2, 7)
    assert listed.digest == sorted_.digest


def test_a_key_that_a_version_adds_does_not_change_the_digest() -> None:
    fields = yaml.safe_load(GOOD + OVERRIDES + "limits: {mb: 7}\n")
    now, later = Experiment.model_validate(fields), Later.model_validate(fields)
    assert later.digest == now.digest
    assert "watts" in later.to_yaml()
    for more in ({"shift": 2}, {"plants": {"tiles": 4}}, {"limits": {"mb": 7, "watts": 3}}):
        assert Later.model_validate(fields | more).digest != now.digest


def test_every_value_that_is_not_the_default_changes_the_digest() -> None:
    texts = [
        "", "seeds: [1]", "seeds: [0, 1]", "false_alarm_budget: 0.1", "held_out: 0.1", "train_budget_s: 1",
        "squashed_twins: false", "inspect: false", "preset: cpu", "verdict: {ms: 0}", "verdict: {mb: 0}",
        "threshold: {from: test_ok}", "costs: {missed_defect: 2, false_alarm: 1, defect_rate: 0.1}",
        "costs: {missed_defect: 2, false_alarm: 1, defect_rate: 0.1, ms: 1}", "limits: {mb: 1}", "limits: {p95_ms: 1}",
        "limits: {licence: permissive}", "annotation: {budget: 1}", "input: {fit: tile}", "input: {pixels: 1024}",
        "overrides: {a: {}}", "overrides: {a: {seeds: [0]}}", "overrides: {a: {seeds: [1]}}",
        "overrides: {a: {train_budget_s: null}}", "overrides: {a: {train_budget_s: 1}}", "overrides: {a: {input: {}}}",
        "overrides: {a: {input: {tiles: 4}}}", "overrides: {a: {models: [dfm]}}",
        "overrides: {a: {models: [{name: dfm, input: {}}]}}",
    ]  # fmt: skip
    assert len({parse_experiment(f"{GOOD}{text}\n").digest for text in texts}) == len(texts)
    plain = parse_experiment(GOOD).digest
    for text in ("seeds: [0]", "limits: {mb: null}", "verdict: {margin: 2e-2}", "input: {}", "inspect: true"):
        assert parse_experiment(f"{GOOD}{text}\n").digest == plain


def test_an_experiment_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(GOOD)
    assert Experiment.from_yaml(tmp_path / "night.yaml") == parse_experiment(GOOD)
    with pytest.raises(ExperimentError, match="no such file"):
        Experiment.from_yaml(str(tmp_path / "none.yaml"))


def test_the_schema_describes_every_key() -> None:
    """The page about the experiment file is generated from it."""
    schema = Experiment.model_json_schema()
    sections = {"Experiment": schema, **schema["$defs"]}
    assert sections.keys() >= {"ModelChoice", "InputChoice", "Override", "Resources", "Storage", "VerdictSettings"}
    missing = [
        f"{section}.{key}"
        for section, about in sections.items()
        for key, value in about["properties"].items()
        if not value.get("description")
    ]
    assert missing == []
    assert all(about["description"] for about in sections.values())


def test_transport_does_not_change_the_digest() -> None:
    plain = parse_experiment(GOOD)
    assert parse_experiment(GOOD + "resources: {cpus: 4}\n").digest == plain.digest
    assert parse_experiment(GOOD + "seeds: [1]\n").digest != plain.digest
