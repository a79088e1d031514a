"""A model card is one that Hugging Face's own classes read, with the numbers of `board.csv`."""

from __future__ import annotations

from dataclasses import replace

from huggingface_hub import ModelCard, ModelCardData

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.config.unit import Unit
from raybench.report.columns import line_cells
from raybench.report.model_card import model_card
from tests.support.report_units import unit as made

ABOUT = {
    "input": {"name": "image", "shape": [1, 200, 320, 1], "dtype": "uint16", "channels": "grey"},
    "outputs": ["score", "heatmap", "is_anomalous"],
}


def reported(of_line: str = "d" * 64) -> tuple[Unit, Board]:
    """A unit of the line `strip`, and the board of the run `night`, whose line has this digest."""
    result, images = made("padim", 1.0, 0)
    result = replace(result, line="strip")
    unit = Unit("strip", "d" * 64, "t" * 64, "padim", "padim", {}, {"resnet18": "a" * 64}, result.input, 0)
    context = BoardContext("night", "2026-01-01", "e" * 64, {}, 0.05, lines={"strip": of_line})
    return unit, build_board([result], {result.unit_id: images}, context)


def test_the_model_index_holds_every_number_with_its_interval() -> None:
    unit, board = reported()
    card = ModelCard(model_card(unit, board.rows[0], board, ABOUT))
    cells = line_cells(board, board.rows[0])
    found = {each.metric_type: each for each in card.data.eval_results}
    known = {name for name in cells if f"{name}_low" in cells and cells[name] is not None}
    assert {"image_auroc", "recall", "region_recall"} <= known == set(found)
    for name, each in found.items():
        assert each.metric_value == cells[name]
        assert (each.metric_args["low"], each.metric_args["high"]) == (cells[f"{name}_low"], cells[f"{name}_high"])
        assert (each.dataset_name, each.dataset_split, each.dataset_revision) == ("strip", "test", "d" * 12)
    fields = card.data.to_dict()
    assert (
        ModelCardData(model_name=card.data.model_name, eval_results=card.data.eval_results).to_dict()["model-index"]
        == fields["model-index"]
    )
    assert (fields["license"], fields["library_name"], card.data.model_name) == ("other", "onnx", "strip-padim")
    assert board.verdict_on("strip").sentence in card.text
    assert "source pixels (1, 200, 320, 1) uint16, grey" in card.text


def test_a_verdict_about_other_labels_is_not_on_the_card() -> None:
    unit, board = reported("f" * 64)
    assert board.verdict_on("strip").sentence not in model_card(unit, board.rows[0], board)


def test_a_detector_without_a_result_has_a_card_without_numbers() -> None:
    unit, _ = reported()
    card = ModelCard(model_card(unit, None, None))
    assert "model-index" not in card.data.to_dict()
    assert "| number |" not in card.text
