from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from raybench.analysis.board import Board
from raybench.analysis.rows import BoardRow
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.numbers import Speed
from raybench.report.conditions import FEW, conditions
from tests.support.results import altered, done

BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]
SPEED = Speed(10.0, 11.0, 10.0, 20.0, 90.0, 8, "box", "float32", 2)


def changed(board: Board, change: Callable[[int, BoardRow], BoardRow]) -> list[str]:
    return conditions(replace(board, rows=tuple(change(at, row) for at, row in enumerate(board.rows))))


def test_budgets_of_lines_are_told(board_of: BoardOf) -> None:
    board = board_of({line: {"m": 2.0} for line in "abc"})
    assert "with a budget of 5%; promised" in conditions(board)[1]

    def strict(at: int, row: BoardRow) -> BoardRow:
        return altered(row, threshold=replace(done(row).trained.threshold, budget=0.01)) if at else row

    assert "with a budget of 5% (0.01 on 2 lines); promised" in changed(board, strict)[1]


def test_moved_thresholds_are_told_by_line(board_of: BoardOf) -> None:
    board = board_of({line: {"m": 2.0, "n": 1.0} for line in "abc"})

    def moved(at: int, row: BoardRow) -> BoardRow:
        threshold = replace(done(row).trained.threshold, promised=1.0, note="moved to a recall of 90%, and so on")
        return altered(row, threshold=threshold) if row.line != "b" else row

    assert "a, c: each threshold is moved to a recall of 90%, and so on" in changed(board, moved)


def test_many_lines_make_few_sentences(board_of: BoardOf) -> None:
    board = board_of({f"line-{at:02}": {"m": 2.0, "n": 1.0} for at in range(FEW + 4)})

    def noted(at: int, row: BoardRow) -> BoardRow:
        note = f"distilled on {row.line}" if row.model == "m" else f"note {at % 4}"
        return altered(row, weights_note=note, speed=replace(SPEED, other_load=0.2 + at / 100))

    texts = changed(board, noted)
    assert len(texts) < 22
    assert (
        "24 of 24 times were taken while other programs kept 10% of the cores or more busy, 43% at worst"
        in "\n".join(texts)
    )
    assert "m on line-00: distilled on line-00" in texts
    assert "m: 4 more of the kind; board.csv has each" in texts
    assert sum(text.startswith("n on line-") for text in texts) == 2


def test_models_on_the_same_weights_share_a_sentence(board_of: BoardOf) -> None:
    board = board_of({"a": {"m": 2.0, "n": 2.0, "o": 2.0}, "b": {"m": 2.0, "n": 2.0, "o": 2.0}})
    texts = changed(board, lambda at, row: altered(row, weights_note="other" if row.model == "n" else "w"))
    assert "m, o: w" in texts
    assert "n: other" in texts


def test_of_few_each_is_told(board_of: BoardOf) -> None:
    board = board_of({"a": {"m": 2.0}, "b": {"m": 2.0}})

    def busy(at: int, row: BoardRow) -> BoardRow:
        return altered(row, weights_note="w", speed=replace(SPEED, other_load=0.3 * at, wall_p50_ms=wall_ms))

    wall_ms: float | None = None
    texts = changed(board, busy)
    assert "m: w" in texts
    told = "~: m on b was timed while other programs kept 30% of the cores busy"
    assert [text for text in texts if text.startswith("~")] == [told]
    wall_ms = 250.0
    assert f"{told}: 250.0 ms, from its CPU time 10.0" in changed(board, busy)


def test_lines_trained_on_cpus_and_gpus_are_told(board_of: BoardOf) -> None:
    board = board_of({"a": {"m": 2.0, "n": 2.0}, "b": {"m": 2.0, "n": 2.0}})
    kinds = [("cuda",), ("cpu", "cuda"), ("cuda",), ("cuda",)]
    told = [text for text in changed(board, lambda at, row: altered(row, trained_on=kinds[at])) if "trained on" in text]
    assert len(told) == 1
    assert told[0].startswith("a: some units were trained on a CPU and some on a GPU")
    alike = changed(board, lambda at, row: altered(row, trained_on=("cuda",)))
    assert not any("trained on" in text for text in alike)


def test_units_of_several_versions_are_told(board_of: BoardOf) -> None:
    board = board_of({"a": {"m": 2.0}})
    assert not any("revision" in text for text in conditions(board))
    mixed = replace(board.context, versions={"raybench": "0.1.0", "torch": "2.7.0 and 2.8.0"})
    told = "units were made by torch 2.7.0 and 2.8.0, which may not give the same numbers; another `revision` in the"
    assert any(text.startswith(told) for text in conditions(replace(board, context=mixed)))


def test_undertrained_models_are_told_with_the_fewest_steps_of_each(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"m": 2.0, "n": 2.0}, "cap": {"m": 2.0, "n": 2.0}})
    steps = {
        ("bottle", "m"): TrainSteps(60, 60, enough=2000),
        ("cap", "m"): TrainSteps(40, 60, enough=2000),
        ("bottle", "n"): TrainSteps(50, 50, enough=50),
        ("cap", "n"): None,
    }
    texts = changed(board, lambda at, row: altered(row, steps=steps[row.line, row.model]))
    (told,) = [text for text in texts if "undertrained" in text]
    assert told.startswith("undertrained: m took 40 of the 2,000 steps that it should have; ")


def test_training_that_a_budget_cut_short_is_told(board_of: BoardOf) -> None:
    board = board_of({"bottle": {"m": 2.0, "n": 2.0}, "cap": {"m": 2.0, "n": 2.0}})
    steps = [TrainSteps(1000, 1000), TrainSteps(312, 1000, 60.0), TrainSteps(40, 2000, 60.0), None]
    by_row = {(row.line, row.model): at for at, row in enumerate(board.rows)}
    texts = changed(board, lambda at, row: altered(row, steps=steps[at]))
    told = [text for text in texts if "within its budget" in text]
    where = {at: f"{model} on {line}" for (line, model), at in by_row.items()}
    end = "steps within its budget of 60 s; on another machine it would take another number"
    assert set(told) == {f"{where[1]} took 312 of 1,000 {end}", f"{where[2]} took 40 of 2,000 {end}"}
    short = changed(board, lambda at, row: altered(row, steps=TrainSteps(10 + at, 100, 2.5)))
    assert sum("(the least of 2 lines) took 1" in text for text in short) == 2
