from __future__ import annotations

import importlib.metadata
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raybench.cli import main, terminal
from raybench.data.decode import encode_mask
from raybench.data.manifest import Manifest
from raybench.store import Store, open_store
from raybench.store.server import HOST, EmbeddedServer, free_ports

EXPERIMENT = """
name: night
store: {store}
lines: ["*"]
models: [fake, {{name: fake, label: broken, config: {{fail_in: fit}}}}]
squashed_twins: false
false_alarm_budget: 0.2
input: {{pixels: 4096}}
annotation: {{signals: 0}}
inspect: false
resources: {{measure_s: 0.05}}
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["raybench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def write(folder: Path, text: str) -> Path:
    path = folder / "night.yaml"
    path.write_text(text)
    return path


def test_pack_says_what_it_packed_and_what_not(
    strips: Path, bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "images"
    shutil.copytree(strips, source)
    (source / "test" / "good" / "empty.png").write_bytes(b"")
    assert call(monkeypatch, "pack", source, "--line", "strip", "--to", bucket.uri()) == 0
    out = capsys.readouterr().out
    assert "test/ng 6, test/ok 6, train/ok 24" in out
    assert "rejected test/good/empty.png: empty_file" in out
    assert bucket.uri("lines/strip/manifest.json") in out


def test_pack_counts_masks_and_prints_notes(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "images"
    shutil.copytree(strips, source)
    truth = source / "ground_truth" / "scratch"
    (truth / "000_mask.png").write_bytes(encode_mask(np.ones((200, 320), np.bool_)))
    (truth / "002_mask.png").rename(truth / "nobody_mask.png")
    assert call(monkeypatch, "pack", source, "--line", "strip", "--to", tmp_path / "store") == 0
    out = capsys.readouterr().out
    assert "masks: 5 used, 1 files not used; 6 NG images" in out
    assert "note test/scratch/000.png: large mask: its mask covers the whole image" in out
    assert "rejected ground_truth/scratch/nobody_mask.png: mask_unused" in out


def test_check_prints_the_plan(
    packed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", write(tmp_path, EXPERIMENT.format(store=packed.uri()))) == 0
    out = capsys.readouterr().out
    assert "2 units; digest" in out
    assert "broken" in out
    assert "2 units to do; no prediction" in out


def test_check_says_what_is_trained_together(
    packed: Store,
    put_line: Callable[[Store, str], Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_line(packed.sub("lines"), "strip-2")
    text = EXPERIMENT.format(store=packed.uri()) + "together: {all: {lines: ['strip*'], models: [fake]}}\n"
    assert call(monkeypatch, "check", write(tmp_path, text)) == 0
    out = capsys.readouterr().out
    assert "fake@all: one detector for strip, strip-2, trained on their 34 OK images less what is held back" in out
    assert "6 units; digest" in out
    assert "5 detectors are trained" in out


def test_models_lists_the_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "models") == 0
    out = capsys.readouterr().out
    for text in ("padim", "reverse_distillation", "anomaly_dino", "offline at once", "after one mirror", "needs a GPU"):
        assert text in out


BAD = {
    "a wrong key": ("seed: [1]\n", "unknown key; did you mean 'seeds'?"),
    "an unknown model": ("models: [padin]\n", "did you mean 'padim'?"),
    "a missing line": ("lines: [stripe]\n", "did you mean 'strip'?"),
    "a missing bucket": ("store: s3://no-such-bucket\n", "the bucket 'no-such-bucket' does not exist"),
    "an unreachable endpoint": ("storage: {endpoint_url: 'http://127.0.0.1:9'}\n", "no answer from http://127.0.0.1:9"),
    "not YAML": ("models: [\n", "not valid YAML"),
}


@pytest.mark.parametrize(
    ("case", "command"),
    [*((case, "check") for case in BAD), *((next(iter(BAD)), command) for command in ("run", "status", "report"))],
)
@pytest.mark.usefixtures("short_pauses")
def test_bad_input_is_one_message_and_exit_code_2(
    case: str,
    command: str,
    packed: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, said = BAD[case]
    key = bad.partition(":")[0]
    good = EXPERIMENT.format(store=packed.uri()).splitlines()
    text = "\n".join(line for line in good if not line.startswith(f"{key}:")) + f"\n{bad}"
    assert call(monkeypatch, command, write(tmp_path, text)) == terminal.BAD_INPUT
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not list(packed.list("runs/"))


def test_an_unreachable_cluster_is_one_message_within_seconds(
    packed_in_folder: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{HOST}:{free_ports(1)[0]}")
    started = time.monotonic()
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the session's cluster may be connected
    assert (
        call(monkeypatch, "run", write(tmp_path, EXPERIMENT.format(store=packed_in_folder.uri()))) == terminal.BAD_INPUT
    )
    assert time.monotonic() - started < 10
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: no Ray cluster answers at {os.environ['RAY_ADDRESS']} (from RAY_ADDRESS")
    assert shown.err.count("\n") == 1
    assert not list(packed_in_folder.list("runs/"))


def test_wrong_credentials(
    packed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    assert call(monkeypatch, "run", write(tmp_path, EXPERIMENT.format(store=packed.uri()))) == terminal.BAD_INPUT
    err = capsys.readouterr().err
    assert "refused the credentials" in err
    assert "not the secret" not in err


def test_a_line_without_ok_images(
    strips: Path, bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "images"
    shutil.copytree(strips / "test" / "scratch", source / "ng")
    assert call(monkeypatch, "pack", source, "--line", "bad", "--layout", "folder", "--to", bucket.uri()) == 0
    assert call(monkeypatch, "run", write(tmp_path, EXPERIMENT.format(store=bucket.uri()))) == terminal.BAD_INPUT
    assert "bad has 0 OK images to train on" in capsys.readouterr().err


def test_sources_that_hold_no_line(
    bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pack", tmp_path, "--line", "x", "--to", bucket.uri()) == terminal.BAD_INPUT
    assert "no known layout" in capsys.readouterr().err
    assert call(monkeypatch, "pack", tmp_path, "--line", "../x", "--to", bucket.uri()) == terminal.BAD_INPUT
    assert "not a line name" in capsys.readouterr().err
    code = call(monkeypatch, "pack", tmp_path, "--line", "x", "--layout", "mvtek", "--to", bucket.uri())
    assert code == terminal.BAD_INPUT
    assert "did you mean 'mvtec'" in capsys.readouterr().err


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_run_status_report_and_run_again(
    packed: Store,
    tmp_path: Path,
    server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the session's cluster, in this process; test_chaos.py has the command as a process, with `--address`."""
    path = write(tmp_path, EXPERIMENT.format(store=packed.uri()))
    assert call(monkeypatch, "status", path) == 0
    assert "0 of 2 units done" in capsys.readouterr().out
    assert call(monkeypatch, "status", path, "--line", "str*") == 0
    assert call(monkeypatch, "status", path, "--line", "stripe") == terminal.BAD_INPUT
    assert "did you mean 'strip'" in capsys.readouterr().err
    assert call(monkeypatch, "run", path, "--out", tmp_path / "out") == terminal.UNITS_FAILED
    first = capsys.readouterr()
    assert "2 units: 1 done now, 0 done before, 1 failed" in first.out
    assert "ModelError: fake was told to fail in fit" in first.out
    assert f"report: {tmp_path}/out/night/report/index.html\n" in first.out
    assert "\r" not in first.err
    report = tmp_path / "out" / "night" / "report"
    assert {each.name for each in report.iterdir()} == {
        "board.csv",
        "board.json",
        "board.md",
        "flags.parquet",
        "index.html",
    }
    done = {item.key: packed.get(item.key) for item in packed.list("units/")}
    assert call(monkeypatch, "run", path, "--out", tmp_path / "out", "--allow-failed-units") == terminal.OK
    again = capsys.readouterr().out
    assert "2 units: 0 done now, 1 done before, 1 failed" in again
    assert "attempt 2" in again
    assert done == {item.key: packed.get(item.key) for item in packed.list("units/")}
    by_uri = packed.uri("runs/night")
    assert call(monkeypatch, "status", by_uri) == 0
    status = capsys.readouterr().out
    assert "1 of 2 units done" in status
    assert "failed; the same command tries it again" in status
    checks = tmp_path / "checks.xml"
    asked = ("--fail-if", "recall drops", "--junit", checks, "--out", tmp_path / "out")
    assert call(monkeypatch, "compare", by_uri, path, *asked) == 0
    assert f"page: {tmp_path}/out/night/compare/night.html" in capsys.readouterr().out
    assert '<testcase classname="strip" name="recall drops" />' in checks.read_text()
    assert call(monkeypatch, "compare", by_uri, path, "--fail-if", "recall falls") == terminal.BAD_INPUT
    assert "known are 'recall drops'" in capsys.readouterr().err
    shutil.rmtree(report)
    assert call(monkeypatch, "report", by_uri, "--out", tmp_path / "out") == 0
    assert (report / "index.html").exists()
    written = b"".join(packed.get(item.key) for prefix in ("runs/", "units/") for item in packed.list(prefix))
    for secret in (server.secret_key, server.access_key):
        assert secret.encode() not in written
        assert secret not in first.out + first.err


