from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from raybench.cli import main
from raybench.errors import ExperimentError, InputError
from raybench.runs import verify
from raybench.runs.ledger import append_to_ledger
from raybench.runs.run import RunStore
from raybench.runs.verify import Verified, verify_line, verify_run
from raybench.store import Store, open_store
from tests.support.made_run import begin, finish, planned, site_of


@pytest.fixture(scope="module")
def finished(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a line and a run whose only unit is finished."""
    folder = tmp_path_factory.mktemp("finished")
    plan = planned(folder, strips, 4)
    begin(plan)
    finish(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path_factory.mktemp("cache")))
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Store:
    """A copy of it, to damage."""
    return open_store(str(shutil.copytree(finished, tmp_path / "store")))


def key_of(store: Store, part: str) -> str:
    return next(item.key for item in store.list() if part in item.key)


def flip(store: Store, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def both(store: Store) -> list[Verified]:
    return [verify_line(store.sub("lines"), "strip"), verify_run(RunStore(store, "night"))]


def test_what_is_whole_has_no_problems(done: Store) -> None:
    line, run = both(done)
    assert line.problems == run.problems == []
    sizes = {item.key: item.size for item in done.list()}
    assert sum(tally.size for tally in line.tallies.values()) == sum(
        size for key, size in sizes.items() if key.startswith("lines/") and not key.endswith("README.md")
    )
    assert sum(tally.size for tally in run.tallies.values()) == sum(
        size for key, size in sizes.items() if key.startswith("units/")
    )
    assert {kind: tally.objects for kind, tally in run.tallies.items()}.items() >= {
        "commit": 10,
        "scores shard": 3,
        "partial metrics": 20,
    }.items()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("lines/strip/test-00000", "shard"),
        ("/scores/test-00001", "scores shard"),
        ("/model/", "model file"),
        ("/partial/test-00000-", "partial metrics"),
        ("/images-", "partial metrics"),
    ],
)
@pytest.mark.parametrize("pieces", ["whole", "small"])
def test_a_flipped_byte_is_found_and_named(
    done: Store, part: str, kind: str, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces == "small":
        monkeypatch.setattr(verify, "PIECE", 1000)
    key = key_of(done, part)
    flip(done, key)
    found = [each for each in both(done) if each.problems]
    assert len(found) == 1
    assert {problem.uri for problem in found[0].problems} == {done.uri(key)}
    assert "its bytes are not those that were written" in [problem.what for problem in found[0].problems]
    assert [name for name, tally in found[0].tallies.items() if tally.problems] == [kind]


def test_every_problem_is_listed(done: Store) -> None:
    done.delete(key_of(done, "/model/"))
    cut = key_of(done, "/partial/test-00000-")
    done.put(cut, done.get(cut)[:-1])
    done.put(key_of(done, "measure.json"), b"{}")
    done.delete(key_of(done, "score-test-00002.json"))
    said = [problem.what.partition("\n")[0] for problem in verify_run(RunStore(done, "night")).problems]
    size = len(done.get(cut))
    assert "is missing" in said
    assert f"has {size} bytes, {size + 1} were written" in said
    assert any("is not a MeasureRecord" in text for text in said)
    assert "its scored shards have 8 images, its quality is of 12" in said
    assert len(said) == 4


def test_a_result_without_its_parts(done: Store) -> None:
    done.delete(key_of(done, "train.json"))
    said = [problem.what for problem in verify_run(RunStore(done, "night")).problems]
    assert said == ["its result is committed, train of its detector is not"]


def test_a_result_without_the_times_that_it_has(done: Store) -> None:
    key = key_of(done, "measure.json")
    done.put(key.replace("measure", "measure-elsewhere"), done.get(key).replace(b'"p50_ms": ', b'"p50_ms": 1'))
    done.delete(key)
    said = [problem.what for problem in verify_run(RunStore(done, "night")).problems]
    assert said == ["its result is committed, the times of its detector that it has are not"]


def test_a_unit_that_only_the_ledger_has(done: Store) -> None:
    run = RunStore(done, "night")
    key = key_of(done, "finished.json")
    append_to_ledger(run, [key.split("/")[1]])
    done.delete(key)
    (problem,) = verify_run(run).problems
    assert (problem.uri, problem.what) == (done.uri(key), "is missing; the run's ledger has a copy")


def test_a_damaged_manifest_is_a_problem_of_the_line(done: Store) -> None:
    done.put("lines/strip/manifest.json", b"{")
    found = verify_line(done.sub("lines"), "strip")
    assert found.tallies["manifest"].problems == 1


def test_the_command(
    done: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(name: str) -> int:
        monkeypatch.setattr(sys, "argv", ["raybench", "verify", name])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    file = tmp_path / "night.yaml"
    file.write_text(f"name: night\nstore: {done.uri()}\nlines: [strip]\nmodels: [fake]\n")
    for name in (done.uri("runs/night"), done.uri("lines/strip"), str(file)):
        assert call(name) == 0
        assert "everything is as it was written" in capsys.readouterr().out
    key = key_of(done, "/scores/")
    flip(done, key)
    assert call(str(file)) == 1
    assert f"{done.uri(key)}: its bytes are not those that were written" in capsys.readouterr().out
    assert call(done.uri("runs/none")) == 2
    assert "nothing is committed there" in capsys.readouterr().err


def test_nothing_there(done: Store) -> None:
    with pytest.raises(InputError, match="no line 'none' is packed"):
        verify_line(done.sub("lines"), "none")


def test_a_line_outside_a_store_of_runs(done: Store) -> None:
    lines = done.sub("lines")
    for item in lines.list():
        done.put(f"packed/{item.key}", lines.get(item.key))
    assert verify.verify(done.uri("packed/strip")).problems == []
    flip(done.sub("packed"), "strip/test-00000.parquet")
    assert verify.verify(done.uri("packed/strip")).problems
    with pytest.raises(ExperimentError, match="no such file"):
        verify.verify(done.uri("packed/none"))


def test_on_s3(done: Store, bucket: Store) -> None:
    for item in done.list():
        bucket.put(item.key, done.get(item.key))
    assert [found.problems for found in both(bucket)] == [[], []]
    flip(bucket, key_of(bucket, "/scores/"))
    assert [len(found.problems) for found in both(bucket)] == [0, 1]
