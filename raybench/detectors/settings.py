"""Settings of each detector with defaults and bounds, and the registry of models. Imports neither torch nor anomalib.

To add a model, register its settings class here and write the module that builds it.

The defaults are those of the papers and meant for a GPU. `CPU` holds the values of the preset "cpu", which trains ten
models on one line of 120 images in minutes on two cores. Papers count epochs; the steps here are those of a line of
about 240 images.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from raybench.detectors.weights.catalog import (
    ASSETS,
    BACKBONES,
    PATCH,
    UNKNOWN,
    Asset,
    BackboneName,
    TransformerName,
    own_asset,
)
from raybench.errors import InputError, UnknownName

PRESETS = ("paper", "cpu")
MOST_STRIDE = 32
"""Inputs are multiples of it, so features of every stride cover them exactly."""
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Settings(BaseModel):
    """Base of all settings. Strict: no unknown keys, no conversions (an int counts as a float), no NaN."""

    model_config = _STRICT
    CPU: ClassVar[Mapping[str, Any]] = {}
    """Values of the preset "cpu" that differ from the defaults."""
    ENOUGH_STEPS: ClassVar[int] = 0
    """Optimiser steps after which the model's quality hardly rose any more where that was measured, or a tenth of the
    paper's where it was not (docs/fidelity.md, "When training ends"). With fewer a model is marked as undertrained."""
    FROM_STORE: ClassVar[Mapping[str, str]] = {}
    """Names of weights that take the place of defaults wherever the weights store holds them."""

    def weights(self) -> Iterator[Asset]:
        """Yield the weights that a detector with these settings loads."""
        return iter(())


@dataclass(frozen=True)
class Model:
    """A registered model."""

    name: str
    """The name in the experiment file."""
    summary: str
    """One line for people."""
    builder: str
    """Module in `raybench.detectors` and class that builds the detector: "padim:Padim"."""
    settings: type[Settings]
    """The class of its settings."""
    stride: int = 32
    """The input's height and width must be multiples of this number of pixels."""
    min_side: int = 64
    """The least height and width, in pixels."""


MODELS: dict[str, Model] = {}
"""The registered models by name."""

SettingsT = TypeVar("SettingsT", bound=Settings)


def register(
    name: str, summary: str, builder: str, *, stride: int = 32, min_side: int = 64
) -> Callable[[type[SettingsT]], type[SettingsT]]:
    """Register a model under the settings class that is decorated. `Model` describes the arguments."""

    def add(settings: type[SettingsT]) -> type[SettingsT]:
        if name in MODELS:
            raise ValueError(f"the model {name!r} is already registered")
        MODELS[name] = Model(name, summary, builder, settings, stride, min_side)
        return settings

    return add


