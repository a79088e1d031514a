"""`raybench runs`, `rm` and `gc`: what a store holds, and the removal of what nobody needs."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from raybench.cli.terminal import Json, out, print_json
from raybench.errors import InputError
from raybench.runs.at_work import at_work_in, removing
from raybench.runs.retention import (
    Share,
    Waste,
    forget_past_plans,
    inventory,
    remove_run,
    remove_waste,
    waste_of,
    waste_of_run,
)
from raybench.runs.run import PREDICTIONS, RunStore
from raybench.store import Store, open_store

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
StoreName = Annotated[str, typer.Argument(metavar="STORE", help="The store: s3://bucket/prefix or a folder.")]
Yes = Annotated[bool, typer.Option("--yes", help="Remove it; without this, only say what would go.")]


def runs(name: StoreName, as_json: Json = False) -> None:
    """List the runs of a store: owner, last write, finished units, objects and size."""
    found = inventory(open_store(name))
    if as_json:
        print_json(asdict(found))
        return
    table = Table("run", "owner", "last write", "units", "objects", "GB", "at work", box=None, header_style="bold")
    for info in found.runs:
        at_work = "; ".join(other.text for other in info.at_work)
        numbers = (f"{info.units:,}", f"{info.objects:,}", _gb(info.size))
        table.add_row(info.name, info.owner or "–", _day(info.written), *numbers, at_work)
    out.print(table, markup=False, highlight=False)
    unused = f", of which {_gb(found.unused)} GB of units that no run uses" if found.unused else ""
    runs_text = f"{len(found.runs)} run{'' if len(found.runs) == 1 else 's'}"
    out.print(f"{runs_text}, {_gb(found.size)} GB{unused}", highlight=False)


def rm(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run: STORE/runs/NAME.")],
    yes: Yes = False,
) -> None:
    """Remove a run with its predictions, its report, and the units that no other run uses; its lines stay.

    Says first what would go.
    """
    run = _run_at(name)
    uri = run.store.uri(run.root)
    if not yes:
        own, waste = list(run.store.list(f"{run.root}/")), waste_of_run(run)
        size = sum(item.size for item in own) + waste.size
        out.print(f"{uri}: {len(own) + waste.objects:,} objects, {_gb(size)} GB", soft_wrap=True, highlight=False)
        _say_dry()
        return
    with removing(run.store, "raybench rm", run.name):
        remove_run(run)
    out.print(f"removed {uri}", soft_wrap=True, highlight=False)


def gc(
    name: StoreName,
    keep_current: Annotated[
        bool, typer.Option("--keep-current", help="Also remove units that no run's latest experiment names.")
    ] = False,
    older: Annotated[str, typer.Option(help="Age of such units, since their last write: 12h, 90d, 8w.")] = "90d",
    yes: Yes = False,
) -> None:
    """Remove what no run needs: bytes without a commit, and on request units of the past. Says first what would go.

    What runs at work use stays. No command can begin on the store meanwhile.
    """
    older_s, store = age_s(older), open_store(name)
    _raise_unless_store(store, name)
    with removing(store, "raybench gc") if yes else contextlib.nullcontext(at_work_in(store)) as others:
        for other in (other for other in others if not other.alone):
            out.print(f"at work, so what {other.run} uses stays: {other.text}", soft_wrap=True, highlight=False)
        waste = waste_of(store, older_s if keep_current else None)
        if yes:
            remove_waste(store, waste)
            if keep_current:
                forget_past_plans(store, older_s)
    _print_waste(waste)
    out.print(f"{'removed' if yes else 'to remove'}: {_amount(waste)}", style="bold", highlight=False)
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


def _raise_unless_store(store: Store, name: str) -> None:
    """Raise InputError for what holds no runs."""
    if not any(True for prefix in ("runs/", "units/") for _ in store.folders(prefix)):
        raise InputError(f"{name} holds no run; give the store, whose runs share their units")


def _print_waste(waste: Waste) -> None:
    if waste.units:
        out.print(f"folders of units of the past: {len(waste.units):,}", highlight=False)
    for kind, share in waste.shares.items():
        if share.objects:
            out.print(f"{kind}: {_amount(share)}", highlight=False)


def _amount(what: Waste | Share) -> str:
    return f"{what.objects:,} objects, {_gb(what.size)} GB"


def _say_dry() -> None:
    out.print("nothing was removed; --yes removes it", highlight=False)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3f}" if size < 10**9 else f"{size / 1e9:,.1f}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
