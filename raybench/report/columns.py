"""The columns of every table that shows a board: its CSV and data frame, the page, Markdown and the terminal.

A new number is one new entry of `LINE_COLUMNS`, `OVERALL_COLUMNS` or `SUMMARY_COLUMNS`. The entry says
how the number is read from the board, how it is written, and in which outputs it appears.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from raybench.analysis.board import Board, Overall
from raybench.analysis.cost_report import cost
from raybench.analysis.line_summary import LineSummary
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.sentences import format_number, format_probability
from raybench.analysis.verdict import Verdict
from raybench.metrics.numbers import Estimate, Speed
from raybench.report.column import ALL, DASH, READ, Column, Output

ESTIMATE = ("value", "low", "high", "n", "reason")
INTERVAL = ESTIMATE[:3]


def rank(verdict: Verdict | None, model: str) -> str:
    """Return the model's place, the range of places that it may have, or a dash."""
    if verdict is None or model not in verdict.places:
        return DASH
    best, worst = verdict.places[model]
    return str(best) if best == worst else f"{best}–{worst}"


def short(number: Estimate) -> str:
    """Return the value without its interval, or a dash."""
    return DASH if number.value is None else f"{number.value:.3f}"


def _signed(number: Estimate) -> str:
    return DASH if number.value is None else f"{number.value:+.3f}"


def _places(number: Estimate) -> str:
    """`2.3 (1.9–2.8)`, or a dash."""
    if number.value is None:
        return DASH
    interval = f" ({number.low:.1f}–{number.high:.1f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.1f}{interval}"


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


def _ms(speed: Speed) -> str:
    """`15.2 (p95 17.0)`."""
    return f"{_mark(speed.is_disturbed)}{speed.p50_ms:.1f} (p95 {speed.p95_ms:.1f})"


def _brief_ms(speed: Speed) -> str:
    """`15.2 (17.0)`."""
    return f"{_mark(speed.is_disturbed)}{speed.p50_ms:.1f} ({speed.p95_ms:.1f})"


def _mark(is_disturbed: bool) -> str:
    return "~" if is_disturbed else ""


def _mean_ms(board: Board, row: Overall) -> str | None:
    """The mean of a model's medians over lines, marked if one of them is."""
    if row.ms_per_image is None:
        return None
    found = [line.finished for line in board.rows if line.model == row.model and line.finished]
    return f"{_mark(any(model.measured.speed.is_disturbed for model in found))}{row.ms_per_image:.1f}"


def _with_failed(finished: int, failed: int) -> str:
    return f"{finished}, {failed} failed" if failed else str(finished)


def _parts_of_regions(row: BoardRow) -> str:
    parts = {**row.finished.regions.by_type, **row.finished.regions.by_size} if row.finished else {}
    return json.dumps({name: part.value for name, part in parts.items()})


def _false_alarms(model: FinishedModel) -> str:
    """The false-alarm rate on OK test images beside the promised one."""
    promised = model.trained.threshold.promised
    promise = "nothing promised" if promised >= 1 else f"promised {promised:.3f}"
    return f"{format_number(model.quality.false_alarm_rate)}, {promise}"


def _grade_or_reason(board: Board, row: BoardRow) -> tuple[str, ...]:
    """The grade; of a model without numbers also the reason for it."""
    verdict = board.verdict_on(row.line)
    words = (verdict.grades.get(row.model), None if row.finished else verdict.conclusions.get(row.model))
    return tuple(word for word in words if word)


def _of_finished(get: Callable[[FinishedModel], Any]) -> Callable[[Board, BoardRow], Any]:
    """Return how to read a value of a finished model; it is None of a model that did not finish."""
    return lambda _, row: None if row.finished is None else get(row.finished)


