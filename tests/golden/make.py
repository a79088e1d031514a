"""Make `run.tar.gz`, a finished run of this version: `python -m tests.golden.make`. Only for a new store format.

Left out for their size: saved detectors, sketches of pixels and the page. What saved detectors hold is in
`state_dicts.json`: names and shapes of their tensors.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import Plan, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.report.publish import publish
from raybench.runs.ledger import Ledger, append_to_ledger
from raybench.runs.run import RunStore
from raybench.store import open_store
from tests.support import fitting
from tests.support.made_run import finish, site_of

STORED, KEYS = Path(__file__).parent / "run.tar.gz", Path(__file__).parent / "state_dicts.json"
ID_VERSION = 11
"""Of the stored run. A later version does its units again, because models changed; all else of an ID must not."""
CREATED = "2026-11-27T00:00:00+00:00"
MODELS = (
    ModelChoice(name="padim", config={"n_features": 8}),
    ModelChoice(name="dfm"),
)
LEFT_OUT = ("/model/", "-pixels-", "/report/index.html")


def plan_of(store: Path) -> Plan:
    """The plan of the stored run, in a store in the folder `store`."""
    experiment = Experiment(
        name="golden",
        store=store.as_uri(),
        lines=("strip",),
        models=MODELS,
        false_alarm_budget=0.25,
        preset="cpu",
        input=InputChoice(pixels=64 * 96),
        squashed_twins=False,
        inspect=False,
        annotation=Annotation(budget=3, signals=0),
        resources=Resources(measure_s=0.05),
    )
    return make_plan(experiment)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = write_strips(folder / "images", Sizes(6, 2, 2, 0))
        store = open_store((folder / "store").as_uri())
        store.create()
        pack(open_store(str(images)), store.sub("lines"), "strip", PackOptions(shard_rows=4))
        plan = plan_of(folder / "store")
        (folder / "cache").mkdir()
        site = replace(site_of(plan, folder / "cache"), measure_s=0.05)
        for unit in plan.units:
            finish(unit, plan.manifests[unit.line], site)
        run = RunStore.of(plan)
        run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
        append_to_ledger(run, [unit.unit_id for unit in plan.units])
        publish(plan, RunStore(plan.store, run.name, Ledger.read(run)), CREATED)
        with tarfile.open(STORED, "w:gz") as tar:
            for path in sorted((folder / "store").rglob("*")):
                if path.is_file() and not any(part in path.as_posix() for part in LEFT_OUT):
                    tar.add(path, path.relative_to(folder))
    found = {}
    for name in fitting.REAL:
        state = fitting.fit(name).detector.module.state_dict()  # type: ignore[attr-defined]
        found[name] = {key: list(tensor.shape) for key, tensor in state.items()}
    KEYS.write_text(json.dumps(found, separators=(",", ":")).replace("},", "},\n") + "\n")


if __name__ == "__main__":
    main()
