"""What is in an image for a Kubernetes without internet, and the digest that a deployment pins: `make bundle-image`.

raybench-image/
├── raybench-image.tar   the image as an OCI archive, which skopeo, crane, ctr and docker load
├── sbom.cdx.json        every Python and Debian package in its layers, as CycloneDX 1.6
├── DIGEST               of the image's manifest; the same in every registry that it is copied to
└── SHA256SUMS           of the other files

The packages are read from the layers themselves, so that the list says what is there and not what was asked for.
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

METADATA = re.compile(r"(^|/)[^/]+\.dist-info/METADATA$")
DPKG = re.compile(r"^(\./)?var/lib/dpkg/status(\.d/[^/]+)?$")
REMOVED, OPAQUE = ".wh.", ".wh..wh..opq"  # how a layer says that a file below it, or all of a folder, is gone


class Package(NamedTuple):
    """A package in the image."""

    kind: str
    """Type in package URLs: pypi or deb."""
    name: str
    version: str


def main() -> None:
    """Write the folder, and print the digest. Exits with a message if the archive is no OCI image of one platform."""
    parser = argparse.ArgumentParser(description="Describe an image for a Kubernetes without internet.")
    parser.add_argument("archive", type=Path, help="OCI archive: docker buildx build --output type=oci,dest=FILE")
    parser.add_argument("--to", type=Path, default=Path("dist/raybench-image"))
    chosen = parser.parse_args()
    try:
        digest, packages = read_image(chosen.archive)
    except (KeyError, ValueError, tarfile.TarError) as error:
        sys.exit(f"error: {chosen.archive} is no OCI archive of one image: {error}")
    if not {"pypi", "deb"} <= {package.kind for package in packages}:
        sys.exit(
            f"error: {chosen.archive} has no Python or no Debian packages; an empty list of them would say so little"
        )
    chosen.to.mkdir(parents=True, exist_ok=True)
    image = chosen.to / "raybench-image.tar"
    if chosen.archive.resolve() != image.resolve():
        shutil.copy(chosen.archive, image)
    (chosen.to / "sbom.cdx.json").write_text(bill_of_materials(packages, digest))
    (chosen.to / "DIGEST").write_text(f"{digest}\n")
    names = ("DIGEST", image.name, "sbom.cdx.json")
    (chosen.to / "SHA256SUMS").write_text("".join(f"{_sha256(chosen.to / name)}  {name}\n" for name in names))
    print(f"{chosen.to}: {len(packages)} packages; pin `digest: {digest}` in cluster/kuberay/overlays/cluster")


def read_image(archive: Path) -> tuple[str, list[Package]]:
    """Return the digest of the image's manifest, and the packages in its layers."""
    with tarfile.open(archive) as tar:
        (entry,) = _json(tar, "index.json")["manifests"]
        if "index" in entry["mediaType"]:  # of several platforms, or with attestations: platform "unknown"
            listed = _json(tar, _blob(entry["digest"]))["manifests"]
            (inner,) = [each for each in listed if each.get("platform", {}).get("os") != "unknown"]
        else:
            inner = entry
        files: dict[str, bytes] = {}
        for layer in _json(tar, _blob(inner["digest"]))["layers"]:
            blob = tar.extractfile(_blob(layer["digest"]))
            if blob is None or "zstd" in layer["mediaType"]:
                raise ValueError(f"a layer of type {layer['mediaType']}")
            with tarfile.open(fileobj=blob) as content:
                _add_layer(files, content)
    return str(entry["digest"]), sorted(set(_packages(files)))


def _add_layer(files: dict[str, bytes], layer: tarfile.TarFile) -> None:
    """Lay a layer over `files`, of which only lists of packages are kept."""
    added: dict[str, bytes] = {}
    for member in layer:
        path = member.name.removeprefix("./").lstrip("/")
        folder, _, name = path.rpartition("/")
        if name.startswith(REMOVED):
            gone = folder if name == OPAQUE else f"{folder}/{name.removeprefix(REMOVED)}".lstrip("/")
            for key in [key for key in files if key == gone or key.startswith(f"{gone}/")]:
                del files[key]
        elif member.isfile() and (METADATA.search(path) or DPKG.match(path)):
            content = layer.extractfile(member)
            added[path] = content.read() if content else b""
    files |= added


def _packages(files: dict[str, bytes]) -> Iterator[Package]:
    parse = email.parser.BytesHeaderParser().parsebytes
    for path, text in files.items():
        if METADATA.search(path):
            about = parse(text)
            yield Package("pypi", re.sub(r"[-_.]+", "-", about["Name"]).lower(), about["Version"])
        else:
            for about in map(parse, text.strip().split(b"\n\n")):
                if "installed" in about.get("Status", "installed").split():
                    yield Package("deb", about["Package"], about["Version"])


def bill_of_materials(packages: list[Package], digest: str) -> str:
    """Return the packages as CycloneDX. What it is about is the image, by its digest."""
    bom = Bom()
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER, name="raybench", version=digest, purl=PackageURL("oci", None, "raybench", digest)
    )
    for kind, name, version in packages:
        purl = PackageURL(kind, "debian" if kind == "deb" else None, name, version)
        bom.components.add(
            Component(type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=purl.to_string())
        )
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _json(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    """Read a JSON file of the archive; blobs have to be what their name says."""
    file = tar.extractfile(name)
    data = file.read() if file else b""
    if name.startswith("blobs/") and hashlib.sha256(data).hexdigest() != name.rpartition("/")[2]:
        raise ValueError(f"{name} is damaged")
    found: dict[str, Any] = json.loads(data)
    return found


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