LINE_COLUMNS: tuple[Column[BoardRow], ...] = (
    Column("line", lambda _, row: row.line),
    Column("model", lambda _, row: row.model, "model", output=ALL, position=10),
    Column(
        "provenance",
        _of_finished(lambda model: model.trained.provenance),
        "weights",
        output=Output.CSV | Output.REPORT,
        position=40,
        help="Where the network's weights come from: imagenet, official, random, or none.",
    ),
    Column("seeds", lambda _, row: len(row.seeds)),
    Column(
        "image_auroc",
        _of_finished(lambda model: model.quality.image_auroc),
        "image AUROC",
        format_number,
        ALL,
        50,
        ESTIMATE,
        help="How often an NG image scores higher than an OK one; 0.5 is a coin. In brackets: 95 % interval.",
    ),
    Column("image_ap", _of_finished(lambda model: model.quality.image_ap), attributes=ESTIMATE),
    Column("image_f1_max", _of_finished(lambda model: model.quality.image_f1_max), attributes=ESTIMATE),
    Column(
        "recall",
        _of_finished(lambda model: model.quality.recall),
        "recall",
        format_number,
        ALL,
        60,
        ESTIMATE,
        help="Share of NG images above the threshold, which was set from OK images alone.",
    ),
    Column(
        "false_alarm_rate",
        _of_finished(lambda model: model.quality.false_alarm_rate),
        "false alarms",
        short,
        Output.CSV | Output.TERMINAL,
        70,
        ESTIMATE,
    ),
    Column(
        "false_alarms_and_promise",
        _of_finished(_false_alarms),
        "false alarms",
        output=Output.REPORT,
        position=70,
        help="Share of OK test images above the threshold, beside what the held-back OK images can promise.",
    ),
    Column("pixel_auroc", _of_finished(lambda model: model.quality.pixel_auroc), attributes=ESTIMATE),
    Column("pixel_ap", _of_finished(lambda model: model.quality.pixel_ap), attributes=ESTIMATE),
    Column("pixel_f1_max", _of_finished(lambda model: model.quality.pixel_f1_max), attributes=ESTIMATE),
    Column(
        "au_pro",
        _of_finished(lambda model: model.quality.au_pro),
        "AU-PRO",
        format_number,
        ALL,
        90,
        ESTIMATE,
        short,
        help="How much of each defect's region is covered, up to 30 % false-positive pixels.",
    ),
    Column("au_pro_05", _of_finished(lambda model: model.quality.au_pro_05), attributes=ESTIMATE),
    Column("aupimo", _of_finished(lambda model: model.quality.aupimo), attributes=ESTIMATE),
    Column("noise_ok", _of_finished(lambda model: model.quality.noise_ok), attributes=ESTIMATE),
    Column("noise_around", _of_finished(lambda model: model.quality.noise_around), attributes=ESTIMATE),
    Column("sharpness", _of_finished(lambda model: model.quality.sharpness), attributes=ESTIMATE),
    Column(
        "region_recall",
        _of_finished(lambda model: model.regions.all),
        "defects found",
        format_number,
        ALL,
        80,
        INTERVAL,
        short,
        help="Share of the masks' regions that the heat map touches above its own OK-only threshold.",
    ),
    Column("region_recall_by", lambda _, row: _parts_of_regions(row)),
    Column(
        "ms_per_image",
        _of_finished(lambda model: model.measured.speed),
        "ms/image",
        _ms,
        READ,
        110,
        brief=_brief_ms,
        help="Model only, one image at a time, median, alone on the device; in brackets the 95th percentile. ~: other "
        "programs kept the machine busy; on a CPU an estimate from CPU time.",
    ),
    Column("speed_p50_ms", _of_finished(lambda model: model.measured.speed.p50_ms)),
    Column("speed_p95_ms", _of_finished(lambda model: model.measured.speed.p95_ms)),
    Column("speed_prepare_ms", _of_finished(lambda model: model.measured.speed.prepare_ms)),
    Column("speed_end_to_end_ms", _of_finished(lambda model: model.measured.speed.end_to_end_ms)),
    Column("speed_images_per_s", _of_finished(lambda model: model.measured.speed.images_per_s)),
    Column("speed_batch", _of_finished(lambda model: model.measured.speed.batch)),
    Column("speed_device", _of_finished(lambda model: model.measured.speed.device)),
    Column("speed_dtype", _of_finished(lambda model: model.measured.speed.dtype)),
    Column("speed_threads", _of_finished(lambda model: model.measured.speed.threads)),
    Column("speed_out_of_memory_at", _of_finished(lambda model: model.measured.speed.out_of_memory_at)),
    Column("speed_peak_memory_mb", _of_finished(lambda model: model.measured.speed.peak_memory_mb)),
    Column("speed_other_load", _of_finished(lambda model: model.measured.speed.other_load)),
    Column("speed_wall_p50_ms", _of_finished(lambda model: model.measured.speed.wall_p50_ms)),
    Column("speed_is_disturbed", _of_finished(lambda model: model.measured.speed.is_disturbed)),
    Column(
        "size_disk_mb",
        _of_finished(lambda model: model.measured.size.disk_mb),
        "MB",
        _fixed(1),
        ALL,
        130,
        help="The saved detector: all that is needed to score (10^6 bytes).",
    ),
    Column("size_parameters", _of_finished(lambda model: model.measured.size.parameters)),
    Column("size_memory_bank", _of_finished(lambda model: model.measured.size.memory_bank)),
    Column("images_train_ok", _of_finished(lambda model: model.trained.train_ok)),
    Column("images_held_out_ok", _of_finished(lambda model: model.trained.held_out_ok)),
    Column("images_test_ok", _of_finished(lambda model: model.test.ok)),
    Column("images_test_ng", _of_finished(lambda model: model.test.ng)),
    Column("images_test_chosen", _of_finished(lambda model: model.test.chosen)),
    Column("images_masks", _of_finished(lambda model: model.test.masks)),
    Column("threshold", _of_finished(lambda model: model.trained.threshold.value)),
    Column("train_s", _of_finished(lambda model: model.train_s)),
    Column(
        "train_steps", _of_finished(lambda model: model.steps), attributes=("done", "planned", "budget_s", "enough")
    ),
    Column("pixel_threshold", _of_finished(lambda model: model.trained.pixel_threshold.value)),
    Column(
        "test_minutes",
        _of_finished(lambda model: model.test_minutes),
        "test min",
        _fixed(2),
        Output.CSV | Output.REPORT,
        120,
        help="The whole test set one by one, decoding included, in minutes; from the times of ms/image.",
    ),
    Column("weights_note", lambda _, row: row.finished.trained.weights_note if row.finished else ""),
    Column("cpu_hours", lambda _, row: row.hours.cpu),
    Column("gpu_hours", lambda _, row: row.hours.gpu),
    Column("cost", lambda board, row: row.hours.money(board.context.spending.price_per_hour)),
    Column(
        "cost_or_hours",
        lambda board, row: cost(row.hours, board.context.spending.price_per_hour),
        "cost",
        output=Output.REPORT,
        position=140,
        help="Money at the experiment's price per hour, else GPU- or CPU-hours: training, scoring, timing; all seeds.",
    ),
    Column(
        "non_square",
        lambda _, row: row.finished.non_square.text if row.finished else "",
        "non-square",
        output=Output.CSV | Output.REPORT,
        position=150,
        help="What keeping the aspect is worth against squashed images.",
        is_sentence=True,
    ),
    Column(
        "non_square_gain",
        _of_finished(lambda model: model.non_square.gain),
        "aspect",
        _signed,
        Output.CSV | Output.TERMINAL,
        150,
        INTERVAL,
    ),
    Column("non_square_au_pro_gain", _of_finished(lambda model: model.non_square.au_pro_gain)),
    Column("non_square_time_ratio", _of_finished(lambda model: model.non_square.time_ratio)),
    Column(
        "heat_map",
        _of_finished(lambda model: model.heat),
        "heat map",
        str,
        ALL,
        100,
        ("word", "why"),
        lambda grade: grade.word,
        help="From AU-PRO, noise around defects and noise on OK images; the worst of the three counts.",
    ),
    Column("threshold_promised", _of_finished(lambda model: model.trained.threshold.promised)),
    Column(
        "rank",
        lambda board, row: rank(board.verdict_on(row.line), row.model),
        "rank",
        output=ALL,
        position=30,
        help="The middle 95 % of the ranks that the model may have by utility; 1 is best.",
    ),
    Column(
        "grade",
        lambda board, row: board.verdict_on(row.line).grades.get(row.model),
        "grade",
        output=Output.CSV | Output.REPORT,
        position=20,
        help="best: at most the margin behind any other, for 95 % sure; not told apart; worse; not good enough; not "
        "admissible; failed. The last column says why.",
    ),
    Column("utility", lambda board, row: board.verdict_on(row.line).utilities.get(row.model)),
    Column(
        "probability_best",
        lambda board, row: (found := board.verdict_on(row.line).standings.get(row.model)) and found.best,
        "P(best)",
        format_probability,
        Output.CSV | Output.REPORT,
        25,
        help="Probability that no other model compared has a higher utility.",
    ),
    Column(
        "expected_loss",
        lambda board, row: (found := board.verdict_on(row.line).standings.get(row.model)) and found.loss,
        "expected loss",
        _fixed(3),
        Output.CSV | Output.REPORT,
        27,
        help="Utility of the best model, whichever it is, minus that of this one, on average over what may be true.",
    ),
    Column(
        "conclusion",
        lambda board, row: board.verdict_on(row.line).conclusions.get(row.model, ""),
        "why",
        output=Output.CSV | Output.REPORT,
        position=160,
        help="What the grade rests on, or why there is none.",
        is_sentence=True,
    ),
    Column("grade_or_reason", _grade_or_reason, "conclusion", ": ".join, Output.TERMINAL, 160),
    Column("failure_phase", lambda _, row: row.failures[-1].phase if row.failures else None),
    Column("failure_error_type", lambda _, row: row.failures[-1].error_type if row.failures else None),
    Column("failure_message", lambda _, row: row.failures[-1].message if row.failures else None),
    Column("failure_attempt", lambda _, row: row.failures[-1].attempt if row.failures else None),
)
"""Of one line and model. In the order of the CSV; `position` gives the order elsewhere."""