@pytest.mark.s3
def test_store_serves_until_stopped(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("raybench")), "store", str(tmp_path / "data"), "--bucket", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        settings = dict(part.split("=", 1) for line in lines[2:4] for part in line.split() if "=" in part)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        code = "from raybench.store import open_store as o; s = o('s3://mine'); s.put('k', b'1'); print(s.get('k'))"
        found = subprocess.run([sys.executable, "-c", code], env=clean | settings, capture_output=True, text=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert found.stdout.strip() == "b'1'"


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    for name in (
        "pack", "inspect", "check", "models", "run", "status", "report", "compare", "predict", "annotate", "labels",
        "export", "verify", "store", "demo", "doctor", "learning-curve", "robustness", "runs", "rm", "gc", "weights",
    ):  # fmt: skip
        assert name in out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == (told := f"raybench {importlib.metadata.version('raybench')}\n")
    with pytest.raises(SystemExit):
        runpy.run_module("raybench", run_name="__main__")  # python -m raybench, with the same arguments
    assert capsys.readouterr().out == told


def test_shells_complete_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_RAYBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "raybench st")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call(monkeypatch) == 0
    assert capsys.readouterr().out.split() == ["status", "store"]


def test_unknown_scheme_is_read_only(
    strips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pack", strips, "--line", "strip", "--to", "memory://x") == terminal.BAD_INPUT
    assert "read-only" in capsys.readouterr().err
    assert open_store("memory://x").uri() == "memory://x"
