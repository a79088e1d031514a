from __future__ import annotations

import numpy as np
import pytest

from benchmarks import decision
from benchmarks.decision import CHOICES, PARTS, World, sample
from tests.support.results import done


@pytest.mark.parametrize("part", ["calibration", "intervals", "thresholds"])
def test_every_part_prints_a_table(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of small worlds: that the benchmark runs on the present code."""
    small = [world for world in CHOICES if world.models * (world.ok + world.ng) <= 700][:4]
    monkeypatch.setattr(decision, "CHOICES", small)
    monkeypatch.setattr(decision, "LARGE", ())
    monkeypatch.setattr(decision, "SMALL", decision.SMALL[-1:])
    rows = list(PARTS[part](2))
    assert all(row.startswith("|") for row in rows if row)
    assert len(rows) > 2


def test_what_a_world_says_is_in_its_samples() -> None:
    line = sample(World("", 4, 6, 6, real=True, failures=1), np.random.default_rng(0))
    failed, *rows = line.rows
    assert failed.finished is None
    assert list(line.scores) == list(line.utilities) == [row.model for row in rows] == ["m1", "m2", "m3"]
    for row in rows:
        quality = done(row).quality
        assert (quality.au_pro.value or 0) + (quality.noise_ok.value or 0) == pytest.approx(1)
