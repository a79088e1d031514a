"""The board and the flags as files and on the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from pydantic import TypeAdapter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybench.findings.board import Board, Overall
from raybench.findings.flags import Flag
from raybench.findings.non_square import NonSquare
from raybench.findings.rows import Row
from raybench.findings.verdict import shown
from raybench.results import Number

_BOARD = TypeAdapter(Board)
BUSY = 0.15  # from here on, a time is reported with the load it was taken under
LINE_HEADERS = (
    "model",
    "weights",
    "image AUROC",
    "recall",
    "false alarms",
    "pixel AUROC",
    "AU-PRO",
    "ms/image",
    "test min",
    "MB",
    "non-square",
    "conclusion",
)
OVERALL_HEADERS = ("model", "weights", "lines", *LINE_HEADERS[2:10], "conclusion")


def board_json(board: Board) -> bytes:
    return _BOARD.dump_json(board, indent=1) + b"\n"


def board_from_json(data: bytes) -> Board:
    """What `board_json` wrote."""
    return _BOARD.validate_json(data)


def board_csv(board: Board) -> bytes:
    """One row per line and model; every number with its interval in columns of their own."""
    return pd.DataFrame([_flat(board, row) for row in board.rows]).to_csv(index=False).encode()


def board_md(board: Board) -> str:
    """GitHub tables: the overall one first, then one per line, then the conditions."""
    parts = [f"# {board.context.run}", "", "## All lines", "", *_markdown(OVERALL_HEADERS, overall_cells(board))]
    for line in board.lines:
        cells = [line_cells(board, row) for row in board.rows_of(line)]
        parts += ["", f"## {line}", "", board.verdict_on(line).sentence, "", *_markdown(LINE_HEADERS, cells)]
    return "\n".join([*parts, "", *(f"- {text}" for text in conditions(board)), ""])


def flags_parquet(flags: Sequence[Flag]) -> bytes:
    columns = ["line", "image_id", "label", "models", "of", "score", "reason"]
    rows = [asdict(flag) | {"models": list(flag.models)} for flag in flags]
    sink = io.BytesIO()
    pd.DataFrame(rows, columns=columns).to_parquet(sink, index=False)
    return sink.getvalue()


def console_board(board: Board) -> RenderableType:
    """Tables for a terminal: verdict and numbers per line, then all lines."""
    parts: list[RenderableType] = []
    for line in board.lines:
        parts.append(Text(board.verdict_on(line).sentence, style="bold"))
        parts.append(_table(LINE_HEADERS, [line_cells(board, row) for row in board.rows_of(line)]))
    if len(board.lines) > 1:
        parts.append(Text("All lines (means)", style="bold"))
        parts.append(_table(OVERALL_HEADERS, overall_cells(board)))
    parts += [Text(text, style="dim") for text in conditions(board)]
    return Group(*parts)


def line_cells(board: Board, row: Row) -> list[str]:
    """The cells of LINE_HEADERS."""
    quality, speed, size = row.quality, row.speed, row.size
    return [
        row.model,
        row.provenance or "–",
        shown(quality.image_auroc) if quality else "–",
        shown(quality.recall) if quality else "–",
        short(quality.false_alarm_rate) if quality else "–",
        short(quality.pixel_auroc) if quality else "–",
        shown(quality.au_pro) if quality else "–",
        f"{speed.p50_ms:.1f}" if speed else "–",
        f"{row.test_minutes:.2f}" if row.test_minutes is not None else "–",
        f"{size.disk_mb:.1f}" if size else "–",
        row.non_square.text or "–",
        board.verdict_on(row.line).conclusions.get(row.model, ""),
    ]


def overall_cells(board: Board) -> list[list[str]]:
    """The cells of OVERALL_HEADERS, one list per model."""
    return [_overall_cells(one) for one in board.overall]


def _overall_cells(one: Overall) -> list[str]:
    def plain(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = f"{one.lines}, {one.failed} failed" if one.failed else str(one.lines)
    quality = (one.image_auroc, one.recall, one.false_alarm_rate, one.pixel_auroc, one.au_pro)
    return [
        one.model,
        one.provenance or "–",
        lines,
        *(plain(value, 3) for value in quality),
        plain(one.ms_per_image, 1),
        plain(one.test_minutes, 2),
        plain(one.size_mb, 1),
        one.conclusion,
    ]


def conditions(board: Board) -> list[str]:
    """What the numbers were measured under, one sentence each."""
    context = board.context
    speeds = sorted(
        {f"{speed.device}, {speed.dtype}, {speed.threads} threads" for row in board.rows if (speed := row.speed)}
    )
    texts = [
        "intervals: 95 %, over images; recall at the OK-only threshold with a false-alarm budget of "
        f"{context.false_alarm_budget:.0%}",
        "ms/image: model only, batch 1, median, alone on the device; test min: the test set one by one, "
        "decoding included; MB: the saved detector (10^6 bytes)",
    ]
    texts += [f"device: {text}" for text in speeds]
    texts += [
        f"{row.model} on {row.line}: timed while other programs kept {row.speed.other_load:.0%} of the cores busy"
        for row in board.rows
        if row.speed and row.speed.other_load > BUSY
    ]
    texts += _weights(board)
    texts += sorted({f"{row.model} cannot be exported: {why}" for row in board.rows if (why := row.not_exportable)})
    if context.pending:
        texts.append(f"{context.pending} units are still to be done; the same command goes on with them")
    versions = ", ".join(f"{name} {version}" for name, version in context.versions.items())
    return [*texts, f"{context.created}, experiment {context.digest[:12]}, {versions}"]


def _weights(board: Board) -> list[str]:
    """Where each model's weights come from: said once, or line by line where lines differ."""
    texts = []
    for model in sorted({row.model for row in board.rows if row.weights_note}):
        notes = {row.line: row.weights_note for row in board.rows if row.model == model and row.weights_note}
        if len(set(notes.values())) == 1:
            texts.append(f"{model}: {next(iter(notes.values()))}")
        else:
            texts += [f"{model} on {line}: {note}" for line, note in notes.items()]
    return texts


def short(number: Number) -> str:
    return "–" if number.value is None else f"{number.value:.3f}"


def _flat(board: Board, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"line": row.line, "model": row.model, "provenance": row.provenance, "seeds": len(row.seeds)}
    for name, number in (asdict(row.quality) if row.quality else {}).items():
        flat |= {name: number["value"], f"{name}_low": number["low"], f"{name}_high": number["high"]}
        flat |= {f"{name}_n": number["n"], f"{name}_reason": number["reason"]}
    flat |= {f"speed_{name}": value for name, value in (asdict(row.speed) if row.speed else {}).items()}
    flat |= {f"size_{name}": value for name, value in (asdict(row.size) if row.size else {}).items()}
    flat |= {f"images_{name}": value for name, value in (asdict(row.counts) if row.counts else {}).items()}
    flat |= {"threshold": row.threshold.value if row.threshold else None, "train_s": row.train_s}
    flat |= {"test_minutes": row.test_minutes, "weights_note": row.weights_note}
    flat |= _flat_non_square(row.non_square)
    flat["conclusion"] = board.verdict_on(row.line).conclusions.get(row.model, "")
    failure = row.failures[-1] if row.failures else None
    names = ("phase", "error_type", "message", "attempt")
    return flat | {f"failure_{name}": getattr(failure, name) if failure else None for name in names}


def _flat_non_square(found: NonSquare) -> dict[str, Any]:
    gain = found.gain or Number(None)
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


def _table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    table = Table(*headers, box=None, header_style="dim", pad_edge=False, collapse_padding=True)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table
