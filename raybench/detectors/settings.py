"""What can be set in each detector, with its default and its bounds. Knows no torch.

The defaults are the papers': meant for a GPU. `CPU` holds what the preset "cpu" puts in their place, so that ten models
on one line of 120 images take minutes on two cores. Papers count epochs; steps are those of a line of about 240 images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from raybench.detectors.weights.catalog import BackboneName

PRESETS = ("paper", "cpu")


class Settings(BaseModel):
    """Strict: no unknown keys, no conversions (an int counts as a float), no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    CPU: ClassVar[Mapping[str, Any]] = {}


class OnBackbone(Settings):
    """backbone: whose features; "random" is a control with random weights."""

    backbone: BackboneName = "efficientnet-lite0"


class Steps(Settings):
    """steps: optimiser steps, at most, of `batch` images each. lr: the learning rate."""

    steps: int = Field(1000, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)


class PadimSettings(OnBackbone):
    """n_features: channels kept of the embedding's; the detector's size and scoring time grow with its square."""

    n_features: int = Field(100, ge=1)
    CPU = {"n_features": 64}


class PatchcoreSettings(OnBackbone):
    """pool_rows: patches kept before the coreset, over all images. coreset_ratio: part of them to remember.
    bank_rows: and at most so many. neighbours: for the re-weighting of the image score (1: none)."""

    coreset_ratio: float = Field(0.1, gt=0, le=1)
    pool_rows: int = Field(400_000, ge=100)
    bank_rows: int = Field(40_000, ge=10)
    neighbours: int = Field(9, ge=1)
    CPU = {"coreset_ratio": 0.05, "pool_rows": 60_000, "bank_rows": 10_000}


class DfmSettings(OnBackbone):
    """pooling: side of the averaged cells, in features of stride 16. variance: share that the PCA keeps."""

    pooling: int = Field(4, ge=1)
    variance: float = Field(0.97, gt=0, lt=1)


class StfpmSettings(OnBackbone, Steps):
    steps: int = Field(800, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(0.4, gt=0)
    CPU = {"steps": 150, "batch": 8}


class ReverseDistillationSettings(OnBackbone, Steps):
    """width: bottleneck channels. Few steps on a CPU are not thrift alone: at this rate image AUROC on kolektor_sdd
    falls from 0.91 after 20 to 0.87 after 100 and 0.85 after 200."""

    steps: int = Field(3000, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(0.005, gt=0)
    width: int = Field(256, ge=8)
    CPU = {"steps": 20, "batch": 8, "width": 128}


class FastflowSettings(OnBackbone, Steps):
    """flow_steps: coupling blocks per level."""

    steps: int = Field(4000, ge=1)
    batch: int = Field(32, ge=1)
    flow_steps: int = Field(8, ge=1)
    CPU = {"steps": 120, "batch": 4}


class CflowSettings(OnBackbone, Steps):
    """fibers: positions per optimiser step; a batch of images gives many. coupling_blocks: per level."""

    steps: int = Field(400, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(1e-4, gt=0)
    fibers: int = Field(64, ge=2)
    coupling_blocks: int = Field(8, ge=1)
    CPU = {"steps": 40, "batch": 4, "lr": 1e-3, "fibers": 512}


class SupersimplenetSettings(OnBackbone, Steps):
    """lr: of the feature adaptor; the heads learn twice as fast. noise: deviation of the made anomalies, in that of
    the features on OK images."""

    steps: int = Field(2250, ge=1)
    batch: int = Field(32, ge=1)
    lr: float = Field(1e-4, gt=0)
    noise: float = Field(0.5, gt=0)
    CPU = {"steps": 120, "batch": 4, "lr": 3e-4}


class DraemSettings(Steps):
    """width: channels of the reconstructing network's first level (the other's: half). textures: what anomalies are
    made of: "line" (altered OK images and Perlin noise) or "dtd" (from the weights store)."""

    steps: int = Field(21_000, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-4, gt=0)
    width: int = Field(128, ge=4)
    textures: Literal["line", "dtd"] = "line"
    CPU = {"steps": 60, "batch": 4, "lr": 1e-3, "width": 16}


class EfficientAdSettings(Settings):
    """teacher: "line" (distilled here, on crops of crop_px pixels of the line's OK images, in distil_steps), or from
    the weights store "pdn-lite0" or "pdn-official". autoencoder_steps: of the autoencoder alone. steps: of student and
    autoencoder together, on at most `remembered` images, whose teacher features are kept. lr: Adam's learning rate,
    for all. not_ok: the images that keep the student from generalising: "line" (scrambled crops of the line's OK
    images) or "imagenette" (from the weights store)."""

    teacher: Literal["line", "pdn-lite0", "pdn-official"] = "line"
    not_ok: Literal["line", "imagenette"] = "line"
    distil_steps: int = Field(10_000, ge=0)
    autoencoder_steps: int = Field(2000, ge=0)
    steps: int = Field(70_000, ge=0)
    lr: float = Field(1e-4, gt=0)
    crop_px: int = Field(64, ge=40)
    remembered: int = Field(256, ge=1)
    CPU = {"distil_steps": 300, "autoencoder_steps": 100, "steps": 50, "lr": 1e-3, "remembered": 6}


class AnomalibSettings(Settings):
    """steps: of anomalib's trainer, of `batch` images each. init: further arguments of the model's constructor.
    backbone: where the constructor takes one and `init` does not give it; dinov2 for those that take an `encoder_name`
    (their stride is 14). stride, min_side: of the input, in pixels."""

    backbone: BackboneName | Literal["dinov2"] = "efficientnet-lite0"
    steps: int = Field(1000, ge=1)
    batch: int = Field(8, ge=1)
    init: dict[str, Any] = Field(default_factory=dict)
    stride: int = Field(32, ge=1)
    min_side: int = Field(64, ge=1)
    CPU = {"steps": 60, "batch": 4}


class FakeSettings(Settings):
    """grid: side of the low-resolution mean image. The rest injects faults: where to fail, to hang or to be killed
    (only once, when `kill_once_marker` names a file that does not exist yet), NaN scores, scores of a wrong shape,
    infinite heat on images with a brighter pixel than `poison_above`, sleep, mb_per_image of memory taken while
    memory_mb are allowed, leak_mb_per_image that no scored image gives back, and gpu_memory_mb that it says it takes of
    a GPU."""

    grid: int = Field(32, ge=2)
    fail_in: Literal["none", "fit", "score"] = "none"
    hang_in: Literal["none", "fit", "score"] = "none"
    kill_in: Literal["none", "fit", "score"] = "none"
    kill_once_marker: str = ""
    nan_in_score: bool = False
    wrong_shape: bool = False
    poison_above: int | None = None
    sleep_s: float = Field(0.0, ge=0)
    mb_per_image: float = Field(0.0, ge=0)
    memory_mb: float = Field(64.0, ge=0)
    leak_mb_per_image: float = Field(0.0, ge=0)
    gpu_memory_mb: float = Field(0.0, ge=0)
