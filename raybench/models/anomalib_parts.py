"""The parts of anomalib that raybench uses, imported in one place.

Importing any of them imports every model of anomalib, and with them modules that warn of
their own deprecation.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from anomalib.data import InferenceBatch
    from anomalib.models.components import TimmFeatureExtractor
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, SmallPatchDescriptionNetwork
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    from anomalib.models.image.reverse_distillation.anomaly_map import (
        AnomalyMapGenerationMode,
        AnomalyMapGenerator,
    )
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

__all__ = [
    "AnomalyMapGenerationMode",
    "AnomalyMapGenerator",
    "EfficientAdModel",
    "InferenceBatch",
    "PadimModel",
    "PatchcoreModel",
    "ReverseDistillationLoss",
    "SmallPatchDescriptionNetwork",
    "TimmFeatureExtractor",
]
