"""The dataset card of a packed line is one that Hugging Face's own classes read."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from raybench.data.corrections import Correction
from raybench.data.labels import correct_labels
from raybench.data.manifest import Change, read_manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.store import Store, open_store

CARD = "strip/README.md"


@pytest.fixture
def lines(strips: Path, tmp_path: Path) -> Store:
    lines = open_store(str(tmp_path))
    pack(open_store(str(strips)), lines, "strip")
    return lines


def test_a_packed_line_has_a_card_with_its_splits(lines: Store) -> None:
    card = DatasetCard(lines.get(CARD).decode())
    data = card.data.to_dict()
    assert data["task_categories"] == ["image-classification", "image-segmentation"]
    assert data["size_categories"] == ["n<1K"]
    (config,) = data["configs"]
    named = {f"strip/{path}" for files in config["data_files"] for path in files["path"]}
    assert named == {shard.key for shard in read_manifest(lines, "strip").shards}
    assert [files["split"] for files in config["data_files"]] == ["test", "train"]
    assert "| test | ng | 6 |" in card.text
    assert DatasetCard(str(card)).data.to_dict() == data


def test_labels_that_come_back_are_on_the_card(lines: Store) -> None:
    line = read_manifest(lines, "strip")
    row = next(row for shard in line.scored_shards for row in read_rows(lines, shard) if row.label == "ok")
    correction = Correction(row.image_id, row.sha256, "ng", "", None, "mia", "", "a.csv")
    line = correct_labels(lines, line, [correction], Change("2026-11-27", "mia", "looked again", line.digest))
    text = DatasetCard(lines.get(CARD).decode()).text
    assert "| test | ng | 7 |" in text
    assert "of 1 images came back after packing" in text
    assert line.digest[:12] in text
