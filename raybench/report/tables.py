"""The board and the flags as files, and the cells of every table that shows them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from raybench.analysis.board import Board, Overall
from raybench.analysis.cost_report import cost
from raybench.analysis.decision import Verdict, format_number
from raybench.analysis.flags import Flag
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.analysis.rows import BoardRow
from raybench.analysis.squash_baseline import NonSquare
from raybench.metrics.numbers import Estimate, RegionRecall
from raybench.report.conditions import conditions

FEW_LINES = 6  # of more than a few lines a table lists the worst
LINE_HEADERS = (
    "model",
    "grade",
    "rank",
    "weights",
    "image AUROC",
    "recall",
    "false alarms",
    "defects found",
    "AU-PRO",
    "heat map",
    "ms/image",
    "test min",
    "MB",
    "cost",
    "non-square",
    "why",
)
WORDY = ("non-square", "why")  # of these: sentences, where the others have numbers
AUROC_COLUMN = LINE_HEADERS.index("image AUROC")
OVERALL_HEADERS = (
    "model",
    "grade",
    "mean rank",
    "rank",
    "weights",
    "lines",
    "image AUROC",
    "recall",
    "false alarms",
    "defects found",
    "pixel AUROC",
    "AU-PRO",
    "ms/image",
    "test min",
    "MB",
    "cost",
    "why",
)
SUMMARY_HEADERS = (
    "line",
    "best image AUROC",
    "run",
    "recall",
    "false alarms",
    "defects found",
    "heat map",
    "models",
    "conclusion",
)

EXPLAINED = {
    "mean rank": "The mean of the model's ranks by image AUROC on each line; failed ones rank last. In brackets: 95 % "
    "interval over lines.",
    "best image AUROC": "Of the best model there.",
    "run": "The model that the verdict names; recall and what follows are its.",
    "models": "Models that finished.",
    "rank": "All places that the intervals of the differences between models leave; 1 is best.",
    "weights": "Where the network's weights come from: imagenet, distilled, official, random, or none.",
    "lines": "Lines on which the model finished.",
    "image AUROC": "How often an NG image scores higher than an OK one; 0.5 is a coin. In brackets: 95 % interval.",
    "recall": "Share of NG images above the threshold, which was set from OK images alone.",
    "false alarms": "Share of OK test images above the threshold, beside what the held-back OK images can promise.",
    "defects found": "Share of the masks' regions that the heat map touches above its own OK-only threshold.",
    "pixel AUROC": "As image AUROC, pixel by pixel, at the source's own resolution.",
    "AU-PRO": "How much of each defect's region is covered, up to 30 % false-positive pixels.",
    "heat map": "From AU-PRO, noise around defects and noise on OK images; the worst of the three counts.",
    "ms/image": "Model only, one image at a time, median, alone on the device.",
    "test min": "The whole test set one by one, decoding included, in minutes.",
    "MB": "The saved detector: all that is needed to score (10^6 bytes).",
    "cost": "Money at the experiment's price per hour, else GPU- or CPU-hours: training, scoring, timing; all seeds.",
    "non-square": "What keeping the aspect is worth against squashed images.",
    "grade": "best, good, not good, or not enough images to tell; the last column says why.",
    "why": "What the grade rests on, or why there is none.",
    "conclusion": "best, good, not good, or not enough images to tell.",
    "excess": "How far above the threshold, in units of how far the threshold lies above a typical OK image.",
    "flagged by": "Models above whose threshold the image lies.",
}


def board_csv(board: Board) -> bytes:
    """One row per line and model; every number with its interval in columns of their own."""
    return pd.DataFrame([_flat(board, row) for row in board.rows]).to_csv(index=False).encode()


def board_md(board: Board) -> str:
    """GitHub tables: the overall one, the lines in short where they are many, then one per line, and the conditions."""
    parts = [f"# {board.context.run}", "", "## All lines", ""]
    if board.over_all:
        parts += [board.over_all.sentence, ""]
    parts += _markdown(OVERALL_HEADERS, overall_cells(board))
    summaries = worst_first(board)
    if len(summaries) > FEW_LINES:
        cells = [summary_cells(summary) for summary in summaries]
        parts += ["", "## Worst lines first", "", poor_lines(summaries), "", *_markdown(SUMMARY_HEADERS, cells)]
    for line in [summary.line for summary in summaries]:
        cells = [line_cells(board, row) for row in board.rows_of(line)]
        parts += ["", f"## {line}", "", board.verdict_on(line).sentence, "", *_markdown(LINE_HEADERS, cells)]
        if payoff := board.payoff_on(line):
            parts += ["", payoff.sentence]
    return "\n".join([*parts, "", *(f"- {text}" for text in conditions(board)), ""])


def flags_parquet(flags: Sequence[Flag]) -> bytes:
    columns = [each.name for each in fields(Flag)]
    rows = [asdict(flag) | {"models": list(flag.models), "kinds": list(flag.kinds)} for flag in flags]
    sink = io.BytesIO()
    types = {
        "signal": "string",
        "signal_confidence": "float64",
        "signal_evidence": "string",
    }  # also where none is known
    pd.DataFrame(rows, columns=columns).astype(types).to_parquet(sink, index=False)
    return sink.getvalue()


def summary_cells(summary: LineSummary) -> list[str]:
    """The cells of SUMMARY_HEADERS."""
    row = summary.named
    quality = row.quality if row else None
    return [
        summary.line,
        format_number(summary.best),
        row.model if row else "–",
        short(quality.recall) if quality else "–",
        short(quality.false_alarm_rate) if quality else "–",
        short(row.regions.all) if row and row.regions else "–",
        str(row.heat) if row and row.heat else "–",
        f"{summary.finished}, {summary.failed} failed" if summary.failed else str(summary.finished),
        summary.conclusion,
    ]


def line_cells(board: Board, row: BoardRow) -> list[str]:
    """The cells of LINE_HEADERS."""
    quality, speed, size = row.quality, row.speed, row.size
    verdict = board.verdict_on(row.line)
    return [
        row.model,
        verdict.grades.get(row.model) or "–",
        rank(verdict, row.model),
        row.provenance or "–",
        format_number(quality.image_auroc) if quality else "–",
        format_number(quality.recall) if quality else "–",
        _alarms(row),
        format_number(row.regions.all) if row.regions else "–",
        format_number(quality.au_pro) if quality else "–",
        str(row.heat) if row.heat else "–",
        f"{speed.p50_ms:.1f}" if speed else "–",
        f"{row.test_minutes:.2f}" if row.test_minutes is not None else "–",
        f"{size.disk_mb:.1f}" if size else "–",
        cost(row.hours, board.context.spending.price_per_hour),
        row.non_square.text or "–",
        verdict.conclusions.get(row.model) or "–",
    ]


def rank(verdict: Verdict | None, model: str) -> str:
    """The place, or the places that it may have."""
    if verdict is None or model not in verdict.places:
        return "–"
    best, worst = verdict.places[model]
    return str(best) if best == worst else f"{best}–{worst}"


def _alarms(row: BoardRow) -> str:
    """The false-alarm rate on OK test images beside the one that is promised."""
    if row.quality is None or row.threshold is None:
        return "–"
    return f"{format_number(row.quality.false_alarm_rate)}, promised {row.threshold.promised:.3f}"


def overall_cells(board: Board) -> list[list[str]]:
    """The cells of OVERALL_HEADERS, one list per model."""
    return [_overall_cells(board, one) for one in board.overall]


def _overall_cells(board: Board, one: Overall) -> list[str]:
    def plain(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = f"{one.lines}, {one.failed} failed" if one.failed else str(one.lines)
    quality = (one.image_auroc, one.recall, one.false_alarm_rate, one.region_recall, one.pixel_auroc, one.au_pro)
    return [
        one.model,
        one.grade or "–",
        _places(one.mean_rank),
        rank(board.over_all, one.model),
        one.provenance or "–",
        lines,
        *(plain(value, 3) for value in quality),
        plain(one.ms_per_image, 1),
        plain(one.test_minutes, 2),
        plain(one.size_mb, 1),
        cost(one.hours, board.context.spending.price_per_hour),
        one.conclusion or "–",
    ]


def _places(number: Estimate) -> str:
    """`2.3 (1.9–2.8)`, or a dash."""
    if number.value is None:
        return "–"
    interval = f" ({number.low:.1f}–{number.high:.1f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.1f}{interval}"


def short(number: Estimate) -> str:
    return "–" if number.value is None else f"{number.value:.3f}"


def _flat(board: Board, row: BoardRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"line": row.line, "model": row.model, "provenance": row.provenance, "seeds": len(row.seeds)}
    for name, number in (asdict(row.quality) if row.quality else {}).items():
        flat |= {name: number["value"], f"{name}_low": number["low"], f"{name}_high": number["high"]}
        flat |= {f"{name}_n": number["n"], f"{name}_reason": number["reason"]}
    flat |= _flat_regions(row.regions)
    flat |= {f"speed_{name}": value for name, value in (asdict(row.speed) if row.speed else {}).items()}
    flat |= {f"size_{name}": value for name, value in (asdict(row.size) if row.size else {}).items()}
    flat |= {f"images_{name}": value for name, value in (asdict(row.counts) if row.counts else {}).items()}
    flat |= {"threshold": row.threshold.value if row.threshold else None, "train_s": row.train_s}
    flat |= {"pixel_threshold": row.pixel_threshold.value if row.pixel_threshold else None}
    flat |= {"test_minutes": row.test_minutes, "weights_note": row.weights_note}
    flat |= {"cpu_hours": row.hours.cpu, "gpu_hours": row.hours.gpu}
    flat |= {"cost": row.hours.money(board.context.spending.price_per_hour)}
    flat |= _flat_non_square(row.non_square)
    verdict = board.verdict_on(row.line)
    flat |= {"heat_map": row.heat.word if row.heat else None, "heat_map_why": row.heat.why if row.heat else None}
    flat |= {"threshold_promised": row.threshold.promised if row.threshold else None, "rank": rank(verdict, row.model)}
    flat |= {"grade": verdict.grades.get(row.model), "worth": verdict.worth.get(row.model)}
    flat["conclusion"] = verdict.conclusions.get(row.model, "")
    failure = row.failures[-1] if row.failures else None
    names = ("phase", "error_type", "message", "attempt")
    return flat | {f"failure_{name}": getattr(failure, name) if failure else None for name in names}


def _flat_regions(found: RegionRecall | None) -> dict[str, Any]:
    number = found.all if found else Estimate(None)
    names = {"region_recall": number.value, "region_recall_low": number.low, "region_recall_high": number.high}
    parts = {**found.by_type, **found.by_size} if found else {}
    return names | {"region_recall_by": json.dumps({name: part.value for name, part in parts.items()})}


def _flat_non_square(found: NonSquare) -> dict[str, Any]:
    gain = found.gain or Estimate(None)
    return {
        "non_square": found.text,
        "non_square_gain": gain.value,
        "non_square_gain_low": gain.low,
        "non_square_gain_high": gain.high,
        "non_square_au_pro_gain": found.au_pro_gain,
        "non_square_time_ratio": found.time_ratio,
    }


def _markdown(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    return [line(headers), line(["---"] * len(headers)), *(line(row) for row in cells)]
