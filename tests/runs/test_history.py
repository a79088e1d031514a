from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.errors import InputError, IntegrityError
from raybench.runs.history import (
    SAMPLE,
    Batch,
    add_batch,
    batch_key,
    read_batches,
    utc_time,
    without_repeats,
)
from raybench.runs.run import RunStore, decode, encode
from raybench.store import open_store
from tests.support.batches import made_batch


def test_batches_are_written_once_and_read_in_the_order_of_time(tmp_path: Path) -> None:
    run = RunStore(open_store(str(tmp_path)), "night")
    for day in (2, 0, 1):
        add_batch(run, made_batch(day))
    assert add_batch(run, made_batch(1, at="2030-01-01T00:00:00+00:00")) == made_batch(1)
    assert read_batches(run, "bottle", "d") == [made_batch(day) for day in range(3)]
    assert read_batches(run, "bottle", "other") == []
    run.store.put(batch_key(run, made_batch(0)), b"{}")
    with pytest.raises(IntegrityError, match="not a Batch"):
        read_batches(run, "bottle", "d")


@given(st.integers(0, 9), st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3))
def test_a_batch_is_read_as_it_was_written(day: int, name: str, types: dict[str, int]) -> None:
    batch = made_batch(day, prediction=name, types=types)
    assert decode(Batch, encode(batch), "here") == batch


def test_images_count_once() -> None:
    digests = tuple(f"{number:064x}" for number in range(40))
    noon = made_batch(0, sample=digests[:20])
    evening = made_batch(1, sample=digests[:SAMPLE])
    other = made_batch(2, sample=tuple(f"{number:064x}" for number in range(50, 60)))
    left = without_repeats([other, evening, noon])
    assert [batch.unit_id for batch in left] == ["u1", "u2"]
    assert left[0].at == noon.at


def test_times_are_utc() -> None:
    assert utc_time("2026-03-01") == "2026-03-01T00:00:00+00:00"
    assert utc_time("2026-03-01T06:00+02:00") == "2026-03-01T04:00:00+00:00"
    assert utc_time(None) > "2026"
    with pytest.raises(InputError, match="not a time"):
        utc_time("yesterday")
