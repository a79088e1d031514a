"""The own readers of annotation tools. All together take seconds to import."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic 1's, numpy 1's
    import datumaro
    import supervision
    from label_studio_sdk.converter.converter import Converter
    from label_studio_sdk.label_interface.interface import LabelInterface
    from pycocotools.coco import COCO

__all__ = ["COCO", "Converter", "LabelInterface", "datumaro", "supervision"]
