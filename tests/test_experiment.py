from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.errors import ExperimentError
from raybench.experiment import Experiment, ModelChoice, parse_experiment, read_experiment

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
        "row 10: input.fit: Input should be 'native', 'letterbox', 'squash' or 'tile'",
        "row 11: resources.cpu: unknown key; did you mean 'cpus'?",
        "row 8: seed: unknown key; did you mean 'seeds'?",
        "row 9: false_alarm_budget: Input should be less than 0.5",
    ]


def test_the_annotation_budget() -> None:
    assert parse_experiment(GOOD).annotation.budget == 50
    chosen = parse_experiment(GOOD + "annotation: {budget: 7}\n")
    assert chosen.annotation.budget == 7
    assert chosen.digest != parse_experiment(GOOD).digest  # the report says other numbers
    assert problems(GOOD + "annotation: {budget: 0}\n") == [
        "row 8: annotation.budget: Input should be greater than or equal to 1"
    ]
    assert problems(GOOD + "annotation: {buget: 9}\n") == [
        "row 8: annotation.buget: unknown key; did you mean 'budget'?"
    ]


def test_missing_keys() -> None:
    assert problems("name: x\n") == [f"{key}: Field required" for key in ("store", "lines", "models")]


def test_a_bad_member_is_one_fault() -> None:
    assert problems(GOOD + "seeds: [-1]\n") == ["row 8: seeds.0: Input should be greater than or equal to 0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a YAML mapping"),
        ("- a\n", "must be a YAML mapping"),
        ("name: [", "not valid YAML"),
        (GOOD.replace("[bottle,", "[bottle, bottle,"), "bottle stands there twice"),
        (GOOD.replace("  - padim", "  - padim\n  - padim"), "give each its own label"),
        (GOOD.replace("night", "../night"), "pattern"),
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


def test_transport_does_not_change_the_digest() -> None:
    plain = parse_experiment(GOOD)
    assert parse_experiment(GOOD + "resources: {cpus: 4}\n").digest == plain.digest
    assert parse_experiment(GOOD + "seeds: [1]\n").digest != plain.digest
