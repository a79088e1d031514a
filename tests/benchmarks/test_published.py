from __future__ import annotations

from benchmarks.published.__main__ import CONFIGS, Published, published

ROWS = list(published())


def test_every_row_has_a_model_its_settings_and_numbers() -> None:
    assert len(ROWS) == len({(row.label, row.category) for row in ROWS}) == 210
    assert {len([row for row in ROWS if row.label == label]) for label in {row.label for row in ROWS}} == {15}
    assert CONFIGS.keys() <= {(row.model, row.backbone) for row in ROWS}
    for row in ROWS:
        assert row.settings
        assert 0.5 <= row.values["image_auroc"] <= 1
        assert row.source.startswith("anomalib 2.7.0, ")


def test_what_is_missing_is_named() -> None:
    by_label: dict[str, Published] = {row.label: row for row in ROWS if row.category == "bottle"}
    wide = by_label["patchcore-wide_resnet50_2"]
    assert wide.lacks({"wide_resnet50_2"}, has_gpu=False) == []
    assert wide.lacks({"resnet18"}, has_gpu=True) == ["the weights wide_resnet50_2"]
    assert by_label["stfpm-resnet18"].lacks({"resnet18"}, has_gpu=False) == ["a GPU"]
    official = by_label["efficient_ad-pdn-official"].lacks((), has_gpu=True)
    assert official == ["the weights pdn-official", "the weights imagenette"]
