"""Who is at work on the runs of a store, so that nothing in use is removed.

at-work/<uuid>.json               a process at work; it counts for EXPIRES_S after it was last written
runs/<name>/owner.json            who began the run

Several drivers may work on one run, because commits are put-if-absent. What removes objects writes its own object first
and then reads which units the runs use (`plans`); a driver writes its plan first and then looks for what removes
objects. So either the one sees the other's units and leaves them, or the other sees that it is not alone and does not
begin.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from raybench.config.plan import Plan
from raybench.errors import InputError, IntegrityError, ObjectMissing, StoreError
from raybench.runs.plans import record_plan
from raybench.runs.run import RunStore, decode, encode
from raybench.store import Store

BEAT_S = 30.0
EXPIRES_S = 150.0  # five beats, as a store may be slow
FOLDER = "at-work/"


@dataclass(frozen=True)
class AtWork:
    """A process that works on a run."""

    who: str
    """User and host, or $RAYBENCH_OWNER."""
    what: str
    """The command."""
    since: str
    """When it began: ISO 8601, UTC."""
    run: str
    """Name of the run; empty for all of the store."""
    alone: bool = False
    """Whether it removes objects, so that no other command may begin."""

    @property
    def text(self) -> str:
        return f"{self.what} by {self.who}, since {self.since}"


def this_user() -> str:
    """Return $RAYBENCH_OWNER, or the user and the host."""
    if named := os.environ.get("RAYBENCH_OWNER"):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no user of that number
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def owner_of(run: RunStore) -> str:
    """Return who began the run; empty if that is not known."""
    try:
        return decode(AtWork, run.store.get(f"{run.root}/owner.json"), "owner").who
    except (ObjectMissing, IntegrityError):
        return ""


def at_work_on(run: RunStore) -> list[AtWork]:
    """List the processes at work on the run."""
    return [other for other in at_work_in(run.store) if other.run == run.name]


def at_work_in(store: Store) -> list[AtWork]:
    """List the processes at work on the store's runs."""
    return list(_living(store).values())


@contextlib.contextmanager
def working(run: RunStore, what: str, plan: Plan | None = None, only_one: bool = False) -> Iterator[list[AtWork]]:
    """Tell others, while the block runs, that this process works on the run.

    Args:
        run: The run.
        what: The command.
        plan: Its plan from now on. None if that stays the same.
        only_one: Whether no two processes may run the command on the run at once.

    Yields:
        The other processes at work on the run.

    Raises:
        InputError: A process removes objects of the store, or runs a command of which there may be only one.
    """
    mine = _at_work(run.name, what, alone=False)
    take_back = record_plan(run, plan) if plan else None
    with _said(run.store, mine) as others:
        try:
            same = [other for other in others if only_one and (other.run, other.what) == (run.name, what)]
            _raise_if_in_the_way(run.store.uri(run.root), [*same, *(other for other in others if other.alone)])
        except InputError:
            if take_back:
                take_back()
            raise
        run.store.put_if_absent(f"{run.root}/owner.json", encode(mine))
        yield [other for other in others if other.run == run.name]


@contextlib.contextmanager
def removing(store: Store, what: str, run: str = "") -> Iterator[list[AtWork]]:
    """Let no other command begin on the store, while the block removes objects.

    Args:
        store: The store.
        what: The command.
        run: Name of the run that is removed as a whole, on which nobody may be at work. Empty if none is.

    Yields:
        The processes at work on its runs. What their runs use must stay.

    Raises:
        InputError: Another process removes objects, or works on `run`.
    """
    with _said(store, _at_work(run, what, alone=True)) as others:
        in_the_way = [other for other in others if other.alone or (run and other.run == run)]
        _raise_if_in_the_way(store.uri(f"runs/{run}" if run else ""), in_the_way)
        yield others


def _at_work(run: str, what: str, alone: bool) -> AtWork:
    return AtWork(this_user(), what, datetime.now(UTC).isoformat(timespec="seconds"), run, alone)


@contextlib.contextmanager
def _said(store: Store, mine: AtWork) -> Iterator[list[AtWork]]:
    """Keep a process's own object written while the block runs; yield the others."""
    key, data = f"{FOLDER}{uuid.uuid4().hex}.json", encode(mine)
    store.put(key, data)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, key, data, stop), daemon=True)
    beat.start()
    try:
        yield [other for other_key, other in _living(store).items() if other_key != key]
    finally:
        stop.set()
        beat.join()
        with contextlib.suppress(StoreError):
            store.delete(key)


def _living(store: Store) -> dict[str, AtWork]:
    """Return the processes at work by the key of each one's object."""
    found = {item.key: item.modified for item in store.list(FOLDER)}
    now = store.clock() if found else 0.0
    living = {}
    for key, modified in found.items():
        if now - modified < EXPIRES_S:
            with contextlib.suppress(ObjectMissing, IntegrityError):  # it has ended meanwhile
                living[key] = decode(AtWork, store.get(key), key)
    return living


def _beat(store: Store, key: str, data: bytes, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(StoreError):
            store.put(key, data)


def _raise_if_in_the_way(uri: str, others: list[AtWork]) -> None:
    if others:
        texts = "; ".join(other.text for other in others)
        raise InputError(
            f"{uri} is in use: {texts}. Try again when that has ended; if it was killed, it is forgotten after "
            f"{EXPIRES_S:.0f} s"
        )
