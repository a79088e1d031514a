"""What kind of anomaly a flagged image looks like, without labels: a defect, a change of lighting, or one of layout.

`references_of` a line are made once, from a few of its OK images; `signal` then answers for one image.
"""

from raybench.analysis.anomaly_types.classify import Signal, signal
from raybench.analysis.anomaly_types.line import references_of
from raybench.analysis.anomaly_types.references import References

__all__ = ["References", "Signal", "references_of", "signal"]
