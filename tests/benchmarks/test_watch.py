"""A made line whose lamp ages, watched as the benchmark does it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.watch import STEPS, Pool, simulate
from tests.support.batches import made_batch


def test_an_ageing_lamp_is_found_and_a_stable_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    scores, light = rng.normal(0, 1, 80), rng.normal(0.6, 0.01, 80)
    levels = {
        step: pd.DataFrame(
            {"brightness": light * (1 - step / 100), "contrast": 0.2, "sharpness": 1.0, "scores": scores + step / 10}
        )
        for step in STEPS
    }
    simulate(Pool(levels, rng.normal(0, 1, 40), made_batch(0)), months=5, years=0)
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    assert [row[2] for row in rows[:2]] == ["0.0%"] * 2
    assert all(row[2] == "100.0%" for row in rows[-3:])
    assert float(rows[-1][5]) < 15