OVERALL_COLUMNS: tuple[Column[Overall], ...] = (
    Column("model", lambda _, row: row.model, "model", output=READ),
    Column("grade", lambda _, row: row.grade, "grade", output=READ),
    Column(
        "mean_rank",
        lambda _, row: row.mean_rank,
        "mean rank",
        _places,
        READ,
        help="The mean of the model's ranks by image AUROC on each line; failed ones rank last. In brackets: 95 % "
        "interval over lines.",
    ),
    Column("rank", lambda board, row: rank(board.over_all, row.model), "rank", output=READ),
    Column("provenance", lambda _, row: row.provenance, "weights", output=Output.REPORT),
    Column(
        "lines",
        lambda _, row: _with_failed(row.lines, row.failed),
        "lines",
        output=READ,
        help="Lines on which the model finished.",
    ),
    Column("image_auroc", lambda _, row: row.image_auroc, "image AUROC", _fixed(3), READ),
    Column("recall", lambda _, row: row.recall, "recall", _fixed(3), READ),
    Column("false_alarm_rate", lambda _, row: row.false_alarm_rate, "false alarms", _fixed(3), READ),
    Column("region_recall", lambda _, row: row.region_recall, "defects found", _fixed(3), READ),
    Column(
        "pixel_auroc",
        lambda _, row: row.pixel_auroc,
        "pixel AUROC",
        _fixed(3),
        Output.REPORT,
        help="As image AUROC, pixel by pixel, at the source's own resolution.",
    ),
    Column("au_pro", lambda _, row: row.au_pro, "AU-PRO", _fixed(3), READ),
    Column("ms_per_image", _mean_ms, "ms/image", output=READ),
    Column("test_minutes", lambda _, row: row.test_minutes, "test min", _fixed(2), Output.REPORT),
    Column("size_mb", lambda _, row: row.size_mb, "MB", _fixed(1), READ),
    Column(
        "cost",
        lambda board, row: cost(row.hours, board.context.spending.price_per_hour),
        "cost",
        output=Output.REPORT,
    ),
    Column("conclusion", lambda _, row: row.conclusion, "why", output=READ),
)
"""Of one model over all lines, from left to right. Numbers are means over lines."""

