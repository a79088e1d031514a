"""What kind of anomaly a flagged image looks like, without labels: a defect, a change of lighting, or one of layout.

`references_of` a line are made once, from a few of its OK images; `signal` then answers for one image.
"""

from raybench.findings.signals.line import references_of
from raybench.findings.signals.references import References
from raybench.findings.signals.rule import Signal, signal

__all__ = ["References", "Signal", "references_of", "signal"]
