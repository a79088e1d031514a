"""The cluster-launcher files, by the launcher's own validation."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.commands import ROOT, faults

FILES = sorted((ROOT / "cluster" / "launcher").glob("*.yaml"))
COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def read(path: Any) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launcher_takes_it(path: Any) -> None:
    validate_config(prepare_config(read(path)))
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(read(path) | {"max_worker": 1}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_commands_exist_and_ask_for_a_token(path: Any) -> None:
    config = read(path)
    for kind in COMMANDS:
        for command in config.get(kind, []):
            assert faults(command) == []
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "RAY_AUTH_MODE=token" in path.read_text()
    assert "--num-cpus=0" in config["head_start_ray_commands"][1]


def test_one_for_machines_of_ones_own_and_one_for_a_cloud() -> None:
    assert {read(path)["provider"]["type"] for path in FILES} == {"local", "aws"}


def test_the_cloud_takes_an_image_with_ssh_and_rsync_and_workers_may_start_no_machines() -> None:
    config = read(ROOT / "cluster" / "launcher" / "aws.yaml")
    assert config["docker"]["image"].endswith("-launcher")
    assert config["docker"]["image"].startswith("REGISTRY/")  # upper case, which Docker refuses
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in config["available_node_types"].items()
    }
    assert profiles == {"head": "raybench-head", "gpu": "raybench-worker"}


def test_both_kinds_of_machines_keep_to_the_ports_that_the_file_names() -> None:
    text = (ROOT / "cluster" / "launcher" / "on_prem.yaml").read_text()
    config = yaml.safe_load(text)
    starts = [config[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker")]
    for option, port in re.findall(r"--([a-z-]+-port)=(\d+)", " ".join(starts)):
        assert all(f"--{option}={port}" in start for start in starts)
        assert re.search(rf"\b{port}\b", text.partition("cluster_name")[0])


def test_a_wrong_command_is_found() -> None:
    assert faults("ulimit -n 9; ray start --haed --port=1") == ["ray start has no option --haed"]
    assert faults("ray begin") == ["ray has no command 'begin'"]
    assert faults("A=1 python jobs/none.py && raybench rum x") == [
        "there is no jobs/none.py",
        "raybench has no command 'rum'",
    ]
