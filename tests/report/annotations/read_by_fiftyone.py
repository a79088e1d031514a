"""For an interpreter that has FiftyOne: read a COCO export as its COCODetectionDataset does, and store the masks.

python read_by_fiftyone.py LINE OUT: the importer that `fiftyone.Dataset.from_dir` runs gives every image its instances;
they go to the folder OUT as one bool mask an image, FILE.npy. The importer needs no database.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from fiftyone.types import COCODetectionDataset


def main(line: Path, out: Path) -> None:
    importer = COCODetectionDataset().get_dataset_importer_cls()(
        data_path=str(line / "images"),
        labels_path=str(line / "coco.json"),
        label_types="segmentations",
        include_id=True,
    )
    out.mkdir()
    with importer:
        for path, metadata, labels in importer:
            mask = np.zeros((metadata.height, metadata.width), np.bool_)
            found = labels.get("segmentations")  # none of an image without regions
            for detection in found.detections if found else ():
                assert detection.label == "anomaly"
                drawn = detection.to_segmentation(frame_size=(metadata.width, metadata.height), target=1)
                mask |= drawn.mask > 0
            np.save(out / f"{Path(path).name}.npy", mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
