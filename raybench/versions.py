"""Which versions of the packages that make the numbers are installed. Read from metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("raybench", "anomalib", "torch", "timm", "ray", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