class TimmBackbone(BaseModel):
    """A network of timm with a file of your own from the weights store."""

    model_config = _STRICT
    timm_name: str
    """timm's name of the network, without the tag of its weights: "resnet50"."""
    weights: str
    """Name of the file in the weights store."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the file."""
    strides: list[int] = Field(default_factory=list)
    """Strides of the features that the model uses, in pixels, fine to coarse. Empty: those that the model uses of any
    backbone."""
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)
    """Mean of each channel of the images that it was trained on, in [0, 1]."""
    std: list[Annotated[float, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    """Standard deviation of each channel of these images, in [0, 1]."""
    licence: str = UNKNOWN
    """Licence of the file: an SPDX identifier, or words."""

    @field_validator("timm_name")
    @classmethod
    def _known_to_timm(cls, name: str) -> str:
        if name not in timm_names():
            raise ValueError(str(UnknownName("network of timm", name, timm_names())))
        if "vit" in name:
            raise ValueError("anomalib takes a network with `vit` in its name for a vision transformer; name another")
        return name

    @field_validator("strides")
    @classmethod
    def _fine_to_coarse(cls, strides: list[int]) -> list[int]:
        if any(not 1 <= stride <= MOST_STRIDE for stride in strides) or strides != sorted(set(strides)):
            raise ValueError(f"strides rise and are 1 to {MOST_STRIDE} px")
        return strides

    @model_validator(mode="after")
    def _name_is_free(self) -> TimmBackbone:
        try:
            self.asset()
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def asset(self) -> Asset:
        """Return its file as an entry of the catalogue."""
        return own_asset(self.weights, sha256=self.sha256, licence=self.licence)


@functools.cache
def timm_names() -> frozenset[str]:
    """Return the networks of the installed timm, read from its source: its import takes seconds and torch."""
    module = importlib.util.find_spec("timm")
    if module is None or module.origin is None:
        raise InputError("timm is not installed")
    sources = (Path(module.origin).parent / "models").glob("*.py")
    found = (re.findall(r"^@register_model\ndef (\w+)\(", path.read_text("utf-8"), re.MULTILINE) for path in sources)
    return frozenset(itertools.chain.from_iterable(found))


NAMED, OWN = "a name", "a network of timm"
BackboneChoice = Annotated[
    Annotated[BackboneName, Tag(NAMED)] | Annotated[TimmBackbone, Tag(OWN)],
    Discriminator(lambda value: OWN if isinstance(value, dict | TimmBackbone) else NAMED),
]
"""A backbone of raybench's by name, or one of your own."""


class OnBackbone(Settings):
    """Settings of a model on a pretrained backbone."""

    backbone: BackboneChoice = "efficientnet-lite0"
    """The network that computes features. "random" is a control with random weights; a mapping names a network of timm
    with a file of your own (docs/models.md)."""
    STRIDES: ClassVar[tuple[int, ...]] = (4, 8, 16)
    """Strides of the features that it uses, in pixels."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the features that it uses, fine to coarse, in pixels."""
        own = self.backbone.strides if isinstance(self.backbone, TimmBackbone) else ()
        return tuple(own) or self.STRIDES

    def weights(self) -> Iterator[Asset]:
        if isinstance(self.backbone, TimmBackbone):
            yield self.backbone.asset()
        elif asset := BACKBONES[self.backbone].asset:
            yield ASSETS[asset]


class Steps(Settings):
    """Settings of a model that an optimiser trains."""

    steps: int = Field(1000, ge=1)
    """The most optimiser steps."""
    batch: int = Field(8, ge=1)
    """Images per step."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""


@register("padim", "one Gaussian per patch position; quick to train, wants aligned parts", "padim:Padim")
class PadimSettings(OnBackbone):
    """Settings of PaDiM."""

    n_features: int = Field(100, ge=1)
    """Channels of the embedding that are kept. The size of the detector and its scoring time grow with the square."""
    CPU = {"n_features": 64}


@register("patchcore", "nearest neighbour in a memory of OK patches; strong default", "patchcore:Patchcore")
class PatchcoreSettings(OnBackbone):
    """Settings of PatchCore."""

    coreset_ratio: float = Field(0.1, gt=0, le=1)
    """Share of the pool that the memory bank keeps."""
    pool_rows: int = Field(400_000, ge=100)
    """The most patches in the pool from which the coreset is chosen, over all images."""
    bank_rows: int = Field(40_000, ge=10)
    """The most patches in the memory bank."""
    neighbours: int = Field(9, ge=1)
    """Neighbours that re-weight the image score. 1 turns re-weighting off."""
    STRIDES = (8, 16)
    CPU = {"coreset_ratio": 0.05, "pool_rows": 60_000, "bank_rows": 10_000}


@register("dfm", "what principal components of OK features lose; quickest, coarse heat map", "dfm:Dfm")
class DfmSettings(OnBackbone):
    """Settings of DFM."""

    pooling: int = Field(4, ge=1)
    """Side of the cells that are averaged, in features of stride 16."""
    variance: float = Field(0.97, gt=0, lt=1)
    """Share of the variance that the principal components explain."""
    STRIDES = (16,)

    @model_validator(mode="after")
    def _one_stride(self) -> DfmSettings:
        if len(self.strides) != 1:
            raise ValueError("dfm reads one layer: name one stride")
        return self


@register("stfpm", "a student learns the teacher's features on OK images; where it cannot is the defect", "stfpm:Stfpm")
class StfpmSettings(OnBackbone, Steps):
    """Settings of STFPM."""

    steps: int = Field(800, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(0.4, gt=0)
    ENOUGH_STEPS = 50
    CPU = {"steps": 150, "batch": 8}


@register(
    "reverse_distillation",
    "a decoder learns to rebuild OK features; where it fails is the defect",
    "reverse_distillation:ReverseDistillation",
)
class ReverseDistillationSettings(OnBackbone, Steps):
    """Settings of reverse distillation.

    The CPU preset has few steps not only to save time: at this learning rate, image AUROC on kolektor_sdd falls from
    0.91 after 20 steps to 0.87 after 100 and 0.85 after 200.
    """

    steps: int = Field(3000, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(0.005, gt=0)
    width: int = Field(256, ge=8)
    """Channels of the bottleneck."""

    @model_validator(mode="after")
    def _doubling_strides(self) -> ReverseDistillationSettings:
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(self.strides)) or self.strides[-1] > 16:
            raise ValueError("its decoder doubles the size level by level: strides double and end at 16 or before")
        return self

    CPU = {"steps": 20, "batch": 8, "width": 128}


@register(
    "efficient_ad",
    "small student, teacher and autoencoder; fast on a GPU, slow to train",
    "efficient_ad:EfficientAd",
    min_side=256,
)
class EfficientAdSettings(Settings):
    """Settings of EfficientAD."""

    teacher: Literal["efficientnet-lite0", "pdn-official"] = "efficientnet-lite0"
    """The teacher: a truncated backbone, or a file of the weights store. "pdn-official" is the paper's, and the default
    if the weights store has it."""
    not_ok: Literal["line", "imagenette"] = "line"
    """Images that keep the student from generalising: scrambled crops of the line's OK images ("line"), or ImageNette,
    which is the default if the weights store has it."""
    autoencoder_steps: int = Field(2000, ge=0)
    """Steps that train the autoencoder alone."""
    steps: int = Field(70_000, ge=0)
    """Steps that train student and autoencoder together."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of Adam in both phases."""
    crop_px: int = Field(64, ge=40)
    """Side of the scrambled crops, in pixels."""
    remembered: int = Field(256, ge=1)
    """The most training images of student and autoencoder. Their teacher features are kept in memory."""
    FROM_STORE = {"teacher": "pdn-official", "not_ok": "imagenette"}
    CPU = {"autoencoder_steps": 0, "steps": 0, "remembered": 24}

    def weights(self) -> Iterator[Asset]:
        yield ASSETS[self.teacher]
        if self.not_ok != "line":
            yield ASSETS[self.not_ok]


@register("fastflow", "normalizing flows over feature maps: how likely is what is seen", "fastflow:Fastflow")
class FastflowSettings(OnBackbone, Steps):
    """Settings of FastFlow."""

    steps: int = Field(4000, ge=1)
    batch: int = Field(32, ge=1)
    flow_steps: int = Field(8, ge=1)
    """Coupling blocks per level."""
    ENOUGH_STEPS = 450
    CPU = {"steps": 120, "batch": 4}


@register("cflow", "normalizing flows over features, told their place; slow to score on a CPU", "cflow:Cflow")
class CflowSettings(OnBackbone, Steps):
    """Settings of CFLOW-AD."""

    steps: int = Field(400, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(1e-4, gt=0)
    fibers: int = Field(64, ge=2)
    """Positions per optimiser step. One batch of images gives many such steps."""
    coupling_blocks: int = Field(8, ge=1)
    """Coupling blocks per level."""
    STRIDES = (8, 16, 32)
    CPU = {"steps": 40, "batch": 4, "lr": 1e-3, "fibers": 512}


@register(
    "supersimplenet", "learns to tell OK features from disturbed ones", "supersimplenet:Supersimplenet", min_side=128
)
class SupersimplenetSettings(OnBackbone, Steps):
    """Settings of SuperSimpleNet."""

    steps: int = Field(2250, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(1e-4, gt=0)
    """Learning rate of the feature adaptor. That of the heads is twice as high."""
    noise: float = Field(0.5, gt=0)
    """Standard deviation of the noise that makes anomalies, in units of that of OK features."""
    ENOUGH_STEPS = 120
    STRIDES = (8, 16)
    CPU = {"steps": 120, "batch": 4, "lr": 3e-4}


@register("draem", "learns from scratch to repair made anomalies and to find them; wants a GPU", "draem:Draem")
class DraemSettings(Steps):
    """Settings of DRAEM."""

    steps: int = Field(21_000, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-4, gt=0)
    width: int = Field(128, ge=4)
    """Channels of the first level of the reconstructing network. The discriminating network has half as many."""
    textures: Literal["line", "dtd"] = "line"
    """Textures of the made anomalies: altered OK images and Perlin noise ("line"), or Describable Textures from the
    weights store ("dtd")."""
    ENOUGH_STEPS = 2000
    CPU = {"steps": 60, "batch": 4, "lr": 1e-3, "width": 16}

    def weights(self) -> Iterator[Asset]:
        if self.textures != "line":
            yield ASSETS[self.textures]


class OnTransformer(Settings):
    """Settings of a model on a vision transformer, whose file has to be in the weights store."""

    backbone: TransformerName = "dinov2_vitb14_reg"
    """The network that computes features."""

    def weights(self) -> Iterator[Asset]:
        yield ASSETS[self.backbone]


@register(
    "anomaly_dino",
    "nearest neighbour in a memory of DINOv2's patches; no training, and one OK image will do",
    "anomaly_dino:AnomalyDino",
    stride=PATCH,
    min_side=4 * PATCH,
)
class AnomalyDinoSettings(OnTransformer):
    """Settings of AnomalyDINO."""

    backbone: TransformerName = "dinov2_vits14"
    shots: int = Field(0, ge=0)
    """OK images that fill the memory, drawn at random. 0: all."""
    pool_rows: int = Field(400_000, ge=100)
    """The most patches in the pool from which the coreset is chosen, over all images."""
    bank_rows: int = Field(40_000, ge=10)
    """The most patches in the memory bank. A smaller pool is kept whole."""
    CPU = {"pool_rows": 60_000, "bank_rows": 10_000}


@register(
    "dinomaly",
    "a decoder learns to rebuild DINOv2's features of OK images; where it fails is the defect; wants a GPU",
    "dinomaly:Dinomaly",
    stride=PATCH,
    min_side=4 * PATCH,
)
class DinomalySettings(OnTransformer, Steps):
    """Settings of Dinomaly."""

    steps: int = Field(5000, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(2e-3, gt=0)
    """Learning rate after the warm-up. It falls to a tenth."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the bottleneck's inputs that are dropped in training."""
    ENOUGH_STEPS = 500
    CPU = {"backbone": "dinov2_vits14_reg", "steps": 100, "batch": 4}


@register(
    "inp_former",
    "a decoder learns to rebuild DINOv2's features from prototypes of each image's own normal patches; wants a GPU",
    "inp_former:InpFormer",
    stride=PATCH,
    min_side=4 * PATCH,
)
class InpFormerSettings(OnTransformer, Steps):
    """Settings of INP-Former."""

    steps: int = Field(3000, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    """Learning rate after the warm-up. It falls to a tenth."""
    prototypes: int = Field(6, ge=1)
    """Prototypes of normal patches of each image."""
    ENOUGH_STEPS = 300
    CPU = {"backbone": "dinov2_vits14_reg", "steps": 100, "batch": 4}


class AnomalibSettings(Settings):
    """Settings of a model that anomalib trains."""

    backbone: BackboneName | TransformerName = "efficientnet-lite0"
    """The backbone of a model whose constructor takes one, unless `init` names another. A vision transformer suits
    models that take an `encoder_name`; their stride is 14."""
    steps: int = Field(1000, ge=1)
    """Steps of anomalib's trainer."""
    batch: int = Field(8, ge=1)
    """Images per step."""
    init: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's constructor."""
    stride: int = Field(32, ge=1)
    """The input's height and width must be multiples of this number of pixels."""
    min_side: int = Field(64, ge=1)
    """The least height and width, in pixels."""
    CPU = {"steps": 60, "batch": 4}

    def weights(self) -> Iterator[Asset]:
        if asset := BACKBONES[self.backbone].asset:
            yield ASSETS[asset]
