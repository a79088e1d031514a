from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raybench.data.shards import SCHEMA, ImageRow, read_rows, write_shard
from raybench.errors import IntegrityError
from raybench.runs import scores
from raybench.runs.scores import LEVELS, Predicted, ScoreRow, quantise, read_scores, write_predictions, write_scores
from raybench.store import Store, open_store
from tests.support.made_shards import stored

ON_DISK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
rows_of_any_kind = st.lists(
    st.builds(
        ImageRow,
        image_id=texts,
        image=st.binary(min_size=1, max_size=200),
        image_path=texts,
        mask=st.none() | st.binary(min_size=1, max_size=50),
        mask_path=st.just("mask.png"),
        line=texts,
        split=texts,
        label=texts,
        defect_type=texts,
        group=texts,
        height=st.integers(1, 2**31 - 1),
        width=st.integers(1, 2**31 - 1),
        sha256=texts,
        attributes=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    ),
    max_size=12,
)


def some_rows(count: int, size: int = 2000) -> list[ImageRow]:
    rng = np.random.default_rng(0)
    return [
        ImageRow(
            image_id=f"image-{number}",
            image=rng.bytes(size),
            image_path=f"{number}.png",
            mask=rng.bytes(50) if number % 2 else None,
            mask_path=f"{number}_mask.png" if number % 2 else None,
            line="l",
            split="test",
            label="ok",
            defect_type="",
            group=f"part-{number // 3}",
            height=3,
            width=4,
            sha256="00",
        )
        for number in range(count)
    ]


@given(rows_of_any_kind)
@ON_DISK
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[ImageRow]) -> None:
    lines = open_store(str(tmp_path))
    expected = [row if row.mask is not None else ImageRow(**(vars(row) | {"mask_path": None})) for row in rows]
    assert list(read_rows(lines, stored(lines, rows))) == expected


def test_row_groups_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = open_store(str(tmp_path))
    rows = some_rows(8, 400_000)
    shard = stored(lines, rows, row_group_mb=1)
    sizes: list[int] = []
    ranged = Store.get_range

    def watched(self: Store, key: str, start: int, length: int) -> bytes:
        sizes.append(length)
        return ranged(self, key, start, length)

    monkeypatch.setattr(Store, "get_range", watched)
    assert list(read_rows(lines, shard)) == rows
    assert max(sizes) < 1_200_000
    assert len(sizes) == 1 + 4
    sizes.clear()
    assert [row.mask for row in read_rows(lines, shard, images=False)] == [row.mask for row in rows]
    assert sum(sizes) < 100_000


def test_tiny_images_are_not_asked_for_either(tmp_path: Path) -> None:
    lines = open_store(str(tmp_path))
    rows = some_rows(3, size=20)
    found = list(read_rows(lines, stored(lines, rows), images=False))
    assert [row.image_id for row in found] == [row.image_id for row in rows]


def test_some_rows_only(tmp_path: Path) -> None:
    lines = open_store(str(tmp_path))
    rows = some_rows(5)
    assert list(read_rows(lines, stored(lines, rows), only={"image-3"})) == [rows[3]]


@given(place=st.floats(0, 0.999999), bit=st.integers(0, 7))
@ON_DISK
def test_a_flipped_bit_is_never_silent(tmp_path: Path, place: float, bit: int) -> None:
    lines = open_store(str(tmp_path))
    rows = some_rows(6)
    shard = stored(lines, rows)
    data = bytearray(lines.get(shard.key))
    data[int(place * len(data))] ^= 1 << bit
    lines.put(shard.key, bytes(data))
    try:
        found = list(read_rows(lines, shard))
    except IntegrityError:
        return
    assert found == rows


def test_a_shard_that_is_not_the_manifests(tmp_path: Path) -> None:
    lines = open_store(str(tmp_path))
    shard = stored(lines, some_rows(6))
    data = lines.get(shard.key)
    for damaged in (data[:-100], b"", b"PAR1", data[: len(data) // 2]):
        lines.put(shard.key, damaged)
        with pytest.raises(IntegrityError, match="damaged"):
            list(read_rows(lines, shard))
    lines.put(shard.key, data)
    with pytest.raises(IntegrityError, match="6 rows, its manifest says 7"):
        list(read_rows(lines, replace(shard, rows=7)))


heat = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def score_row(heatmap: npt.NDArray[np.float32] | None, image_id: str = "a") -> ScoreRow:
    return ScoreRow(image_id, "l", "m", "d", 1.25, True, heatmap, 100, 200)


@given(heat)
@settings(deadline=None)
def test_heat_maps_come_back_within_half_a_step(heatmap: npt.NDArray[np.float32]) -> None:
    [found] = read_scores(write_scores([score_row(heatmap)], fit="native"))
    assert found.heatmap is not None
    assert found.heatmap.shape == heatmap.shape
    _, scale, _ = quantise(heatmap)
    rounding = 4 * np.finfo(np.float32).eps * float(np.abs(heatmap).max())
    rounding += LEVELS * float(np.finfo(np.float32).smallest_subnormal)  # of so narrow a map the step itself is 0
    assert np.abs(found.heatmap.astype(np.float64) - heatmap).max() <= float(scale) / 2 * (1 + 1e-3) + rounding
    assert (float(heatmap.max()) - float(heatmap.min())) / LEVELS == pytest.approx(float(scale), rel=1e-5, abs=1e-38)


def test_scores_without_heat_map_or_threshold() -> None:
    row = ScoreRow("a", "l", "m", "d", -1e300, None, None, 1, 2)
    assert read_scores(write_scores([row], fit="squash")) == [row]
    assert read_scores(write_scores([], fit="squash")) == []


def test_many_maps_of_different_shapes() -> None:
    rng = np.random.default_rng(0)
    rows = [score_row(rng.random((4 + n % 3, 8)).astype(np.float32), f"{n:03}") for n in range(150)]
    found = read_scores(write_scores(iter(rows), fit="native"))
    assert [one.image_id for one in found] == [one.image_id for one in rows]
    assert [one.heatmap.shape for one in found if one.heatmap is not None] == [(4 + n % 3, 8) for n in range(150)]
    assert [one.image_id for one in read_scores(write_scores(rows, fit="native"), only={"007"})] == ["007"]


def test_predictions_stream_into_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "PREDICTIONS_PER_GROUP", 10)  # several groups of few rows
    rows = [Predicted(f"{at}é", "l", "m", at / 3, at > 9, 3.0, at / 3 - 3, 10, 20, at == 5) for at in range(25)]
    rows.append(Predicted("none", "l", "m", 1.0, None, None, None, 10, 20, False))
    write_predictions(iter(rows), tmp_path / "t.parquet")
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [10, 10, 6]
    assert [Predicted(**record) for record in file.read().to_pylist()] == rows


def test_what_is_not_a_scores_shard_is_refused() -> None:
    for data in (b"", b"not Parquet", write_shard(some_rows(2))):
        with pytest.raises(IntegrityError, match="scores shard"):
            read_scores(data)


def test_hugging_face_finds_pictures_and_attributes() -> None:
    """`datasets` reads the features of a Parquet file from its metadata; an Image is shown without a cast."""
    features = json.loads(SCHEMA.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == SCHEMA.names
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["height"] == {"_type": "Value", "dtype": "int32"}
    text = {"_type": "Value", "dtype": "string"}
    assert features["attributes"] == [{"name": text, "value": text}]
