from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.analysis.anomaly_types import stored
from raybench.analysis.anomaly_types.stored import make_classifier, with_anomaly_types
from raybench.analysis.flags import Flag, Kind
from raybench.config.experiment import Annotation, Experiment, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.decode import decode_image
from raybench.data.manifest import Split, read_manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.runs.run import RunStore
from raybench.store import open_store
from tests.support.made_run import few_samples


@pytest.fixture(autouse=True)
def learnt_quickly() -> Iterator[None]:
    """What anomalies look like is learnt from few images."""
    with few_samples():
        yield


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    store = open_store(str(tmp_path_factory.mktemp("plant")))
    pack(open_store(str(strips)), store.sub("lines"), "strip")
    models = (ModelChoice(name="padim"),)
    experiment = Experiment(
        name="night", store=store.uri(), lines=("strip",), models=models, annotation=Annotation(signals=3)
    )
    return make_plan(experiment)


def flag(image_id: str, kind: Kind = "likely defect") -> Flag:
    return Flag("strip", image_id, "unknown", ("padim",), 1, 1.0, kind, "", (kind,))


def ids(plan: Plan, split: Split) -> list[str]:
    lines = plan.lines_of("strip")
    shards = read_manifest(lines, "strip").shards_of(split)
    return [row.image_id for shard in shards for row in read_rows(lines, shard, images=False)]


def test_the_first_flags_are_told_what_they_look_like(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStore(plan.store, "night")
    scratched = [image_id for image_id in ids(plan, "test") if "scratch" in image_id]
    flags = [flag(ids(plan, "train")[0], "suspicious training image"), *map(flag, (*scratched[:3], "gone.png"))]
    told = with_anomaly_types(plan, run, flags)
    assert [(one.signal, one.image_id) for one in told[1:4]] == [("defect", one) for one in scratched[:3]]
    assert all(one.signal_evidence and 1 / 3 <= (one.signal_confidence or 0) <= 1 for one in told[1:4])
    assert told[0] == flags[0]  # it may be what images are compared with
    assert told[4] == flags[4]  # behind the first three
    monkeypatch.setattr(stored, "build_reference_bank", None)  # what was told once is not looked at again
    assert with_anomaly_types(plan, run, flags) == told
    run.store.put("runs/night/signals/strip.json", b"{}")
    assert plan.lines_of("strip").exists("strip/signals.npz")
    with pytest.raises(TypeError):
        with_anomaly_types(plan, run, flags)


def test_any_image_of_the_line_can_be_looked_at(plan: Plan) -> None:
    lines = plan.lines_of("strip")
    shard = read_manifest(lines, "strip").shards_of("test")[0]
    row = next(row for row in read_rows(lines, shard) if "scratch" in row.image_id)
    found = make_classifier(plan, RunStore(plan.store, "night"), "strip")(decode_image(row.image))
    assert found is not None
    assert found.kind == "defect"
    train = read_manifest(lines, "strip").shards_of("train")[0].key
    data = lines.get(train)
    lines.delete(train)
    gone = make_classifier(plan, RunStore(plan.store, "night"), "strip")(decode_image(row.image))
    lines.put(train, data)
    assert gone is not None
    assert (gone.kind, gone.confidence) == ("uncertain", 0.0)
    assert train in gone.evidence
    off = plan.experiment.model_copy(update={"annotation": Annotation(signals=0)})
    none = make_classifier(dataclasses.replace(plan, experiment=off), RunStore(plan.store, "night"), "strip")
    assert none(decode_image(row.image)) is None


def test_none_are_told_where_none_are_wanted(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "build_reference_bank", None)
    none = plan.experiment.model_copy(update={"annotation": Annotation(signals=0)})
    flags = [flag(image_id) for image_id in ids(plan, "test")]
    assert with_anomaly_types(dataclasses.replace(plan, experiment=none), RunStore(plan.store, "other"), flags) == flags
    assert with_anomaly_types(plan, RunStore(plan.store, "other"), []) == []
