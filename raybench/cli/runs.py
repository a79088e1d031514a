"""`raybench runs`, `rm` and `gc`: what a store holds, and the removal of what nobody needs."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from raybench.cli.terminal import Json, err, out, print_json
from raybench.config.plan import plan_of
from raybench.errors import InputError, IntegrityError
from raybench.runs.at_work import working
from raybench.runs.retention import Waste, inventory, remove_run, remove_waste, runs_in, waste_of
from raybench.runs.run import PREDICTIONS, RunStore
from raybench.store import open_store

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
StoreName = Annotated[str, typer.Argument(metavar="STORE", help="The store: s3://bucket/prefix or a folder.")]
Yes = Annotated[bool, typer.Option("--yes", help="Remove it; without this, only say what would go.")]


def runs(store: StoreName, as_json: Json = False) -> None:
    """List the runs of a store: owner, last write, finished units, objects and size."""
    infos = list(inventory(runs_in(open_store(store))))
    if as_json:
        print_json({"runs": [asdict(info) for info in infos]})
        return
    table = Table("run", "owner", "last write", "units", "objects", "GB", "at work", box=None, header_style="bold")
    for info in infos:
        at_work = "; ".join(other.text for other in info.at_work)
        numbers = (f"{info.units:,}", f"{info.objects:,}", _gb(info.size))
        table.add_row(info.name, info.owner or "–", _day(info.written), *numbers, at_work)
    out.print(table, markup=False, highlight=False)
    out.print(
        f"{len(infos)} run{'' if len(infos) == 1 else 's'}, {_gb(sum(info.size for info in infos))} GB", highlight=False
    )


def rm(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run: STORE/runs/NAME.")],
    yes: Yes = False,
) -> None:
    """Remove a run with its predictions and report; its lines stay. Says first what would go."""
    found = _run_at(run)
    if not yes:
        (info,) = inventory([found])
        out.print(f"{found.store.uri(found.root)}: {info.objects:,} objects, {_gb(info.size)} GB", highlight=False)
        _say_dry()
        return
    with working(found, "raybench rm", alone=True):
        remove_run(found)
    out.print(f"removed {found.store.uri(found.root)}", soft_wrap=True, highlight=False)


def gc(
    name: Annotated[str, typer.Argument(metavar="STORE|RUN", help="A store, or one run: STORE/runs/NAME.")],
    keep_current: Annotated[
        bool, typer.Option("--keep-current", help="Also remove units that the run's latest experiment does not name.")
    ] = False,
    older: Annotated[str, typer.Option(help="Age of such units, since their last write: 12h, 90d, 8w.")] = "90d",
    yes: Yes = False,
) -> None:
    """Remove what no run needs: bytes without a commit, and on request units of the past. Says first what would go."""
    older_s = age_s(older)
    total = Waste()
    for run in runs_in(open_store(name)) or [_run_at(name)]:
        try:
            with working(run, "raybench gc", alone=True) if yes else contextlib.nullcontext():
                waste = waste_of(run, plan_of(run.store.uri(run.root)) if keep_current else None, older_s)
                if yes:
                    remove_waste(run, waste)
        except (InputError, IntegrityError) as error:
            err.print(f"{run.name}: left as it is: {error}", style="yellow", markup=False, highlight=False)
            continue
        _print_waste(run.name, waste)
        for kind, share in waste.shares.items():
            total.shares[kind].add(share.objects, share.size)
    said = "removed" if yes else "to remove"
    out.print(f"{said}: {total.objects:,} objects, {_gb(total.size)} GB", style="bold", highlight=False)
    if not yes:
        _say_dry()


def age_s(text: str) -> float:
    """Return an age such as 90d in seconds. Raises InputError."""
    found = re.fullmatch(r"(\d+)([hdw])", text.strip())
    if not found:
        raise InputError(f"--older {text}: give a number with h, d or w, as in 12h, 90d, 8w")
    return int(found[1]) * _UNITS[found[2]]


def _run_at(name: str) -> RunStore:
    """Open a run that exists. Raises InputError."""
    root, separator, run = name.rstrip("/").rpartition("/runs/")
    store = open_store(root) if separator else None
    if store is None or PREDICTIONS in f"/{run}" or not any(True for _ in store.list(f"runs/{run}/")):
        raise InputError(f"{name} is no run; `raybench runs STORE` lists them, as STORE/runs/NAME")
    return RunStore(store, run)


def _print_waste(name: str, waste: Waste) -> None:
    if not waste.objects:
        return
    shares = (f"{kind} {_gb(share.size)} GB" for kind, share in waste.shares.items() if share.objects)
    what = f"{len(waste.units)} units of the past, " if waste.units else ""
    out.print(f"{name}: {what}{waste.objects:,} objects: {', '.join(shares)}", soft_wrap=True, highlight=False)


def _say_dry() -> None:
    out.print("nothing was removed; --yes removes it", highlight=False)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3f}" if size < 10**9 else f"{size / 1e9:,.1f}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
