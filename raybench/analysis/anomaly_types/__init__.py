"""Classify flagged images by the type of their anomaly, without labels: a defect, a change of lighting, or of layout.

`build_reference_bank` prepares a line once, from a few of its OK images; `classify` then answers for one image.
"""

from raybench.analysis.anomaly_types.classify import AnomalyType, classify
from raybench.analysis.anomaly_types.references import ReferenceBank, build_reference_bank

__all__ = ["AnomalyType", "ReferenceBank", "build_reference_bank", "classify"]
