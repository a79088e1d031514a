"""Pretrained backbones as timm knows them, without a network: features by stride, ImageNet weights from files.

The packaged file of EfficientNet-Lite0 names its tensors after another implementation; both list the same tensors in
the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from raybench.detectors import weights
from raybench.detectors.anomalib_parts import TimmFeatureExtractor
from raybench.detectors.device import own_draws
from raybench.detectors.protocol import FitContext, Provenance
from raybench.detectors.weights.catalog import BACKBONES, LITE0, LITE0_SHA256
from raybench.errors import WeightsCorrupt

_COUNTERS = "num_batches_tracked"  # of batch norm; older files lack them, and nothing that scores reads them


def extractor(name: str, *strides: int, trainable: bool = False) -> TimmFeatureExtractor:
    """anomalib's feature extractor over a backbone with random weights, cut after the last of `strides`."""
    chosen = BACKBONES[name]
    built = TimmFeatureExtractor(
        chosen.timm_name, chosen.names(*strides), pre_trained=False, requires_grad=trainable
    ).eval()
    trim(built)
    return built


def trim(built: TimmFeatureExtractor) -> None:
    """Drop the blocks of an EfficientNet whose output nobody reads; timm runs them all."""
    features = built.feature_extractor
    if hasattr(features, "blocks"):
        last = max(int(str(layer).removeprefix("blocks.")) for layer in built.layers)
        features.blocks = features.blocks[: last + 1]


def pretrain(built: TimmFeatureExtractor, name: str, context: FitContext) -> None:
    """Put the backbone's weights into an extractor; "random" stays as it is.

    Raises WeightsMissing, WeightsCorrupt.
    """
    _fill(built.feature_extractor, name, context)


def whole(name: str, context: FitContext) -> nn.Module:
    """The backbone as a classifier, head included, with its weights. Raises WeightsMissing, WeightsCorrupt."""
    model = classifier(name)
    _fill(model, name, context)
    return model


def _fill(target: nn.Module, name: str, context: FitContext) -> None:
    asset = BACKBONES[name].asset
    if not asset:
        return
    state = _read(context.weights[asset].path, name) if asset in context.weights else lite0_state()
    wanted = target.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTERS)]
    if missing:
        raise WeightsCorrupt(f"the weights of {name} lack {', '.join(missing[:3])} and {len(missing)} tensors in all")
    try:
        target.load_state_dict({key: state.get(key, like) for key, like in wanted.items()})
    except RuntimeError as error:
        raise WeightsCorrupt(f"the weights of {name} do not fit timm's {BACKBONES[name].timm_name}: {error}") from error


def _read(path: Path, name: str) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return remap(state, classifier().state_dict()) if name == LITE0 else state


class Normalised(nn.Module):
    """A module behind its backbone's normalisation: takes (B, 3, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model = model
        chosen = BACKBONES[name]
        self.register_buffer("mean", torch.tensor(chosen.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(chosen.std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Any:
        return self.model(self.normalise(images))


def provenance(name: str) -> Provenance:
    return BACKBONES[name].provenance


def note(name: str, context: FitContext) -> str:
    """Where the weights come from, for a person."""
    asset = BACKBONES[name].asset
    if not asset:
        return f"random weights of {BACKBONES[name].timm_name}: a control, not a detector"
    if asset in context.weights:
        return f"ImageNet weights of {name} from the weights store, sha256 {context.weights[asset].sha256[:12]}"
    return f"ImageNet weights of {name} from its pip package, sha256 {LITE0_SHA256[:12]}"


@functools.cache
def lite0_state() -> Mapping[str, Tensor]:
    """lite0's packaged ImageNet weights under timm's names. Raises WeightsMissing, WeightsCorrupt."""
    original = torch.load(weights.packaged_lite0(), map_location="cpu", weights_only=True)
    return remap(original, classifier().state_dict())


def classifier(name: str = LITE0) -> nn.Module:
    """The whole network, head included, with random weights; draws no random numbers."""
    with own_draws():
        return timm.create_model(BACKBONES[name].timm_name, pretrained=False).eval()


def random_state(timm_name: str) -> Mapping[str, Tensor]:
    """The tensors of a network with random weights; draws no random numbers from the global state."""
    with own_draws():
        return timm.create_model(timm_name, pretrained=False, num_classes=0).state_dict()


def remap(original: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`original`'s tensors under `expected`'s names, matched by order.

    Raises WeightsCorrupt unless count, shapes and leaf names (weight, bias...) agree one by one.
    """
    if len(original) != len(expected):
        raise WeightsCorrupt(f"{len(original)} tensors in the file, {len(expected)} in {LITE0}")
    pairs = list(zip(original.items(), expected.items(), strict=True))
    for (theirs, tensor), (ours, like) in pairs:
        if theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1] or tensor.shape != like.shape:
            raise WeightsCorrupt(f"{theirs} {tuple(tensor.shape)} does not fit {ours} {tuple(like.shape)} of {LITE0}")
    return {ours: tensor for (_, tensor), (ours, _) in pairs}
