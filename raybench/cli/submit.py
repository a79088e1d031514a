"""`raybench submit`: run an experiment on a Ray cluster as a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import STOPPED, err, out
from raybench.config.experiment import read_experiment
from raybench.errors import InputError


def submit(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Where jobs are submitted: http://HOST:8265.")
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job, and end with the run's own exit code.")] = True,
    resources: Annotated[
        str, typer.Option(help='What the driver\'s node must have, as JSON; {"helper": 0.1} with cluster/kuberay.')
    ] = "",
) -> None:
    """Run an experiment on a Ray cluster as a job: it uploads the experiment and modules of own detectors beside it."""
    from raybench.scheduler.submit import submit as submit_job

    job = submit_job(read_experiment(experiment), experiment, address, _resources(resources))
    stop = f"ray job stop --address {address} {job.id}"
    err.print(f"job {job.id}; stop it with: {stop}", highlight=False, markup=False, soft_wrap=True)
    if not wait:
        return
    try:
        code = job.follow(lambda text: out.out(text, end="", highlight=False))
    except KeyboardInterrupt:
        err.print(
            f"\nthe job goes on; follow it with: ray job logs --follow --address {address} {job.id}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        sys.exit(STOPPED)
    sys.exit(STOPPED if code is None else code)


def _resources(text: str) -> dict[str, float]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f'--resources {text}: {error}; write JSON, as {{"helper": 0.1}}') from error
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise InputError(f'--resources {text}: write names with numbers, as {{"helper": 0.1}}')
    return found
