from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from raybench.analysis.board import Board
from raybench.analysis.queue_evaluation import QueueEvaluation, Spread
from raybench.analysis.squash_baseline import NonSquare
from raybench.metrics.numbers import Estimate, Speed
from raybench.report.console import WORST_SHOWN, RunSummary, console_board, console_summary
from raybench.runs.records import ModelSize
from tests.support.results import altered

BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]
HOSTILE = "[bold]<b>|"


@pytest.fixture(scope="module")
def many(board_of: BoardOf) -> Board:
    """Lines of rising quality, the later ones easier; more than a terminal shows."""
    return board_of(
        {f"line-{at:02}": {"good": 0.2 + at / 8, "bad": at / 10} for at in range(WORST_SHOWN + 5)}
        | {HOSTILE: {"good": None, "bad": None}}
    )


def printed(board: Board, lines: Sequence[str] = (), width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(console_board(board, lines))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def ended(board: Board) -> list[str]:
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    console.print(console_summary(RunSummary(board, 4, 1), ()), soft_wrap=True)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def queue(line: str, flagged: int, picked: int, suspicious: int = 0) -> QueueEvaluation:
    unknown, spread = Estimate(None), Spread(None, None)
    return QueueEvaluation(
        line, 50, flagged, picked, 0, 10, suspicious, unknown, unknown, unknown, spread, spread, 0, False
    )


def test_the_end_has_a_row_per_line(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"good": 3.0, "bad": 0.3}, HOSTILE: {"good": 2.0, "bad": 0.1}})
    board = replace(board, payoffs=(queue("bottle", 9, 5, 2), queue(HOSTILE, 0, 0)))
    assert board.over_all
    assert ended(board) == [
        *(verdict.sentence for verdict in board.verdicts),
        board.over_all.sentence,
        "Annotate 5 of 9 flagged images: bottle 5. Flagged OK training images, perhaps mislabelled: 2.",
        "4 units: 3 done now, 1 done before, 0 failed",
    ]
    assert {rows.partition(":")[0] for rows in ended(board)[:2]} == {"bottle", HOSTILE}


def test_what_is_noted_of_several_lines_is_said_once(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"good": 3.0}, "cap": {"good": 2.0}})
    first, second = (
        replace(verdict, notes=("It is dark.", note)) for verdict, note in zip(board.verdicts, "AB", strict=True)
    )
    told = ended(replace(board, verdicts=(first, second)))
    assert told[:5] == [first.sentence, "A", second.sentence, "B", "bottle, cap: It is dark."]


def test_the_end_of_many_lines_has_the_worst(many: Board) -> None:
    board = replace(many, payoffs=tuple(queue(line, 1, 1) for line in many.lines))
    over_all, poor, *worst, annotate, done = ended(board)
    assert many.over_all
    assert over_all == many.over_all.sentence
    assert poor.endswith(" The worst 5 of 26:")
    assert [row.partition(": ")[0] for row in worst] == [HOSTILE, "line-00", "line-01", "line-02", "line-03"]
    assert annotate.startswith("Annotate 26 of 26 flagged images: ")
    assert annotate.endswith("and 18 more lines.")
    assert done == "4 units: 3 done now, 1 done before, 0 failed"


def test_the_end_of_many_lines_has_the_notes_of_the_worst(many: Board) -> None:
    noted = tuple(replace(verdict, notes=(f"{verdict.line} is dark.",)) for verdict in many.verdicts)
    told = ended(replace(many, verdicts=noted))
    assert "line-00 is dark." in told
    assert "line-20 is dark." not in told


def test_the_end_of_a_run_without_flags(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"good": 3.0}})
    assert ended(replace(board, payoffs=(queue("bottle", 0, 0),)))[1] == "Nothing to annotate: no image is flagged."
    assert len(ended(board)) == 2


def test_one_row_a_model_with_its_numbers_in_120_columns(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"reverse_distillation": 3.0, "fake": 0.3}})
    gain = NonSquare("kept", Estimate(0.047, 0.015, 0.084))
    rows = [
        altered(
            row,
            speed=Speed(10.25, 11.0, 10.0, 20.0, 90.0, 8, "box", "float32", 2),
            size=ModelSize(12.5, 9),
            non_square=gain,
        )
        for row in board.rows
    ]
    text = printed(replace(board, rows=tuple(rows)), width=120)
    assert "run reverse_distillation" in text.splitlines()[0]
    best, worst = (
        next(line for line in text.splitlines() if line.startswith(name)) for name in ("reverse_dist", "fake ")
    )
    for cell in ("1.000", "10.2", "12.5", "+0.047", "best"):
        assert cell in best
    assert "(11.0)" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "not good" in worst
    assert text.index("reverse_distillation ") < text.index("fake ")


def test_a_model_that_failed_says_why(board_of: BoardOf) -> None:
    text = printed(board_of({HOSTILE: {"good": 3.0, "broken": None}}))
    assert "failed: ModelError in train" in text
    assert HOSTILE in text


def test_a_terminal_shows_the_worst_of_many_lines(many: Board) -> None:
    text = printed(many)
    assert "Worst lines first. " in text
    assert "mean rank" in text
    assert text.index("run good") < text.index("Worst lines first") < text.index("line-00") < text.index("line-01")
    assert "line-18" in text
    assert "line-20" not in text
    assert "6 more lines: all are in index.html" in text
    assert len(text.splitlines()) < 60


def test_a_terminal_shows_the_lines_that_are_asked_for(many: Board) -> None:
    text = printed(many, ["line-24"])
    assert "line-24: run " in text
    assert "line-23" not in text
    assert "Worst lines first" not in text
