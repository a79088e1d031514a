from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raybench.data.corrections import Correction
from raybench.data.decode import encode_mask
from raybench.data.inspection import measured
from raybench.data.inspection.inspection import inspect
from raybench.data.inspection.measured import measured_shard
from raybench.data.inspection.properties import measure_shard
from raybench.data.labels import correct_labels
from raybench.data.manifest import Change, Manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.store import Store, open_store


@pytest.fixture
def line(tmp_path: Path, strips: Path) -> tuple[Store, Manifest]:
    lines = open_store(str(tmp_path))
    return lines, pack(open_store(str(strips)), lines, "strip")


def test_nothing_is_measured_twice(line: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    lines, manifest = line
    for shard in manifest.shards:
        fresh, first = measure_shard(lines, manifest, shard), measured_shard(lines, manifest, shard, lines)
        with monkeypatch.context() as patch:
            patch.setattr(measured, "measure_shard", lambda *_: pytest.fail("measured again"))
            again = measured_shard(lines, manifest, shard, lines)
        for found in (first, again):
            pd.testing.assert_frame_equal(found.table, fresh.table, check_dtype=False)
            assert np.array_equal(found.fingerprints, fresh.fingerprints)
            assert found.unreadable == fresh.unreadable


def test_a_corrected_label_is_inspected_without_an_image(
    line: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, manifest = line
    before = inspect(lines, manifest)
    rows = {row.image_id: row for shard in manifest.scored_shards for row in read_rows(lines, shard)}
    row = rows["test/good/000.png"]
    mask = encode_mask(np.ones((row.height, row.width), np.bool_))
    correction = Correction(row.image_id, row.sha256, "ng", "dent", mask, "mia", "2026-11-27", "labels.csv")
    change = Change("2026-11-27T00:00:00+00:00", "mia", "1 label", manifest.digest)
    corrected = correct_labels(lines, manifest, [correction], change)
    monkeypatch.setattr(measured, "measure_shard", lambda *_: pytest.fail("an image is read"))
    after = inspect(lines, corrected)
    assert after.line_digest == corrected.digest
    assert {issue.kind for issue in after.issues} - {issue.kind for issue in before.issues} == {"large mask"}
