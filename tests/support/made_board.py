"""A board of literal numbers: nothing of it is computed, so that its outputs can be compared byte for byte."""

from __future__ import annotations

from dataclasses import fields

from raybench.analysis.board import Board, BoardContext, Overall
from raybench.analysis.comparison import Standing
from raybench.analysis.cost_report import CostReport, Hours
from raybench.analysis.heatmap_grade import HeatmapGrade
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.squash_baseline import NonSquare
from raybench.analysis.verdict import Verdict
from raybench.data.geometry import Input
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.runs.records import Failure, ImageCounts, ModelSize
from tests.support.results import UNIT, altered

NO_MASKS = Estimate(None, reason="no masks")
PIXELS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "au_pro", "au_pro_05", "aupimo", "noise_around")


def made_board() -> Board:
    """Two lines and two models: with masks, without masks, and one that failed."""
    rows = (_row("bottle", "padim", 0.75), _row("bottle", "fake", 0.5, masks=False), _failed("cap", "fake"),
            _row("cap", "padim", 0.625))  # fmt: skip
    standings = {
        "padim": Standing(0.75, 1.0, 0.0, Estimate(0.0, 0.0, 0.0), (1, 1)),
        "fake": Standing(0.25, 0.5, 0.125, Estimate(0.25, 0.125, 0.375), (1, 2)),
    }
    verdicts = (
        Verdict(
            "bottle", "padim", (), "bottle: run padim.", {"padim": "best", "fake": "not told apart"},
            {"padim": "image AUROC 0.75", "fake": "behind | by 0.25"}, standings,
            {"padim": {"image AUROC": 0.75, "time": -0.25}, "fake": {"image AUROC": 0.5}},
            Estimate(0.6875, 0.5625, 0.8125, 16), 0.75, 0.0, 60, ("Times are | estimates.",),
        ),
        Verdict("cap", None, (), "cap: too few images.", {"fake": "failed"}, {"fake": "failed in score: Oops"}),
    )  # fmt: skip
    overall = (
        Overall("padim", "imagenet", 2, 0, 2, 0.6875, 0.5, 0.0625, 0.25, 0.5, 0.5, 11.0, 0.25, 12.5, 1, 0, "best",
                "best or not told apart on 1 of 1 lines", Hours(2.0, 1.0, 2), Estimate(1.0, 1.0, 1.5, 2)),
        Overall("fake", None, 1, 1, 1, 0.5, 0.5, 0.0625, None, None, None, None, None, None, 0, 0, "", "behind"),
    )  # fmt: skip
    over_all = Verdict("all lines", "padim", (), "all lines: run padim.", standings={"padim": standings["padim"]})
    context = BoardContext(
        "night", "2026-01-01T00:00:00+00:00", "d" * 64, {"raybench": "0.1"}, 0.05,
        spending=CostReport(Hours(2.0, 1.0, 2), 2.5),
    )  # fmt: skip
    return Board(context, rows, overall, verdicts, over_all)


def _row(line: str, model: str, value: float, masks: bool = True) -> BoardRow:
    known = {each.name: Estimate(value, value - 0.125, value + 0.125, 16) for each in fields(Quality)}
    regions = RegionRecall(known["au_pro"], {"scratch": known["au_pro"]}, {"small": NO_MASKS})
    return BoardRow(
        line=line,
        model=model,
        seeds=(0, 1),
        failures=(),
        hours=Hours(1.0, 0.5, 1),
        finished=FinishedModel(
            input=Input("native", 64, 96, 100, 150),
            test=ImageCounts(30, 30, 12, 0),
            trained=altered(
                UNIT.trained,
                threshold=Threshold(2.0, 19, 0.05, 0.0625, 1.0),
                pixel_threshold=Threshold(3.5 if masks else None, 19, 0.05, 0.0625, 1.0),
                provenance="imagenet" if masks else "none",
                weights_note="from a package",
            ),
            measured=altered(
                UNIT.measured,
                speed=Speed(10.25, 11.5, 2.0, 12.5, 90.0, 8, "box", "float32", 2, other_load=0.25),
                size=ModelSize(12.5, 1000, 5),
            ),
            quality=Quality(**known | ({} if masks else dict.fromkeys(PIXELS, NO_MASKS))),
            regions=regions if masks else RegionRecall(NO_MASKS, {}, {}),
            train_s=1.5,
            non_square=NonSquare("aspect kept", Estimate(0.0625, 0.03125, 0.09375, 60), 0.5, 1.5),
            heat=HeatmapGrade("noisy", masks, "noise on OK images 0.50", 0.5),
            trained_on=(),
            steps=TrainSteps(312, 1000, 60.0) if masks else None,
        ),
    )


def _failed(line: str, model: str) -> BoardRow:
    return BoardRow(line, model, (), (Failure("score", "Oops", "no |\nno", "Traceback", 2),), Hours(), None)
