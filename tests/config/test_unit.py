from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.config.unit import Protocol, Unit
from raybench.data.geometry import Input
from raybench.store import digest

UNIT = Unit("line", "d1", "t1", "label", "padim", {"a": 1}, {"w": "s"}, Input("native", 32, 64, 100, 200), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"line_digest": "d2"},
        {"detector": "dfm"},
        {"config": {"a": 2}},
        {"weights": {"w": "t"}},
        {"input": Input("squash", 32, 64, 100, 200)},
        {"seed": 1},
        {"protocol": Protocol(train_budget_s=1.0)},
        {"protocol": Protocol(train_images=10)},
        {"timed_on": "line-pc"},
        {"revision": "after the upgrade"},
    ],
)
def test_what_changes_a_number_changes_the_identity(change: dict[str, object]) -> None:
    assert replace(UNIT, **change).unit_id != UNIT.unit_id  # type: ignore[arg-type]


def test_new_test_images_and_labels_make_another_unit_of_the_same_detector() -> None:
    other = replace(UNIT, line_digest="d2")
    assert other.unit_id != UNIT.unit_id
    assert other.detector_id == UNIT.detector_id
    assert replace(UNIT, training_digest="t2").detector_id != UNIT.detector_id


def test_another_machine_to_be_timed_on_makes_another_unit_of_the_same_detector() -> None:
    there = replace(UNIT, timed_on="line-pc")
    assert (there.detector_id, there.fit_id) == (UNIT.detector_id, UNIT.fit_id)
    assert (there.measure_name, UNIT.measure_name) == ("measure-line-pc", "measure")


def test_the_licence_of_a_backbone_changes_no_number() -> None:
    own = {"timm_name": "resnet50", "weights": "press", "sha256": "0" * 64}
    found = [
        replace(UNIT, config={"backbone": own | change})
        for change in ({"licence": "unknown"}, {"licence": "MIT"}, {"sha256": "1" * 64})
    ]
    assert found[0].unit_id == found[1].unit_id != found[2].unit_id
    assert found[0].fit_id == found[1].fit_id != found[2].fit_id


def test_the_label_on_the_board_does_not() -> None:
    assert replace(UNIT, model="other label").unit_id == UNIT.unit_id


def test_identity_is_stable() -> None:
    """A change here orphans every finished unit of every user: raise ID_VERSION and say so."""
    assert UNIT.unit_id == "4efe0c15d7fb2d281773"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))
