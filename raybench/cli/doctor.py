"""`raybench doctor`: what this machine, the store and the cluster can do."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import FAULTS, Json, out, print_json
from raybench.config.experiment import Experiment
from raybench.config.plan import check_models, experiment_of, open_experiment_store
from raybench.errors import ExperimentError
from raybench.store import Store, open_store
from raybench.worker.checkup import Check, check_machine, check_ports

WIDTH = 80
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
Found = tuple[str, Check]


def doctor(
    name: Annotated[
        str | None, typer.Argument(help="An experiment file, the run's URI, or a store's; by default no store.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to look at; default RAY_ADDRESS, else none.")] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine, the store and the cluster can do, and how to mend what they cannot."""
    experiment, store = _opened(name)
    found: list[Found] = []
    for where, check in _checks(experiment, store, address or os.environ.get("RAY_ADDRESS")):
        found.append((where, check))
        if not as_json:
            _print(where if len(found) == 1 or found[-2][0] != where else "", check)
    failed = sum(check.state == "fail" for _, check in found)
    warned = sum(check.state == "warn" for _, check in found)
    if as_json:
        print_json({"ok": not failed, "checks": [{"where": where} | asdict(check) for where, check in found]})
    elif failed or warned:
        out.print(f"{failed} to mend, {warned} to know", style="bold", highlight=False)
    else:
        out.print("all is well", style="bold", highlight=False)
    if failed:
        raise typer.Exit(FAULTS)


def _opened(name: str | None) -> tuple[Experiment | None, Store | None]:
    if name is None:
        return None, None
    if Path(name).is_file() or "/runs/" in name:
        experiment = experiment_of(name)
        return experiment, open_experiment_store(experiment)
    return None, open_store(name)


def _checks(experiment: Experiment | None, store: Store | None, address: str | None) -> Iterator[Found]:
    """Look at everything, the quickest first."""
    yield from (("this machine", check) for check in check_machine(store))
    if not address:
        yield "this machine", check_ports()
    if experiment:
        yield "experiment", _check_models(experiment)
    if address:
        from raybench.scheduler.doctor import check_cluster  # takes a second to import

        yield from check_cluster(address, store)


def _check_models(experiment: Experiment) -> Check:
    try:
        check_models(experiment)
    except ExperimentError as error:
        return Check("models", "fail", "; ".join(error.problems))
    return Check("models", "ok", f"all {len(experiment.models)} exist, and their weights are there")


def _print(where: str, check: Check) -> None:
    """Print a finding in WIDTH columns, under a title where it is the first about something."""
    if where:
        out.print(where, style="bold", markup=False, highlight=False, soft_wrap=True)
    lead = f"  {check.state:<4}  {check.what:<9} "
    for number, row in enumerate(textwrap.wrap(check.found, WIDTH - len(lead), break_on_hyphens=False) or [""]):
        start = lead if number == 0 else " " * len(lead)
        style = STYLES[check.state] if check.state != "ok" else ""
        out.print(f"{start}{row}", style=style, markup=False, highlight=False, soft_wrap=True)
    for number, row in enumerate(textwrap.wrap(check.remedy, WIDTH - len(lead) - 2, break_on_hyphens=False)):
        out.print(
            " " * len(lead) + ("→ " if number == 0 else "  ") + row, markup=False, highlight=False, soft_wrap=True
        )
