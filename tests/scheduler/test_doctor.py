"""`raybench doctor` on a real cluster, and what it says where something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import ray

from raybench.cli import main, terminal
from raybench.scheduler import doctor
from raybench.store import Store
from raybench.store.server import HOST, free_ports
from raybench.worker.checkup import Check

EXPERIMENT = "name: night\nstore: {store}\nlines: [strip]\nmodels: [{model}]\n"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raybench", "doctor", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_every_node_is_looked_at(bucket: Store) -> None:
    found = list(doctor.check_nodes(bucket))
    assert {where for where, _ in found} == {node["NodeManagerAddress"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    states = {check.what: check.state for _, check in found}
    assert states.items() >= {"versions": "ok", "store": "ok", "clock": "ok", "GPU": "ok"}.items()


def test_what_nodes_have_in_common_is_said_once() -> None:
    found = [
        *((f"10.0.0.{number}", Check("disk", "ok", f"{number} GB free")) for number in range(3)),
        *((f"10.0.0.{number}", Check("GPU", "ok", "none")) for number in range(3)),
        *((f"10.0.0.{number}", Check("store", "fail", "no credentials", "give them")) for number in range(2)),
        ("10.0.0.2", Check("store", "ok", "2 ms")),
    ]
    said = [(where, check.what, check.state, check.found) for where, check in doctor.in_short(found, 3)]
    assert said == [
        ("3 nodes", "disk", "ok", "3 of 3"),
        ("3 nodes", "GPU", "ok", "3 of 3, none"),
        ("3 nodes", "store", "ok", "1 of 3, 2 ms"),
        ("3 nodes", "store", "fail", "10.0.0.0, 10.0.0.1: no credentials"),
    ]
    assert list(doctor.in_short([("a", Check("disk", "ok", "9 GB"))], 1)) == [("node a", Check("disk", "ok", "9 GB"))]


def test_other_versions_are_a_failure() -> None:
    here = doctor.installed()
    found = doctor.compare_versions(Check("versions", "ok", "…"), here | {"raybench": "9.9", "Python": "2.7"})
    assert found.state == "fail"
    assert found.found == f"raybench {here['raybench']} instead of 9.9, Python {here['Python']} instead of 2.7"
    assert doctor.compare_versions(Check("versions", "ok", "…"), here).state == "ok"


def test_it_reads_well_in_80_columns_and_fails_where_something_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, address = tmp_path / "store", f"{HOST}:{free_ports(1)[0]}"
    path = tmp_path / "night.yaml"
    path.write_text(EXPERIMENT.format(store=store, model="padim"))
    assert call(monkeypatch, path) == terminal.OK
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "this machine"
    assert "  ok    models    all 1 exist, and their weights are there\n" in out
    path.write_text(EXPERIMENT.format(store=store, model="padin"))
    assert call(monkeypatch, path, "--address", address) == terminal.FAULTS
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "  fail  models    models: padin: unknown model 'padin'; did you mean 'padim'?\n" in out
    assert f"  fail  address   no Ray cluster answers at {address}" in out
    assert out.splitlines()[-1].startswith("2 to mend")
    assert call(monkeypatch, path, "--address", address, "--json") == terminal.FAULTS
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    failed = {(check["where"], check["what"]) for check in told["checks"] if check["state"] == "fail"}
    assert failed == {("experiment", "models"), ("cluster", "address")}


def test_a_store_alone_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path, "--json") == terminal.OK
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["found"] for check in checks if check["what"] == "clock"] == ["as the store's"]
