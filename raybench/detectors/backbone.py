"""Pretrained backbones of timm, without network access: feature extractors with ImageNet weights from files.

The packaged file of EfficientNet-Lite0 has the tensor names of another implementation. Both list the same tensors in
the same order.

timm and anomalib are imported when a network is built: that takes seconds, which detectors without a backbone spare.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raybench.detectors import weights
from raybench.detectors.device import own_draws
from raybench.detectors.protocol import FitContext
from raybench.detectors.settings import OnBackbone, TimmBackbone
from raybench.detectors.weights.catalog import BACKBONES, LITE0, LITE0_SHA256, TRANSFORMERS, Backbone
from raybench.errors import InputError, WeightsCorrupt, WeightsMissing

if TYPE_CHECKING:
    from raybench.detectors.anomalib_parts import TimmFeatureExtractor

Choice = str | TimmBackbone
_BLOCK = re.compile(r"blocks\.(\d+)")
_COUNTERS = "num_batches_tracked"  # of batch norm; older files lack them, and scoring does not read them


def layout(chosen: Choice) -> Backbone:
    """Return the layers and the normalisation of a backbone."""
    if isinstance(chosen, str):
        return BACKBONES[chosen]
    mean, std = chosen.mean, chosen.std
    return Backbone(
        chosen.timm_name,
        _layers(chosen.timm_name),
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        chosen.weights,
        "own",
    )


@functools.cache
def _layers(timm_name: str) -> Mapping[int, tuple[str, int]]:
    """Return timm's names of a network's layers and their channels, by stride. The last layer of a stride counts.

    Raises InputError if its features are no maps.
    """
    import timm

    with own_draws(), torch.device("meta"):
        network = timm.create_model(timm_name, pretrained=False)
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise InputError(f"the features of {timm_name} are not (channels, height, width); name a convolutional network")
    infos = list(getattr(network, "feature_info", ()))
    if len({info["module"] for info in infos}) < len(infos):
        raise InputError(f"levels of {timm_name} share a module, so that none can be read alone; name another network")
    return {info["reduction"]: (info["module"], info["num_chs"]) for info in infos}


def check(settings: OnBackbone, context: FitContext) -> None:
    """Build a backbone of the user's own and load its file, as training would.

    Raises:
        InputError: The network has no features of a stride.
        WeightsMissing: The file is not on this node.
        WeightsCorrupt: The file is not that of the network.
    """
    pretrain(extractor(settings.backbone, *settings.strides), settings.backbone, context)


def extractor(name: Choice, *strides: int, trainable: bool = False) -> TimmFeatureExtractor:
    """Return anomalib's feature extractor on a backbone with random weights, cut after the last of `strides`."""
    from raybench.detectors.anomalib_parts import TimmFeatureExtractor

    chosen = layout(name)
    feature_extractor = TimmFeatureExtractor(
        chosen.timm_name, chosen.names(*strides), pre_trained=False, requires_grad=trainable
    ).eval()
    trim(feature_extractor)
    return feature_extractor


def trim(feature_extractor: TimmFeatureExtractor) -> None:
    """Drop the blocks of an EfficientNet after the last layer that is read; timm runs them all."""
    features = feature_extractor.feature_extractor
    blocks = [int(found[1]) for layer in feature_extractor.layers if (found := _BLOCK.fullmatch(str(layer)))]
    if hasattr(features, "blocks") and blocks:
        features.blocks = features.blocks[: max(blocks) + 1]


def transformer(name: Choice, *blocks: int, **options: bool) -> TimmFeatureExtractor:
    """Return anomalib's extractor of the tokens after some blocks of a vision transformer, with random weights.

    Args:
        name: One of `TRANSFORMERS`.
        blocks: Numbers of the blocks, the first is 0. Later ones than these are dropped.
        options: `return_class_token` and `norm` of anomalib's extractor.
    """
    from raybench.detectors.anomalib_parts import TimmFeatureExtractor

    layers = [f"blocks.{block}" for block in blocks]
    found = TimmFeatureExtractor(layout(name).timm_name, layers, pre_trained=False, output_fmt="NLC", **options)
    trim(found)
    return found


