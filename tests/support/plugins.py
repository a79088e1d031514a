"""Makes the detector `fake` available, the way users make theirs: as an entry point of an installed distribution."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PLUGIN = str(Path(__file__).parent / "plugin")
"""The folder with the distribution."""


def install() -> None:
    """Put the distribution on the path of this process and of those it starts, Ray's workers included."""
    if PLUGIN not in sys.path:
        sys.path.append(PLUGIN)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if PLUGIN not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*inherited, PLUGIN]))
