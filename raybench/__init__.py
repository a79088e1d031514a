"""Which anomaly detector should each product line run, how sure are we, and which images to annotate next?

    plan = make_plan(read_experiment(Path("night.yaml")))
    with connected():
        summary = run_plan(plan)

`raybench.schedule` holds `connected` and `run_plan`; importing it needs Ray.
"""

from raybench.config.experiment import Experiment, read_experiment
from raybench.config.plan import Plan, make_plan
from raybench.data.pack import pack
from raybench.detectors.protocol import Card, Detector, FitContext, Scored, TrainImages
from raybench.errors import RaybenchError
from raybench.runs.records import UnitResult
from raybench.store import Store, open_store

__all__ = [
    "Card",
    "Detector",
    "Experiment",
    "FitContext",
    "Plan",
    "RaybenchError",
    "Scored",
    "Store",
    "TrainImages",
    "UnitResult",
    "make_plan",
    "open_store",
    "pack",
    "read_experiment",
]
