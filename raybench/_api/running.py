"""Plan, start and open runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raybench._api.execute import execute
from raybench._api.lines import LAYOUT, STORE
from raybench._api.run import Run
from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import Plan, check_models, make_plan, open_experiment_store, plan_of
from raybench.data.source import name_of, pack_if_changed
from raybench.detectors import registry
from raybench.errors import InputError
from raybench.report.console import console_outcome
from raybench.report.progress import console_for, pack_bar
from raybench.store import open_store


def plan(experiment: Experiment | str | Path) -> Plan:
    """Return what an experiment will train and score; `to_frame()` shows it. Reads the store and writes nothing.

    Raises:
        ExperimentError: Models or lines have faults: all of them are named.
    """
    if isinstance(experiment, Experiment):
        return make_plan(experiment)
    return plan_of(str(experiment))


def run(
    experiment: Experiment | str | Path,
    *,
    models: Sequence[str | Mapping[str, Any] | ModelChoice] | None = None,
    store: str | Path = STORE,
    name: str | None = None,
    layout: str = LAYOUT,
    address: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train, score and measure what is not done yet, then compare. The same call resumes.

    Args:
        experiment: An experiment, the path of an experiment file (.yaml), or a folder of images: a path or a URI. The
            folder is packed as the line that its last part names, unless it is packed and has not changed.
        models: With a folder: the models to compare. None: all of raybench's.
        store: With a folder: where to keep line and run; a path or s3://bucket/prefix.
        name: With a folder: the run's name. None: the line's.
        layout: With a folder: one of those that docs/data-layouts.md lists; auto looks for itself.
        address: Ray cluster, as in `ray.init`. None: the connection that stands, RAY_ADDRESS, or this machine.
        progress: Whether to show bars, and units that failed.
        **settings: With a folder: other keys of an experiment, e.g. preset="cpu" or false_alarm_budget=0.01.

    Raises:
        InputError: The experiment, the images or the store cannot be used as they are.
        StoreError: Object storage failed.
        ClusterUnreachable: No Ray cluster answers at the address.
        RunStopped: A signal ended the run; the same call does the rest.
    """
    console = console_for(progress)
    if isinstance(experiment, Experiment) or str(experiment).endswith((".yaml", ".yml")):
        defaults = {"models": None, "store": STORE, "name": None, "layout": LAYOUT}
        given = {"models": models, "store": str(store), "name": name, "layout": layout} | settings
        if extra := [key for key, value in given.items() if key in settings or value != defaults[key]]:
            raise InputError(f"{', '.join(extra)}: only with a folder of images; set it in the experiment")
        planned = plan(experiment)
    else:
        if address:  # before images are packed for minutes
            from raybench.scheduler.handshake import check_answers

            check_answers(address)
        planned = make_plan(_packed_experiment(str(experiment), models, str(store), name, layout, settings, console))
    summary = execute(planned, address, console)
    if console:
        console.print(console_outcome(summary, planned.units))
    return Run(planned)


def open_run(run: Experiment | str | Path) -> Run:
    """Open a run to read its results, at any time and without Ray.

    Args:
        run: The run's URI `<store>/runs/<name>`, an experiment, or the path of an experiment file.
    """
    return Run(plan(run))


def _packed_experiment(
    source: str,
    models: Sequence[str | Mapping[str, Any] | ModelChoice] | None,
    store: str,
    name: str | None,
    layout: str,
    settings: Mapping[str, Any],
    console: Console | None,
) -> Experiment:
    """The experiment over a folder of images, which is packed when this returns."""
    line = name_of(source)
    keys = {"name": name or line, "store": open_store(store).uri(), "lines": (line,)}
    experiment = Experiment.model_validate(
        keys | {"models": tuple(models or registry.default_names())} | dict(settings)
    )
    check_models(experiment)
    lines = open_experiment_store(experiment).sub("lines")
    with pack_bar(line, console) as show:
        pack_if_changed(open_store(source, **experiment.storage.model_dump()), lines, line, layout, show)
    return experiment
