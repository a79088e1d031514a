"""The parts of anomalib that raybench uses, imported in one place.

The import of any part imports all models of anomalib, and modules that warn that they are deprecated.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anomalib.models.image as image_models
    import timm
    from anomalib.callbacks.checkpoint import ModelCheckpoint
    from anomalib.data import ImageBatch, InferenceBatch
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator, generate_perlin_noise
    from anomalib.engine import Engine
    from anomalib.models.components import DynamicBufferMixin, GaussianBlur2d, MemoryBankMixin, TimmFeatureExtractor
    from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
    from anomalib.models.image.cflow.torch_model import CflowModel
    from anomalib.models.image.cflow.utils import get_logp, positional_encoding_2d
    from anomalib.models.image.dfm.torch_model import DFMModel
    from anomalib.models.image.dinomaly.components import StableAdamW, WarmCosineScheduler
    from anomalib.models.image.dinomaly.lightning_model import TRAINING_CONFIG as DINOMALY_TRAINING
    from anomalib.models.image.dinomaly.torch_model import DinomalyModel
    from anomalib.models.image.draem.loss import DraemLoss
    from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
    from anomalib.models.image.efficient_ad.torch_model import (
        AutoEncoder,
        EfficientAdModel,
        SmallPatchDescriptionNetwork,
        reduce_tensor_elems,
    )
    from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator as FastflowAnomalyMap
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import create_fast_flow_block
    from anomalib.models.image.inp_former.lightning_model import TRAINING_CONFIG as INP_FORMER_TRAINING
    from anomalib.models.image.inp_former.torch_model import InpFormerModel
    from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator as PadimAnomalyMap
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.anomaly_map import AnomalyMapGenerator as PatchcoreMap
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
    from anomalib.models.image.stfpm.anomaly_map import AnomalyMapGenerator as STFPMAnomalyMap
    from anomalib.models.image.stfpm.loss import STFPMLoss
    from anomalib.models.image.supersimplenet.loss import SSNLoss
    from anomalib.models.image.supersimplenet.torch_model import AnomalyMapGenerator as SSNAnomalyMap
    from anomalib.models.image.supersimplenet.torch_model import FeatureAdapter, SegmentationDetectionModule
    from anomalib.pre_processing import PreProcessor

__all__ = [
    "DINOMALY_TRAINING",
    "INP_FORMER_TRAINING",
    "AnomalyDINOModel",
    "AutoEncoder",
    "CflowModel",
    "DFMModel",
    "DinomalyModel",
    "DiscriminativeSubNetwork",
    "DraemLoss",
    "DynamicBufferMixin",
    "EfficientAdModel",
    "Engine",
    "FastflowAnomalyMap",
    "FastflowLoss",
    "FeatureAdapter",
    "GaussianBlur2d",
    "ImageBatch",
    "InferenceBatch",
    "InpFormerModel",
    "MemoryBankMixin",
    "ModelCheckpoint",
    "PadimAnomalyMap",
    "PadimModel",
    "PatchcoreMap",
    "PatchcoreModel",
    "PerlinAnomalyGenerator",
    "PreProcessor",
    "ReconstructiveSubNetwork",
    "ReverseDistillationLoss",
    "SSNAnomalyMap",
    "SSNLoss",
    "STFPMAnomalyMap",
    "STFPMLoss",
    "SegmentationDetectionModule",
    "SmallPatchDescriptionNetwork",
    "StableAdamW",
    "TimmFeatureExtractor",
    "WarmCosineScheduler",
    "create_fast_flow_block",
    "generate_perlin_noise",
    "get_logp",
    "image_models",
    "positional_encoding_2d",
    "random_weights",
    "reduce_tensor_elems",
]


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Let anomalib's models build their networks with random weights while the block runs, where they download them."""
    create = timm.create_model
    timm.create_model = lambda name, **options: create(name, **options | {"pretrained": False})
    try:
        yield
    finally:
        timm.create_model = create
