"""What can be set in each detector, with its default and its bounds. Knows no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Strict: no unknown keys, no conversions (an int counts as a float), no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PadimSettings(Settings):
    """n_features: channels kept of the 176; the detector's size and scoring time grow with its square."""

    n_features: int = Field(64, ge=1, le=176)


class PatchcoreSettings(Settings):
    """pool_rows: patches kept before the coreset, over all images. coreset_ratio: part of them to remember.
    bank_rows: and at most so many. neighbours: for the re-weighting of the image score (1: none)."""

    coreset_ratio: float = Field(0.05, gt=0, le=1)
    pool_rows: int = Field(60_000, ge=100)
    bank_rows: int = Field(10_000, ge=10)
    neighbours: int = Field(9, ge=1)


class ReverseDistillationSettings(Settings):
    """steps: optimiser steps of `batch` images. lr: Adam's learning rate. width: bottleneck channels."""

    steps: int = Field(100, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(0.005, gt=0)
    width: int = Field(128, ge=8)


class EfficientAdSettings(Settings):
    """distil_steps: of the teacher, on crops of crop_px pixels. autoencoder_steps: of the autoencoder alone. steps: of
    student and autoencoder together. lr: Adam's learning rate, for all."""

    distil_steps: int = Field(300, ge=0)
    autoencoder_steps: int = Field(200, ge=0)
    steps: int = Field(100, ge=0)
    lr: float = Field(0.001, gt=0)
    crop_px: int = Field(64, ge=40)


class FakeSettings(Settings):
    """grid: side of the low-resolution mean image. The rest injects faults: where to fail or to be killed
    (only once, when `kill_once_marker` names a file that does not exist yet), NaN scores, sleep."""

    grid: int = Field(32, ge=2)
    fail_in: Literal["none", "fit", "score"] = "none"
    kill_in: Literal["none", "fit", "score"] = "none"
    kill_once_marker: str = ""
    nan_in_score: bool = False
    sleep_s: float = Field(0.0, ge=0)
