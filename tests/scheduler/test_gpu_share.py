from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.config.unit import Unit
from raybench.runs.costs import Costs, row_of
from raybench.runs.records import ResourceUsage
from raybench.scheduler.gpu_share import CONTEXT_MB, MARGIN, PARTS, GpuShares, share, torch_limit
from tests.support.backlog import unit

FIRST, SECOND = unit("a", 0), unit("b", 1)


def held(peak_mb: float, device_mb: float | None = 80_000.0) -> ResourceUsage:
    return ResourceUsage(10.0, 8, 20.0, 10.0, "cuda", peak_mb, device_mb)


@settings(deadline=None)
@given(st.floats(0, 2e5), st.floats(1e3, 2e5))
def test_as_many_as_fit_fit(peak_mb: float, device_mb: float) -> None:
    found = share(peak_mb, device_mb)
    assert found * PARTS == int(found * PARTS)
    assert 1 / PARTS <= found <= 1
    if found < 1:
        assert int(1 / found) * (peak_mb * MARGIN + CONTEXT_MB) <= device_mb * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(1, 2e5), st.floats(1e3, 2e5))
def test_torch_may_take_what_the_share_was_made_for_and_leaves_room_for_cuda(peak_mb: float, device_mb: float) -> None:
    found = share(peak_mb, device_mb)
    limit_mb = torch_limit(found, device_mb) * device_mb
    if found < 1:
        assert peak_mb * MARGIN <= limit_mb * (1 + 1e-9)
        assert limit_mb + CONTEXT_MB <= found * device_mb * (1 + 1e-9)
    else:
        assert limit_mb == device_mb


def test_a_fixed_share_smaller_than_a_context_leaves_torch_something() -> None:
    assert torch_limit(0.1, 4000) == 0.05


@pytest.mark.parametrize(
    ("peak_mb", "device_mb", "parts"), [(2000, 80_000, 1), (10_000, 80_000, 3), (2000, 8000, 7), (79_000, 80_000, 16)]
)
def test_sixteenths(peak_mb: float, device_mb: float, parts: int) -> None:
    assert share(peak_mb, device_mb) == parts / 16


def test_the_first_of_a_kind_has_a_whole_gpu_and_tells() -> None:
    shares = GpuShares(None)
    assert shares.of(FIRST, "train") == 1.0
    shares.saw(FIRST, "train", held(10_000))
    assert shares.of(SECOND, "train") == 3 / 16
    assert shares.of(SECOND, "score") == 1.0
    shares.saw(FIRST, "train", held(30_000))
    shares.saw(FIRST, "train", held(10_000))
    assert shares.of(SECOND, "train") == share(30_000, 80_000)


def test_other_settings_and_sizes_are_other_kinds() -> None:
    shares = GpuShares(None)
    shares.saw(FIRST, "train", held(10_000))
    others: list[Unit] = [
        replace(FIRST, config={"grid": 4}),
        replace(FIRST, input=replace(FIRST.input, height=128)),
        replace(FIRST, input=replace(FIRST.input, tile=32)),
    ]
    assert [shares.of(other, "train") for other in others] == [1.0, 1.0, 1.0]


def test_the_smallest_gpu_counts_unless_the_experiment_says_more() -> None:
    shares, told = GpuShares(None), GpuShares(None, 40_000.0)
    for each in (shares, told):
        each.saw(FIRST, "train", held(5000, 80_000))
        each.saw(FIRST, "score", held(5000, 24_000))
    assert shares.of(SECOND, "train") == share(5000, 24_000)
    assert told.of(SECOND, "train") == share(5000, 40_000)


def test_who_ran_out_of_memory_beside_others_is_alone_from_then_on() -> None:
    shares = GpuShares(None)
    shares.saw(FIRST, "train", held(5000))
    shares.out_of_memory_when_shared(FIRST, "train")
    shares.saw(SECOND, "train", held(5000))
    assert shares.of(SECOND, "train") == 1.0


def test_what_is_set_stays_and_nothing_unknown_is_shared() -> None:
    fixed, cpu, unknown = GpuShares(0.5), GpuShares(0.0), GpuShares(None)
    for each in (fixed, cpu, unknown):
        each.saw(FIRST, "train", held(70_000, None))
    assert (fixed.of(SECOND, "train"), cpu.of(SECOND, "train"), unknown.of(SECOND, "train")) == (0.5, 0.0, 1.0)


def test_earlier_runs_tell_too() -> None:
    shares = GpuShares(None, costs=Costs(others=(row_of(FIRST, "train", held(10_000)),)))
    assert shares.of(SECOND, "train") == 3 / 16
