from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from raybench.analysis.board import Board
from raybench.analysis.line_summary import poor_lines, worst_first
from raybench.analysis.rows import BoardRow
from raybench.metrics.numbers import Estimate

BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]


@pytest.fixture(scope="module")
def board(board_of: BoardOf) -> Board:
    """Six lines; on one a model fails, one has a short list, on one nothing finishes."""
    lines: dict[str, dict[str, float | None]] = {
        f"line-{at}": {"good": 2.5, "fair": 1.5, "bad": 0.6} for at in range(4)
    }
    return board_of(
        lines
        | {
            "few": {"bad": 3.0},
            "hard": {"good": None, "fair": 0.3, "bad": 0.1},
            "dead": {"good": None, "fair": None, "bad": None},
        }
    )


def test_the_best_mean_rank_first(board: Board) -> None:
    assert [one.model for one in board.overall] == ["good", "fair", "bad"]
    good, fair, bad = (one.mean_rank for one in board.overall)
    assert [number.value for number in (good, fair, bad)] == [pytest.approx(mean) for mean in (7 / 5, 9 / 5, 14 / 5)]
    assert good.n == 5  # not the line with a short list, and not the one that tells nothing
    assert [good.low, good.high] == pytest.approx([1.0, 2.2])
    assert [one.failed for one in board.overall] == [2, 1, 1]


def test_one_failure_takes_its_line_not_the_model_out_of_the_mean(board: Board) -> None:
    assert board.over_all is not None
    assert board.over_all.sentence.startswith("4 of 6 lines: run good")
    assert set(board.over_all.grades) == {"good", "fair", "bad"}


def test_a_model_that_few_lines_run_has_no_mean_rank(board_of: BoardOf) -> None:
    found = board_of({"a": {"x": 2.0, "y": 1.0}, "b": {"x": 2.0, "y": 1.0}, "c": {"x": 2.0, "y": 1.0, "z": 3.0}})
    assert [(one.model, one.mean_rank.value) for one in found.overall] == [("x", 1.0), ("y", 2.0), ("z", None)]
    assert "not run on the lines" in (found.overall[2].mean_rank.reason or "")
    assert found.over_all is not None
    assert found.over_all.conclusions["z"] == "not run on every line"


def test_worst_lines_first(board: Board) -> None:
    found = worst_first(board)
    assert [summary.line for summary in found] == ["dead", "hard", "few", "line-0", "line-1", "line-2", "line-3"]
    dead, hard, few, *_ = found
    assert (dead.is_poor, dead.finished, dead.failed, dead.named) == (True, 0, 3, None)
    assert dead.conclusion == "no verdict, no model finished."
    assert (hard.is_poor, hard.finished, hard.failed) == (True, 2, 1)
    assert hard.named is not None
    assert (hard.named.model, hard.conclusion) == ("fair", "not enough images to tell")
    assert (few.is_poor, few.conclusion) == (False, "best")
    assert poor_lines(found) == "2 of 7 lines: no model has an image AUROC of 0.8 or more."
    assert poor_lines(found[2:]).startswith("On every line")


def test_lines_whose_quality_is_unknown_come_last(board: Board) -> None:
    (row,) = board.rows_of("few")
    assert row.quality is not None
    unknown = replace(row.quality, image_auroc=replace(row.quality.image_auroc, value=None))
    rows = [replace(one, quality=unknown) if one.line == "line-0" else one for one in board.rows]
    found = worst_first(replace(board, rows=tuple(rows)))
    assert (found[-1].line, found[-1].is_poor) == ("line-0", False)


def test_rows_and_verdicts_by_line(board: Board) -> None:
    for line in board.lines:
        of_line = [row for row in board.rows if row.line == line]
        assert sorted(board.rows_of(line), key=lambda row: row.model) == of_line
        assert board.verdict_on(line).line == line


def test_rows_of_a_line_come_best_first(board: Board) -> None:
    line = "line-0"
    row = next(row for row in board.rows if row.line == line)

    def with_auroc(model: str, value: float | None) -> BoardRow:
        assert row.quality is not None
        return replace(row, model=model, quality=replace(row.quality, image_auroc=Estimate(value)))

    values = {"a": 0.8, "b": 0.99, "c": 0.9, "d": None, "e": 0.95}
    rows = [*(with_auroc(*item) for item in values.items()), replace(row, model="f", quality=None)]
    verdict = replace(board.verdict_on(line), run="c", tied=("e",))
    found = replace(board, rows=tuple(rows), verdicts=(verdict,)).rows_of(line)
    assert [one.model for one in found] == ["c", "e", "b", "a", "d", "f"]
