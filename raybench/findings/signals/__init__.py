"""What kind of anomaly a flagged image looks like, without labels: a defect, a change of lighting, or one of layout.

References are made once per line, from a few of its OK images; `signal` then answers for one image.
"""

from raybench.findings.signals.references import References, sample
from raybench.findings.signals.rule import Signal, signal

__all__ = ["References", "Signal", "sample", "signal"]
