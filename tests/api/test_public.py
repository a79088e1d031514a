from __future__ import annotations

import raybench


def test_public_names() -> None:
    """What users import. A name that goes or changes its meaning breaks them: say so in CHANGELOG.md."""
    assert raybench.__all__ == [
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
    for name in raybench.__all__:
        assert getattr(raybench, name).__doc__
