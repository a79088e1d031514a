from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from raybench.analysis.board import Board, LineScores, board_from_json, board_json, build_board
from raybench.analysis.line_summary import poor_lines, worst_first
from raybench.analysis.rows import BoardRow
from raybench.analysis.verdict import NOT_ADMISSIBLE
from raybench.errors import InputError
from raybench.metrics.numbers import Estimate
from tests.support.decisions import drawn, held_back
from tests.support.results import altered, done, result

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
    assert good.low is not None
    assert good.high is not None
    assert 1.0 <= good.low < 7 / 5 < good.high < 3.0
    assert [one.failed for one in board.overall] == [2, 1, 1]


def test_a_failure_costs_where_it_happened(board: Board) -> None:
    """`good` failed on one of the five compared lines, and counts there as one that tells nothing."""
    assert board.over_all is not None
    assert board.over_all.sentence.startswith("5 of 7 lines: run good")
    assert board.over_all.grades.keys() == {"good", "fair", "bad"}
    [note] = board.over_all.notes
    assert note == "good failed or is not admissible on hard; there it counts as one that tells nothing."
    on_line = board.verdict_on("line-0").utilities["good"]
    assert board.over_all.utilities["good"] == pytest.approx((4 * on_line + 0.5 + 0.05 * 0.05) / 5)


def test_means_are_over_the_lines_on_which_every_compared_model_finished(board: Board) -> None:
    """`fair` and `bad` are not made worse than `good` by the hard line that it failed on."""
    assert [one.averaged for one in board.overall] == [4, 4, 4]
    assert [one.lines for one in board.overall] == [4, 5, 6]
    for overall in board.overall:
        [row] = [row for row in board.rows if (row.line, row.model) == ("line-0", overall.model)]
        assert overall.image_auroc == pytest.approx(done(row).quality.image_auroc.value)


def test_the_critical_difference_is_that_of_the_compared_lines(board: Board) -> None:
    found = board.critical_difference
    assert found is not None
    assert (found.models, found.lines) == (3, 5)


def test_a_board_is_read_as_it_was_written(board: Board) -> None:
    again = board_from_json(board_json(board))
    assert board_json(again) == board_json(board)
    assert again.verdicts[0].standings == board.verdicts[0].standings
    assert str(again.over_all) == str(board.over_all)
    with pytest.raises(InputError, match="of another version of raybench"):
        board_from_json(b'{"rows": []}')


def test_held_back_scores_of_some_models_do_not_end_the_comparison(board: Board) -> None:
    scores = {f"{model}-0": drawn(gap) for model, gap in {"old": 3.0, "new": 2.0}.items()}
    results = [replace(result(model, scores[f"{model}-0"]), line="bolt") for model in ("old", "new")]
    lines = {"bolt": LineScores({"new-0": held_back(np.random.default_rng(0).normal(size=19))})}
    found = build_board(results, scores, board.context, lines=lines)
    assert found.verdict_on("bolt").run == "old"


def test_thresholds_are_tested_with_the_held_back_scores(board: Board) -> None:
    scores = {f"{model}-0": drawn(gap) for model, gap in {"a": 3.0, "b": 2.5, "c": 2.5}.items()}
    held = {unit: held_back(np.random.default_rng(0).normal(size=40)) for unit in scores}
    held["a-0"] = held_back(held["a-0"].scores + 2)
    results = [result(model, scores[f"{model}-0"]) for model in "abc"]
    found = build_board(results, scores, board.context, lines={"bolt": LineScores(held)}).verdict_on("bolt")
    assert found.grades["a"] == NOT_ADMISSIBLE
    assert found.conclusions["a"].startswith("its threshold is too high")
    untested = build_board(results, scores, board.context).verdict_on("bolt")
    assert untested.run == "a"


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
    assert (hard.run, hard.conclusion) == ("fair", "not good enough")
    assert (few.is_poor, few.conclusion) == (False, "best")
    assert poor_lines(found) == "2 of 7 lines: no model has an image AUROC of 0.8 or more."
    assert poor_lines(found[2:]).startswith("On every line")


def test_lines_whose_quality_is_unknown_come_last(board: Board) -> None:
    (row,) = board.rows_of("few")
    quality = done(row).quality
    unknown = replace(quality, image_auroc=replace(quality.image_auroc, value=None))
    rows = [altered(one, quality=unknown) if one.line == "line-0" else one for one in board.rows]
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
        return altered(row, model=model, quality=replace(done(row).quality, image_auroc=Estimate(value)))

    standing = board.verdict_on(line).standings["good"]
    values = {"a": 0.8, "b": 0.99, "c": 0.9, "d": None, "e": 0.95}
    rows = [*(with_auroc(*item) for item in values.items()), replace(row, model="f", finished=None)]
    verdict = replace(board.verdict_on(line), run="c", tied=("e",), standings={"c": standing, "e": standing})
    found = replace(board, rows=tuple(rows), verdicts=(verdict,)).rows_of(line)
    assert [one.model for one in found] == ["c", "e", "b", "a", "d", "f"]