SUMMARY_COLUMNS: tuple[Column[LineSummary], ...] = (
    Column("line", lambda _, row: row.line, "line", output=READ),
    Column("best", lambda _, row: row.best, "best image AUROC", format_number, READ, help="Of the best model there."),
    Column(
        "run",
        lambda _, row: row.run,
        "run",
        output=READ,
        help="The model that the verdict names; recall and what follows are its.",
    ),
    Column(
        "recall",
        lambda _, row: row.named and row.named.quality.recall,
        "recall",
        short,
        READ,
    ),
    Column(
        "false_alarm_rate",
        lambda _, row: row.named and row.named.quality.false_alarm_rate,
        "false alarms",
        short,
        READ,
    ),
    Column(
        "region_recall",
        lambda _, row: row.named and row.named.regions.all,
        "defects found",
        short,
        READ,
    ),
    Column("heat_map", lambda _, row: row.named and row.named.heat, "heat map", output=READ),
    Column(
        "models",
        lambda _, row: _with_failed(row.finished, row.failed),
        "models",
        output=READ,
        help="Models that finished.",
    ),
    Column(
        "conclusion",
        lambda _, row: row.conclusion,
        "conclusion",
        output=READ,
        help="Grade of the model to run, or why there is none.",
    ),
)
"""Of one line in short, from left to right."""

HELP = {
    column.header: column.help
    for columns in (LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS)
    for column in columns
    if column.help
}
"""What each header means."""


def line_cells(board: Board, row: BoardRow) -> dict[str, Any]:
    """Return the cells of a row of `board.csv` by their names."""
    columns = (column for column in LINE_COLUMNS if Output.CSV in column.output)
    return {name: value for column in columns for name, value in column.values(board, row).items()}


def board_frame(board: Board) -> pd.DataFrame:
    """Return the numbers of a board as a table: exactly what `board.csv` holds.

    Args:
        board: The comparison.

    Returns:
        One row per line and model, failed models included. An estimate has the columns `<name>`, `<name>_low` and
        `<name>_high` (95 % interval), most of them `<name>_n` and `<name>_reason` as well. The columns are the same for
        every board.
    """
    names = [name for column in LINE_COLUMNS if Output.CSV in column.output for name in column.names]
    return pd.DataFrame([line_cells(board, row) for row in board.rows], columns=names)
