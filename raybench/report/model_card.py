"""The model card of a detector: what it is for, how good it is and how to use it, for people and for model hubs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raybench.analysis.board import Board
from raybench.analysis.rows import BoardRow
from raybench.config.unit import Unit
from raybench.data.card import card_header
from raybench.data.manifest import STATE_DIGITS
from raybench.detectors import registry
from raybench.metrics.numbers import Estimate
from raybench.report.columns import INTERVAL, LINE_COLUMNS

TASK = {"type": "image-classification", "name": "anomaly detection"}


def model_card(unit: Unit, row: BoardRow | None, board: Board | None, about: Mapping[str, Any] | None = None) -> str:
    """Return the card of a unit's detector as Markdown with a YAML header, whose `model-index` holds the numbers.

    Args:
        unit: The unit.
        row: Its own row, of one seed. None: it is not finished, and the card has no numbers.
        board: The comparison that it belongs to, for its verdict. None: there is none, and the card has no numbers.
        about: What describes the exported file; see `onnx_export`. None: the detector is not exported.
    """
    numbers = estimates(board, row) if board and row else {}
    licences = registry.licences(unit.detector, unit.weights, unit.config)
    header: dict[str, Any] = {
        **({"library_name": "onnx"} if about else {}),
        "license": _licence(set(licences.values())),
        "tags": ["anomaly-detection", "visual-inspection", "raybench", unit.detector],
    }
    if numbers:
        header["model-index"] = [{"name": f"{unit.line}-{unit.model}", "results": [_result(unit, numbers)]}]
    parts = [
        f"{card_header(header)}\n# {unit.model} on {unit.line}",
        f"An unsupervised anomaly detector (`{unit.detector}`, seed {unit.seed}) for images of the product line "
        f"`{unit.line}`, trained on OK images alone by raybench. On images of another line, camera or light its "
        "threshold promises nothing.",
        _verdict(unit, board),
        _table(numbers),
        "\n".join(f"- {note}" for note in _notes(unit, row, licences, about)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def estimates(board: Board, row: BoardRow) -> dict[str, Estimate]:
    """Return the numbers of a row that have an interval, by the names of their columns. Undefined ones are left out."""
    columns = (column for column in LINE_COLUMNS if column.attributes[: len(INTERVAL)] == INTERVAL)
    found = {column.name: column.get(board, row) for column in columns}
    return {name: number for name, number in found.items() if number is not None and number.value is not None}


def _result(unit: Unit, numbers: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return an entry of `results` as the hub's `model-index` has it."""
    dataset = {"name": unit.line, "type": unit.line, "split": "test", "revision": unit.line_digest[:STATE_DIGITS]}
    metrics = [
        {"type": name, "value": number.value, "args": {"low": number.low, "high": number.high, "n": number.n}}
        for name, number in numbers.items()
    ]
    return {"task": TASK, "dataset": dataset, "metrics": metrics}


def _licence(licences: set[str]) -> str:
    """Return the hub's identifier of the only licence; `other` if there are several, or one in words."""
    (only,) = licences if len(licences) == 1 else ("",)
    return only.lower() if re.fullmatch(r"[A-Za-z0-9.-]+", only) else "other"


def _verdict(unit: Unit, board: Board | None) -> str:
    """Return what the report says of the line. Empty if the report is of other images or labels."""
    if board is None or board.context.lines.get(unit.line) != unit.line_digest or unit.line not in board.lines:
        return ""
    verdict = board.verdict_on(unit.line)
    notes = "".join(f"\n> {note}" for note in verdict.notes)
    return f"> {verdict.sentence}{notes}\n\nThe verdict of the run `{board.context.run}`."


def _table(numbers: Mapping[str, Estimate]) -> str:
    if not numbers:
        return ""
    rows = [
        f"| `{name}` | {number.value:.3f} | {_interval(number)} | {number.n or ''} |"
        for name, number in numbers.items()
    ]
    head = "| number | value | 95 % interval | images or regions |\n|---|---:|---:|---:|"
    return "\n".join([f"On the line's test images (names as in `board.csv`):\n\n{head}", *rows])


def _interval(number: Estimate) -> str:
    return "" if number.low is None or number.high is None else f"{number.low:.3f} to {number.high:.3f}"


def _notes(unit: Unit, row: BoardRow | None, licences: Mapping[str, str], about: Mapping[str, Any] | None) -> list[str]:
    notes = []
    if about:
        given = about["input"]
        notes.append(
            f"Input `{given['name']}`: source pixels {tuple(given['shape'])} {given['dtype']}, {given['channels']}. "
            f"Outputs: {', '.join(f'`{name}`' for name in about['outputs'])}."
        )
    if row and row.finished:
        trained, speed = row.finished.trained, row.finished.measured.speed
        threshold = trained.threshold
        promise = f"promises a false-alarm rate of {threshold.promised:.3f}" if threshold.promised < 1 else "no promise"
        notes += [
            f"Trained on {trained.train_ok} OK images; {trained.held_out_ok} more were held back.",
            f"Threshold {threshold.value}: {'; '.join(filter(None, [promise, threshold.note]))}.",
            f"Weights: {', '.join(filter(None, [trained.provenance, trained.weights_note]))}.",
            f"{speed.p50_ms:.1f} ms per image (p95 {speed.p95_ms:.1f}) on {speed.device}"
            f"{', estimated while other programs ran' if speed.is_disturbed else ''}.",
        ]
    notes.append("Licences: " + ", ".join(f"{what} {licence}" for what, licence in licences.items()) + ".")
    notes.append(f"Unit `{unit.unit_id}`.")
    return notes
