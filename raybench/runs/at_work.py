"""Who is at work on a run: a small object per process, written again while it works.

runs/<name>/owner.json            who began the run
runs/<name>/at-work/<uuid>.json   a process at work; it counts for EXPIRES_S after it was last written

Several drivers may work on one run, because commits are put-if-absent. What removes objects works alone: it and the
drivers each write their own object first and then look for the other's, so that at least one of two sees the other.
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

from raybench.errors import InputError, IntegrityError, ObjectMissing, StoreError
from raybench.runs.run import RunStore, decode, encode

BEAT_S = 30.0
EXPIRES_S = 150.0  # five beats, as a store may be slow


@dataclass(frozen=True)
class AtWork:
    """A process that works on a run."""

    who: str
    """User and host, or $RAYBENCH_OWNER."""
    what: str
    """The command."""
    since: str
    """When it began: ISO 8601, UTC."""
    alone: bool = False
    """Whether it removes objects, so that nothing else may work."""

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
    return list(_living(run).values())


@contextlib.contextmanager
def working(run: RunStore, what: str, alone: bool = False) -> Iterator[list[AtWork]]:
    """Tell others, while the block runs, that this process works on the run.

    Args:
        run: The run.
        what: The command.
        alone: Whether nothing else may work on the run meanwhile.

    Yields:
        The other processes at work.

    Raises:
        InputError: Another process works on the run, and this one or that one has to be alone.
    """
    mine = AtWork(this_user(), what, datetime.now(UTC).isoformat(timespec="seconds"), alone)
    key, data = f"{_folder(run)}{uuid.uuid4().hex}.json", encode(mine)
    if not alone:
        run.store.put_if_absent(f"{run.root}/owner.json", data)
    run.store.put(key, data)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(run, key, data, stop), daemon=True)
    beat.start()
    try:
        others = [other for other_key, other in _living(run).items() if other_key != key]
        in_the_way = [other for other in others if alone or other.alone]
        if in_the_way:
            texts = "; ".join(other.text for other in in_the_way)
            raise InputError(
                f"{run.store.uri(run.root)} is in use: {texts}. Try again when that has ended; if it was killed, it is "
                f"forgotten after {EXPIRES_S:.0f} s"
            )
        yield others
    finally:
        stop.set()
        beat.join()
        with contextlib.suppress(StoreError):
            run.store.delete(key)


def _beat(run: RunStore, key: str, data: bytes, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(StoreError):
            run.store.put(key, data)


def _living(run: RunStore) -> dict[str, AtWork]:
    found = {item.key: item.modified for item in run.store.list(_folder(run))}
    now = run.store.clock() if found else 0.0
    living = {}
    for key, modified in found.items():
        if now - modified < EXPIRES_S:
            with contextlib.suppress(ObjectMissing, IntegrityError):  # it has ended meanwhile
                living[key] = decode(AtWork, run.store.get(key), key)
    return living


def _folder(run: RunStore) -> str:
    return f"{run.root}/at-work/"
