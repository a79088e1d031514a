"""The Kubernetes manifests, without a cluster."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources

from tests.support.commands import ROOT, faults

KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas"
MANIFESTS = ("raycluster", "rayjob")


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((KUBERAY / f"{name}.yaml").read_text()))


def pods(name: str) -> Iterator[dict[str, Any]]:
    spec = manifest(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def schema(name: str) -> Draft202012Validator:
    path = SCHEMAS / f"{name}.v1.strict.schema.json.gz"
    if not path.exists():
        pytest.skip("the strict KubeRay schemas are not on this machine")
    return Draft202012Validator(json.loads(gzip.decompress(path.read_bytes())))


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_takes_it(name: str) -> None:
    validator, found = schema(name), manifest(name)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)] == []
    assert found["apiVersion"] == "ray.io/v1"
    found["spec"]["headGroupSpecs"] = {}
    assert list(validator.iter_errors(found)), "the schema is not strict"


def test_the_job_has_the_same_cluster() -> None:
    assert manifest("rayjob")["spec"]["rayClusterSpec"] == manifest("raycluster")["spec"]


def test_the_head_works_on_nothing_and_the_workers_scale() -> None:
    spec = manifest("raycluster")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups["gpu"]["maxReplicas"] > groups["gpu"]["minReplicas"]
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert set(groups) == {"gpu", "cpu"}


def test_only_the_gpu_group_offers_gpus() -> None:
    """Ray counts what a pod sees, and on a node whose default runtime is NVIDIA's each pod may see all GPUs."""
    spec = manifest("raycluster")["spec"]
    groups = {group["groupName"]: group["rayStartParams"] for group in spec["workerGroupSpecs"]}
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == groups["cpu"]["num-gpus"] == "0"
    assert "num-gpus" not in groups["gpu"]
    hidden = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    assert [hidden in pod["containers"][0]["env"] for pod in pods("raycluster")] == [True, False, True]


def test_every_pod_is_bounded_probed_and_not_root() -> None:
    for pod in pods("raycluster"):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", MANIFESTS)
def test_secrets_come_by_reference(name: str) -> None:
    for pod in pods(name):
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "raybench-s3"}}]
            plain = [variable["name"] for variable in container["env"] if "value" in variable]
            assert not [each for each in plain if any(word in each for word in ("AWS", "TOKEN", "SECRET", "PASSWORD"))]
    spec = manifest(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}


def test_without_a_token_nothing_starts() -> None:
    """An operator older than 1.5.1 knows no authOptions, and one that forgets unknown keys would start an open API."""
    for pod in pods("raycluster"):
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in pod["containers"][0]["env"]
    assert "KubeRay 1.5.1 or newer" in (KUBERAY / "raycluster.yaml").read_text()


def test_redis_is_a_choice() -> None:
    found, patch = manifest("raycluster"), yaml.safe_load((KUBERAY / "redis.yaml").read_text())
    assert "gcsFaultToleranceOptions" not in found["spec"]
    assert set(patch["spec"]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]) == {"secretKeyRef"}
    found["spec"] |= patch["spec"]
    assert list(schema("raycluster").iter_errors(found)) == []


def test_a_typo_boots_one_cluster() -> None:
    """KubeRay boots a new one for each failed job, whatever its exit code; resuming costs nothing but a new RayJob."""
    spec = manifest("rayjob")["spec"]
    assert spec["backoffLimit"] == 0
    assert "activeDeadlineSeconds" not in spec
    assert "--allow-failed-units" in spec["entrypoint"]


def test_the_submitter_passes_where_pods_are_restricted() -> None:
    pod = manifest("rayjob")["spec"]["submitterPodTemplate"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"]["limits"] == container["resources"]["requests"]
    first = next(pods("rayjob"))
    assert container["image"] == first["containers"][0]["image"]
    assert pod["imagePullSecrets"] == first["imagePullSecrets"]


def test_the_driver_is_on_a_helper_that_is_really_there() -> None:
    groups = {group["groupName"]: group for group in manifest("raycluster")["spec"]["workerGroupSpecs"]}
    assert groups["cpu"]["minReplicas"] >= 1
    offered = _get_custom_resources({}, groups["cpu"]["rayStartParams"], "cpu")
    (asked,) = json.loads(manifest("rayjob")["spec"]["entrypointResources"])
    assert asked in offered
    assert "resources" not in groups["gpu"]["rayStartParams"]


def test_disk_is_asked_for() -> None:
    for pod in pods("raycluster"):
        limits = [int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) for volume in on_disk(pod)]
        asked = pod["containers"][0]["resources"]["requests"]["ephemeral-storage"]
        assert int(asked.removesuffix("Gi")) > sum(limits)


def on_disk(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in pod["volumes"] if "emptyDir" in each and each["emptyDir"].get("medium") != "Memory"]


def test_the_job_names_what_its_pods_hold() -> None:
    spec = manifest("rayjob")["spec"]
    assert faults(spec["entrypoint"]) == []
    mounted = {mount["mountPath"] for pod in pods("rayjob") for mount in pod["containers"][0]["volumeMounts"]}
    assert "/experiments" in mounted
    env = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["env_vars"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == env


def test_ray_is_the_locked_one() -> None:
    assert f"ray=={manifest('raycluster')['spec']['rayVersion']}" in (ROOT / "requirements.lock").read_text()
