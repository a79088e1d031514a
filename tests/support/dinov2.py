"""Files of DINOv2 under their publisher's names of tensors, with random values: what a weights store would hold."""

from __future__ import annotations

import functools
import hashlib
import io
import tempfile
from pathlib import Path

import torch

from raybench.detectors.protocol import WeightsFile

_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def random_file(name: str) -> WeightsFile:
    """Return a file of a vision transformer, the same for all tests of this process."""
    data = random_bytes(name)
    path = Path(_FOLDER.name) / f"{name}.pth"
    path.write_bytes(data)
    return WeightsFile(path, hashlib.sha256(data).hexdigest())


def random_bytes(name: str) -> bytes:
    """Return the content of a file as Meta publishes them. Layers count, which at timm's first values they do not."""
    from raybench.detectors import backbone  # imports torch models, which takes seconds

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = dict(backbone.classifier(name).state_dict())
        for key, tensor in state.items():
            if key.endswith("gamma"):
                state[key] = torch.rand_like(tensor)
    width = state["cls_token"].shape[-1]
    state["mask_token"] = torch.zeros(1, width)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, width), state["pos_embed"]], 1)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
