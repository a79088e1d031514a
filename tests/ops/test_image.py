"""The image bundle, from an OCI archive that is made here: no Docker is needed."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.commands import ROOT

SITE = "opt/venv/lib/python3.11/site-packages"
DPKG = (
    "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\n"
    "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
)


def tar_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def wheel(name: str, version: str) -> dict[str, bytes]:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nA description.\n"
    return {f"{SITE}/{name}-{version}.dist-info/METADATA": text.encode()}


def write_image(path: Path, *layers: dict[str, bytes], attested: bool = False) -> str:
    """Write an OCI archive. Return the digest that a registry would give it."""
    files: dict[str, bytes] = {}

    def put(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return f"sha256:{digest}"

    def put_json(value: Any) -> str:
        return put(json.dumps(value).encode())

    layer_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    digest = put_json({"layers": [{"mediaType": layer_type, "digest": put(tar_of(layer))} for layer in layers]})
    kind = "manifest"
    if attested:
        statement = put_json({"layers": []})
        listed = [{"digest": digest, "platform": {"os": "linux"}}, {"digest": statement, "platform": {"os": "unknown"}}]
        digest, kind = put_json({"manifests": listed}), "index"
    entry = {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": digest}
    files["index.json"] = json.dumps({"manifests": [entry]}).encode()
    path.write_bytes(tar_of(files))
    return digest


def describe(archive: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster" / "image.py"), str(archive), "--to", str(to)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("tools", "called", "said"),
    [
        ((), [], ["not scanned", "not signed"]),
        (("trivy", "cosign"), ["trivy image --input {}/raybench-image.tar", "cosign sign-blob --yes"], ["signed;"]),
        (("grype",), ["grype oci-archive:{}/raybench-image.tar --only-fixed --fail-on high"], ["not signed"]),
    ],
)
def test_a_bundle_is_scanned_and_signed_with_what_is_at_hand(
    tmp_path: Path, tools: tuple[str, ...], called: list[str], said: list[str]
) -> None:
    for name in tools:  # stand-ins, as none of them is here
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        [str(ROOT / "cluster" / "image_check.sh"), str(tmp_path)],
        env={"PATH": path, "COSIGN_KEY": "cosign.key", "SEVERITY": "HIGH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines() if tools else []
    assert [call.startswith(start.format(tmp_path)) for call, start in zip(calls, called, strict=True)] == [
        True for _ in called
    ]
    assert all(text in done.stdout for text in said)


@pytest.mark.parametrize("attested", [False, True])
def test_the_list_is_what_the_layers_hold(tmp_path: Path, attested: bool) -> None:
    base = {"./var/lib/dpkg/status": DPKG.encode()} | wheel("Old_Tool", "1.0") | wheel("pip", "23.0")
    replaced = {f"{SITE}/.wh.Old_Tool-1.0.dist-info": b"", **wheel("Old_Tool", "2.0"), **wheel("ray", "2.60.0")}
    digest = write_image(tmp_path / "image.tar", base, replaced, attested=attested)
    to = tmp_path / "bundle"
    done = describe(tmp_path / "image.tar", to)
    assert done.returncode == 0, done.stderr
    assert f"4 packages; pin `digest: {digest}`" in done.stdout
    text = (to / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert sorted(each["purl"] for each in found["components"]) == [
        "pkg:deb/debian/libc6@2.36-9",
        "pkg:pypi/old-tool@2.0",
        "pkg:pypi/pip@23.0",
        "pkg:pypi/ray@2.60.0",
    ]
    assert found["metadata"]["component"]["version"] == digest
    assert (to / "DIGEST").read_text() == f"{digest}\n"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=to, check=True)
    assert (to / "raybench-image.tar").read_bytes() == (tmp_path / "image.tar").read_bytes()


def test_what_is_no_image_or_has_no_packages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tar").write_bytes(tar_of({"x": b""}))
    write_image(tmp_path / "empty.tar", {"x": b""})
    for name, said in (("other", "is no OCI archive of one image"), ("empty", "has no Python or no Debian packages")):
        done = describe(tmp_path / f"{name}.tar", tmp_path / "bundle")
        assert done.returncode == 1
        assert said in done.stderr
    assert not (tmp_path / "bundle").exists()
