from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstwobign

from raybench.data.inspection.drift import PROPERTIES, find_drifts, holm


def table(train: int, test: int, shift: float = 0.0, unlabelled: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    count = train + test + unlabelled
    made = pd.DataFrame({name: rng.normal(0, 1, count) for name in PROPERTIES})
    made["split"] = ["train"] * train + ["test"] * test + ["unlabelled"] * unlabelled
    made["label"] = ["ok"] * (train + test) + ["unknown"] * unlabelled
    made.loc[made["split"] == "test", "brightness"] += shift
    return made


def test_holm_is_what_r_says() -> None:
    """p.adjust(c(0.04, 0.01, 0.03, 0.005, 0.5), "holm") of R."""
    assert holm([0.04, 0.01, 0.03, 0.005, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.025, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_shift_of_one_property_is_found_and_nothing_else() -> None:
    drifts = find_drifts(table(100, 60, shift=1.5))
    assert [drift.name for drift in drifts if drift.drifted] == ["mean brightness"]
    found = next(drift for drift in drifts if drift.drifted)
    assert (found.split, found.images) == ("test", 60)
    assert found.median - found.train_median == pytest.approx(1.5, abs=0.4)


def test_a_difference_too_small_to_matter_is_no_drift() -> None:
    """Of many images every difference is significant."""
    drifts = find_drifts(table(20_000, 20_000, shift=0.1))
    found = next(drift for drift in drifts if drift.name == "mean brightness")
    assert found.p < 1e-6
    assert not found.drifted
    n = np.sqrt(20_000 / 2)
    assert found.p == pytest.approx(min(1, len(PROPERTIES) * kstwobign.sf(found.effect * n)), rel=0.2)


def test_ng_images_do_not_count_and_unlabelled_ones_do() -> None:
    made = table(50, 50, shift=5, unlabelled=20)
    made.loc[made["split"] == "test", "label"] = "ng"
    drifts = find_drifts(made)
    assert {drift.split for drift in drifts} == {"unlabelled"}
    assert len(drifts) == len(PROPERTIES)


def test_too_few_images_are_not_compared() -> None:
    assert find_drifts(table(50, 7)) == ()
    assert find_drifts(table(7, 50)) == ()


def test_a_property_that_never_changes_has_not_drifted() -> None:
    made = table(50, 50)
    made["size"] = 100.0
    found = next(drift for drift in find_drifts(made) if drift.name.startswith("side"))
    assert (found.effect, found.p) == (0.0, 1.0)