def pretrain(feature_extractor: TimmFeatureExtractor, name: Choice, context: FitContext) -> None:
    """Load the backbone's weights into an extractor, except for "random". Raises WeightsMissing, WeightsCorrupt."""
    _fill(feature_extractor.feature_extractor, name, context)


def whole(name: str, context: FitContext) -> nn.Module:
    """Return the backbone with its weights and its classification head. Raises WeightsMissing, WeightsCorrupt."""
    model = classifier(name)
    _fill(model, name, context)
    return model


def _fill(target: nn.Module, name: Choice, context: FitContext) -> None:
    chosen = layout(name)
    if not chosen.asset:
        return
    if chosen.asset in context.weights:
        state = _read(context.weights[chosen.asset].path, name)
        if name in TRANSFORMERS:
            from timm.models.vision_transformer import checkpoint_filter_fn

            vit: Any = target
            state = checkpoint_filter_fn(dict(state), vit)  # from its publisher's names of tensors to timm's
    elif name == LITE0:
        state = lite0_state()
    else:
        raise WeightsMissing(f"weights {chosen.asset!r} were not fetched to this node")
    expected, keys = target.state_dict(), _keys(state, target)
    missing = [key for key in keys.values() if key not in state and not key.endswith(_COUNTERS)]
    if missing:
        raise WeightsCorrupt(
            f"the weights {chosen.asset!r} lack {', '.join(missing[:3])} and {len(missing)} tensors in all of timm's "
            f"{chosen.timm_name}; a file holds the state_dict of the network itself"
        )
    try:
        target.load_state_dict({key: state.get(keys[key], initial) for key, initial in expected.items()})
    except RuntimeError as error:
        raise WeightsCorrupt(f"the weights {chosen.asset!r} do not fit timm's {chosen.timm_name}: {error}") from error


def _keys(state: Mapping[str, Tensor], target: nn.Module) -> dict[str, str]:
    """Return the key in `state` of each tensor of a network that timm has cut.

    timm names parts of it "stages_0" or "model.stages_0" that a whole network and its file name "stages.0".
    """
    flat: dict[str, list[str]] = {}
    for key in state:
        flat.setdefault(key.replace(".", "_"), []).append(key)
    keys = {}
    for key in target.state_dict():
        found = flat.get(key.removeprefix("model.").removeprefix("body.").replace(".", "_"), [])
        keys[key] = found[0] if key not in state and len(found) == 1 else key
    return keys


def _read(path: Path, name: Choice) -> Mapping[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (pickle.UnpicklingError, RuntimeError, SafetensorError, EOFError) as error:
        raise WeightsCorrupt(
            f"{path.name} is no file of tensors (torch.save of a state_dict, or safetensors): {error}"
        ) from error
    return remap(state, classifier().state_dict()) if name == LITE0 else state


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise WeightsCorrupt(f"{path.name} holds a {type(found).__name__}, not the state_dict of a network")
    return found


class Normalised(nn.Module):
    """A module that normalises images (B, 3, H, W) in [0, 1] as its backbone expects, then runs `model`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, name: Choice) -> None:
        super().__init__()
        self.model = model
        chosen = layout(name)
        self.register_buffer("mean", torch.tensor(chosen.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(chosen.std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean of each channel and divide by its standard deviation."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Any:
        return self.model(self.normalise(images))


def note(name: Choice, context: FitContext) -> str:
    """Describe the origin of the weights in words."""
    if isinstance(name, TimmBackbone):
        return (
            f"weights {name.weights!r} of {name.timm_name} from the weights store, sha256 {name.sha256[:12]}, "
            f"a file of its user's own; licence: {name.licence}"
        )
    asset = BACKBONES[name].asset
    if not asset:
        return f"random weights of {BACKBONES[name].timm_name}: a control, not a detector"
    if asset in context.weights:
        of = "DINOv2's" if name in TRANSFORMERS else "ImageNet"
        return f"{of} weights of {name} from the weights store, sha256 {context.weights[asset].sha256[:12]}"
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
