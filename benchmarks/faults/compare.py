"""What two runs of the same units must have in common: everything but times."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

from raybench.config.plan import Plan
from raybench.metrics.numbers import Speed
from raybench.report.publish import publish
from raybench.runs.records import ResourceUsage, UnitResult
from raybench.runs.run import RunStore, encode
from raybench.store import Store, open_store

_NO_TIME = Speed(1.0, 1.0, 1.0, 1.0, 1.0, 1, "", "", 1)
_NOTHING_SPENT = ResourceUsage(1.0, 1, 1.0, 0.0, "cpu")


@dataclass(frozen=True)
class Findings:
    """What a run found, with all times set to one value. results: bytes of the committed results, by unit_id."""

    board: bytes
    flags: bytes
    results: Mapping[str, bytes]


def findings_of(plan: Plan) -> Findings:
    """`board.json` and `flags.parquet` as they are when every time is the same.

    The verdict and the words on the board rest on times too. So a copy of the run with even times is published again,
    under a name and a date that all copies share. Raises KeyError when a unit has no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = open_store(folder)
        run = RunStore(copy, "findings")
        _copy(plan.store, copy, "lines/")
        _copy(plan.store, copy, "units/")
        for unit in plan.units:
            found = run.read(unit.unit_id, "finished", UnitResult)
            if found is None:
                raise KeyError(f"{unit} has no result")
            even = replace(
                found,
                trained=replace(found.trained, train_s=1.0, spent=_NOTHING_SPENT),
                measured=replace(found.measured, speed=_NO_TIME, spent=_NOTHING_SPENT),
                judged=replace(found.judged, spent=_NOTHING_SPENT),
            )
            copy.put(run.key(unit.unit_id, "finished.json"), encode(even))
        results = {unit.unit_id: copy.get(run.key(unit.unit_id, "finished.json")) for unit in plan.units}
        experiment = plan.experiment.model_copy(update={"name": run.name, "store": "even"})
        publish(replace(plan, store=copy, experiment=experiment), run, "")
        return Findings(run.get_report("board.json"), run.get_report("flags.parquet"), results)


def wrong_commits(commits: Mapping[str, list[str]], store: Store, bucket: str) -> list[str]:
    """Commits of units that were made more than once, or that do not stand in the store as they were made.

    commits: SHA-256 of what conditional PUTs have stored, by path.
    """
    prefix = f"/{bucket}/"
    wrong = []
    for path, made in commits.items():
        key = path.removeprefix(prefix)
        if not key.startswith("units/"):
            continue
        if len(made) != 1:
            wrong.append(f"{key} was committed {len(made)} times")
        elif hashlib.sha256(store.get(key)).hexdigest() != made[0]:
            wrong.append(f"{key} is not what was committed")
    return wrong


def _copy(source: Store, target: Store, prefix: str) -> None:
    for item in source.list(prefix):
        target.put(item.key, source.get(item.key))
