"""What kind of anomaly a flagged image looks like, without labels: a defect, a change of lighting, or one of layout.

`references_of` builds a line's reference bank once, from a few of its OK images; `classify` then answers for one image.
"""

from raybench.analysis.anomaly_types.classify import AnomalyType, classify
from raybench.analysis.anomaly_types.line import references_of
from raybench.analysis.anomaly_types.references import ReferenceBank

__all__ = ["AnomalyType", "ReferenceBank", "classify", "references_of"]
