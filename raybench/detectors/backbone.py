"""Pretrained backbones of timm, without network access: feature extractors with ImageNet weights from files.

The packaged file of EfficientNet-Lite0 has the tensor names of another implementation. Both list the same tensors in
the same order.

timm and anomalib are imported when a network is built: that takes seconds, which detectors without a backbone spare.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raybench.detectors import weights
from raybench.detectors.device import own_draws
from raybench.detectors.protocol import FitContext
from raybench.detectors.weights.catalog import BACKBONES, LITE0, LITE0_SHA256
from raybench.errors import WeightsCorrupt

if TYPE_CHECKING:
    from raybench.detectors.anomalib_parts import TimmFeatureExtractor

_COUNTERS = "num_batches_tracked"  # of batch norm; older files lack them, and scoring does not read them


def extractor(name: str, *strides: int, trainable: bool = False) -> TimmFeatureExtractor:
    """Return anomalib's feature extractor on a backbone with random weights, cut after the last of `strides`."""
    from raybench.detectors.anomalib_parts import TimmFeatureExtractor

    chosen = BACKBONES[name]
    feature_extractor = TimmFeatureExtractor(
        chosen.timm_name, chosen.names(*strides), pre_trained=False, requires_grad=trainable
    ).eval()
    trim(feature_extractor)
    return feature_extractor


def trim(feature_extractor: TimmFeatureExtractor) -> None:
    """Drop the blocks of an EfficientNet after the last layer that is read; timm runs them all."""
    features = feature_extractor.feature_extractor
    if hasattr(features, "blocks"):
        last = max(int(str(layer).removeprefix("blocks.")) for layer in feature_extractor.layers)
        features.blocks = features.blocks[: last + 1]


def pretrain(feature_extractor: TimmFeatureExtractor, name: str, context: FitContext) -> None:
    """Load the backbone's weights into an extractor, except for "random". Raises WeightsMissing, WeightsCorrupt."""
    _fill(feature_extractor.feature_extractor, name, context)


def whole(name: str, context: FitContext) -> nn.Module:
    """Return the backbone with its weights and its classification head. Raises WeightsMissing, WeightsCorrupt."""
    model = classifier(name)
    _fill(model, name, context)
    return model


def _fill(target: nn.Module, name: str, context: FitContext) -> None:
    asset = BACKBONES[name].asset
    if not asset:
        return
    state = _read(context.weights[asset].path, name) if asset in context.weights else lite0_state()
    expected = target.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTERS)]
    if missing:
        raise WeightsCorrupt(f"the weights of {name} lack {', '.join(missing[:3])} and {len(missing)} tensors in all")
    try:
        target.load_state_dict({key: state.get(key, initial) for key, initial in expected.items()})
    except RuntimeError as error:
        raise WeightsCorrupt(f"the weights of {name} do not fit timm's {BACKBONES[name].timm_name}: {error}") from error


def _read(path: Path, name: str) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return remap(state, classifier().state_dict()) if name == LITE0 else state


class Normalised(nn.Module):
    """A module that normalises images (B, 3, H, W) in [0, 1] as its backbone expects, then runs `model`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model = model
        chosen = BACKBONES[name]
        self.register_buffer("mean", torch.tensor(chosen.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(chosen.std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean of each channel and divide by its standard deviation."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Any:
        return self.model(self.normalise(images))


def note(name: str, context: FitContext) -> str:
    """Describe the origin of the weights in words."""
    asset = BACKBONES[name].asset
    if not asset:
        return f"random weights of {BACKBONES[name].timm_name}: a control, not a detector"
    if asset in context.weights:
        return f"ImageNet weights of {name} from the weights store, sha256 {context.weights[asset].sha256[:12]}"
    return f"ImageNet weights of {name} from its pip package, sha256 {LITE0_SHA256[:12]}"


@functools.cache
def lite0_state() -> Mapping[str, Tensor]:
    """Return the packaged ImageNet weights of lite0 under timm's names. Raises WeightsMissing, WeightsCorrupt."""
    original = torch.load(weights.packaged_lite0(), map_location="cpu", weights_only=True)
    return remap(original, classifier().state_dict())


def classifier(name: str = LITE0) -> nn.Module:
    """Return the network and its classification head with random weights, without a trace in the random state."""
    import timm

    with own_draws():
        return timm.create_model(BACKBONES[name].timm_name, pretrained=False).eval()


def random_state(timm_name: str) -> Mapping[str, Tensor]:
    """Return the tensors of a network with random weights, without a trace in the random state."""
    import timm

    with own_draws():
        return timm.create_model(timm_name, pretrained=False, num_classes=0).state_dict()


def remap(original: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `original` under the names of `expected`, matched by order.

    Raises WeightsCorrupt unless the number of tensors, their shapes and leaf names (weight, bias...) agree.
    """
    if len(original) != len(expected):
        raise WeightsCorrupt(f"{len(original)} tensors in the file, {len(expected)} in {LITE0}")
    pairs = list(zip(original.items(), expected.items(), strict=True))
    for (key, tensor), (name, initial) in pairs:
        if key.rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1] or tensor.shape != initial.shape:
            raise WeightsCorrupt(f"{key} {tuple(tensor.shape)} does not fit {name} {tuple(initial.shape)} of {LITE0}")
    return {name: tensor for (_, tensor), (name, _) in pairs}
