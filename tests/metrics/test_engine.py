"""Agreement with what anomalib's own `Engine.test` reports, on the same maps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Threshold
from tests.support.made_maps import MadeMap, sketch_of


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_anomalibs_engine(strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its post-processor brings scores into [0, 1], where torchmetrics takes them as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.data import Folder
        from anomalib.engine import Engine
        from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Max
        from anomalib.models import Padim
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms.v2 import Resize
    monkeypatch.setenv("TQDM_DISABLE", "1")
    of_images, of_pixels = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    evaluator = Evaluator(
        test_metrics=[
            AUROC(fields=of_images, prefix="image_"),
            F1Max(fields=of_images, prefix="image_"),
            AUROC(fields=of_pixels, prefix="pixel_"),
            AUPRO(fields=of_pixels, prefix="pixel_"),
        ]
    )
    with torch.random.fork_rng():
        data = Folder(
            "strip", root=strips, normal_dir="train/good", normal_test_dir="test/good",
            abnormal_dir=["test/scratch", "test/missing_hole"],
            mask_dir=["ground_truth/scratch", "ground_truth/missing_hole"],
            train_batch_size=4, eval_batch_size=4, num_workers=0, val_split_mode="same_as_test",
        )  # fmt: skip
        model = Padim(
            backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=16,
            pre_processor=PreProcessor(transform=Resize((64, 96))), evaluator=evaluator, visualizer=False,
        )  # fmt: skip
        engine = Engine(default_root_dir=tmp_path, logger=False, barebones=False, accelerator="cpu", devices=1)
        engine.fit(model, datamodule=data)
        theirs = engine.test(model, datamodule=data)[0]
        batches: Any = engine.predict(model, dataloaders=data.test_dataloader())
    items = [item for batch in batches for item in batch]
    maps, ids, labels, scores = [], [], [], []
    for item in items:
        heat, mask = (np.squeeze(np.asarray(part)) for part in (item.anomaly_map, item.gt_mask))
        maps.append(MadeMap(item.image_path, heat.astype(np.float32), mask > 0))
        ids.append(item.image_path)
        labels.append("ng" if bool(item.gt_label) else "ok")
        scores.append(float(item.pred_score))
    pixels = sketch_of(maps).evaluate(intervals=False)
    images = image_quality(ImageScores.of(ids, labels, scores), Threshold(0.5, 9, 0.1, 0.1))
    assert set(labels) == {"ok", "ng"}
    assert images.image_auroc.value == pytest.approx(theirs["image_AUROC"], abs=1e-4)
    assert images.image_f1_max.value == pytest.approx(theirs["image_F1Max"], abs=1e-4)
    assert pixels.pixel_auroc.value == pytest.approx(theirs["pixel_AUROC"], abs=1e-4)
    assert pixels.au_pro.value == pytest.approx(theirs["pixel_AUPRO"], abs=1e-4)
