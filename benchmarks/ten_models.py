"""Ten models on real lines: `python -m benchmarks.ten_models FOLDER` packs every line below FOLDER (layout mvtec),
runs the comparison with the CPU preset and writes docs/ten-models.md.

Two models run again with random weights in place of ImageNet's: a control that must fall behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from raybench.analysis.board import Board, board_from_json
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.sentences import format_number
from raybench.data.catalog import packed_lines
from raybench.data.geometry import is_square
from raybench.report.columns import rank, short
from raybench.report.conditions import conditions
from raybench.store import open_store

MODELS = (
    "stfpm", "supersimplenet", "cflow", "reverse_distillation", "draem", "fastflow", "padim", "patchcore", "dfm",
    "efficient_ad",
)  # fmt: skip
CONTROLS = ("padim", "patchcore")
WORK = Path("out/ten-models")
PAGE = Path("docs/ten-models.md")
HEADERS = (
    "line", "model", "rank", "grade", "weights", "image AUROC", "AU-PRO", "heat map", "recall", "false alarms", "MB",
    "ms/image", "train s", "non-square gain (image AUROC)",
)  # fmt: skip


def main(source: Path, work: Path = WORK) -> None:
    store = work / "store"
    lines = open_store(str(store)).sub("lines")
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if folder.name not in packed_lines(lines):
            _raybench("pack", str(folder), "--line", folder.name, "--to", str(store))
    experiment = work / "ten-models.yaml"
    experiment.write_text(yaml.safe_dump(_experiment(store), sort_keys=False))
    _raybench("run", str(experiment), "--out", str(work))
    board = board_from_json((work / "ten-models" / "report" / "board.json").read_bytes())
    PAGE.write_text(page(board), encoding="utf-8")
    print(f"written: {PAGE}")


def _experiment(store: Path) -> dict[str, object]:
    models: list[object] = [*MODELS]
    models += [{"name": name, "label": f"{name}-random-weights", "config": {"backbone": "random"}} for name in CONTROLS]
    return {
        "name": "ten-models",
        "store": str(store.resolve()),
        "lines": ["*"],
        "models": models,
        "preset": "cpu",
    }


def _raybench(*arguments: str) -> None:
    code = "from raybench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ, check=False)
    if done.returncode > 1:  # 1: some units failed, and the page says which
        raise SystemExit(done.returncode)


def page(board: Board) -> str:
    rows = [row for line in board.lines for row in board.rows_of(line)]
    table = [HEADERS, ("---",) * len(HEADERS), *(_cells(board, row) for row in rows)]
    about = "\n".join(f"- {text}" for text in conditions(board))
    judged = [*([board.over_all] if board.over_all else []), *board.verdicts]
    verdicts = "\n".join(f"- {verdict.sentence}" for verdict in judged)
    lines = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
    return f"""# Ten models on four real lines

`make ten-models DATA=FOLDER` (`benchmarks/ten_models.py`) writes this page. It uses the CPU preset, the native aspect
ratio, about 256×256 pixels and seed 0. The lines are subsets of MVTec AD (bottle), MVTec 3D-AD (tire), KolektorSDD and
DeepPCB; their images are not part of this repository. Models named `…-random-weights` are controls: the same detector
with an untrained backbone. The CPU preset trains for seconds to minutes, so models trained by gradient descent are not
at their best.
`train s` is measured on one core, with one or two units running at a time; `ms/image` alone, on all cores, with a ~
where another program used the machine and it is an estimate from CPU time.

{verdicts}

{lines}

{about}
"""


def _cells(board: Board, row: BoardRow) -> tuple[str, ...]:
    verdict, found = board.verdict_on(row.line), row.finished
    if found is None:
        failed = f"failed: {row.failures[-1].message}"
        return (row.line, row.model, "", verdict.grades.get(row.model, ""), "", failed, *[""] * (len(HEADERS) - 6))
    return (
        row.line,
        row.model,
        rank(verdict, row.model),
        verdict.grades.get(row.model, ""),
        found.trained.provenance,
        format_number(found.quality.image_auroc),
        short(found.quality.au_pro),
        str(found.heat or ""),
        format_number(found.quality.recall),
        short(found.quality.false_alarm_rate),
        f"{found.measured.size.disk_mb:.1f}",
        f"{'~' * found.measured.speed.is_disturbed}{found.measured.speed.p50_ms:.0f}",
        f"{found.train_s:.0f}",
        _gain(found),
    )


def _gain(model: FinishedModel) -> str:
    size, gain = model.input, model.non_square.gain
    if is_square(size.source_height, size.source_width):
        return "square line"
    if gain is None or gain.value is None:
        return "–"
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else WORK)
