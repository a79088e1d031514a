"""Which anomaly detector should each product line run, how sure are we, and which images to annotate next?

    import raybench as rb

    run = rb.run("photos/bottle", models=["padim", "patchcore", "dfm"], preset="cpu")
    run.board()
    run.verdict("bottle")
    run.images("bottle")
    run.heatmap("bottle", "test/bent/013.png", model="padim").plot()

`run` packs the folder, trains, scores and compares on Ray; the same call resumes. What it returns reads the store, as
`open_run` does at any time later without Ray. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raybench import errors
from raybench.errors import RaybenchError

if TYPE_CHECKING:
    from raybench._api.lines import import_labels, pack
    from raybench._api.run import Run
    from raybench._api.running import open_run, plan, run
    from raybench.config.experiment import Experiment, ModelChoice
    from raybench.config.plan import Plan
    from raybench.data.line import Line
    from raybench.detectors.protocol import Card, Detector, FitContext, Scored, TrainImages
    from raybench.report.export_check import check_export
    from raybench.report.notebook import Heatmap

    __version__: str

__all__ = [
    "Card",
    "Detector",
    "Experiment",
    "FitContext",
    "Heatmap",
    "Line",
    "ModelChoice",
    "Plan",
    "RaybenchError",
    "Run",
    "Scored",
    "TrainImages",
    "__version__",
    "check_export",
    "errors",
    "import_labels",
    "open_run",
    "pack",
    "plan",
    "run",
]

_HOMES = {
    **dict.fromkeys(("import_labels", "pack"), "raybench._api.lines"),
    **dict.fromkeys(("open_run", "plan", "run"), "raybench._api.running"),
    "Run": "raybench._api.run",
    **dict.fromkeys(("Experiment", "ModelChoice"), "raybench.config.experiment"),
    "Heatmap": "raybench.report.notebook",
    "check_export": "raybench.report.export_check",
    "Line": "raybench.data.line",
    "Plan": "raybench.config.plan",
    **dict.fromkeys(("Card", "Detector", "FitContext", "Scored", "TrainImages"), "raybench.detectors.protocol"),
}
"""The module of each name that is imported when it is first used."""


if not TYPE_CHECKING:  # with it a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("raybench")
        elif name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
