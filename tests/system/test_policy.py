"""The policy in cluster/s3-policy.json is enough for a run and its report, and the server refuses all else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from raybench.store import open_store
from raybench.store import server as store_server
from raybench.store.server import EmbeddedServer, embedded_server
from tests.conftest import put_lines
from tests.support.commands import ROOT
from tests.support.head import BIN
from tests.support.plugins import PLUGIN

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("test_policy.py")]
POLICY = ROOT / "cluster" / "s3-policy.json"
EXPERIMENT = """
name: night
store: s3://raybench/bench
lines: [strip]
models: [fake]
squashed_twins: false
input: {pixels: 4096}
false_alarm_budget: 0.2
resources: {measure_s: 0.05}
"""
FORBIDDEN: dict[str, Callable[[Any], object]] = {
    "list the bucket": lambda s3: s3.list_objects_v2(Bucket="raybench"),
    "list another prefix": lambda s3: s3.list_objects_v2(Bucket="raybench", Prefix="other/"),
    "list another bucket": lambda s3: s3.list_objects_v2(Bucket="other", Prefix="bench/"),
    "read another prefix": lambda s3: s3.get_object(Bucket="raybench", Key="other/secret"),
    "read another bucket": lambda s3: s3.get_object(Bucket="other", Key="bench/runs/secret"),
    "write elsewhere": lambda s3: s3.put_object(Bucket="raybench", Key="bench/other/x", Body=b""),
    "remove images": lambda s3: s3.delete_object(Bucket="raybench", Key="bench/lines/strip/manifest.json"),
    "remove results": lambda s3: s3.delete_object(Bucket="raybench", Key="bench/units/x/finished.json"),
    "create a bucket": lambda s3: s3.create_bucket(Bucket="mine"),
    "remove the bucket": lambda s3: s3.delete_bucket(Bucket="raybench"),
    "change the policy": lambda s3: s3.put_bucket_policy(Bucket="raybench", Policy="{}"),
}


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of its own, whose users can be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_server, "QUIET", (*store_server.QUIET, "-s3.iam.readOnly=false"))
        with embedded_server(tmp_path_factory.mktemp("policy")) as running:
            for name in ("raybench", "other"):
                open_store(f"s3://{name}").create()
            open_store("s3://raybench").put("other/secret", b"secret")
            open_store("s3://other").put("bench/runs/secret", b"secret")
            yield running


@pytest.fixture(scope="module")
def user(admin: EmbeddedServer) -> dict[str, str]:
    """The environment of a user who has the policy and nothing else."""
    iam = client("iam", admin.environment())
    iam.create_user(UserName="night")
    iam.put_user_policy(UserName="night", PolicyName="run", PolicyDocument=POLICY.read_text())
    keys = iam.create_access_key(UserName="night")["AccessKey"]
    own = {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"]}
    return admin.environment() | own


def client(service: str, environment: dict[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_a_run_does_not_need_is_refused(user: dict[str, str], what: str) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        FORBIDDEN[what](client("s3", user))


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_run_and_its_report_need_no_more(
    admin: EmbeddedServer, user: dict[str, str], packed_once: Any, tmp_path: Path
) -> None:
    store = open_store("s3://raybench/bench")
    put_lines(packed_once, store)
    (tmp_path / "night.yaml").write_text(EXPERIMENT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    environment |= user | {"PYTHONPATH": f"{ROOT}:{PLUGIN}", "RAYBENCH_CACHE": str(tmp_path / "cache")}
    command = [str(BIN / "raybench"), "run", "night.yaml", "--out", "out"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "refused" not in ran.stdout + ran.stderr
    assert store.exists("runs/night/report/index.html")
    # The folders of the policy are those of the store, so that a new one is not forgotten.
    allowed = {part.rsplit("/", 2)[1] for part in json.loads(POLICY.read_text())["Statement"][1]["Resource"]}
    assert set(store.folders("")) <= allowed
