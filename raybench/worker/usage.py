"""Resources that a task uses: wall time, CPU and GPU time, and GPU memory."""

from __future__ import annotations

import time

from raybench.detectors.protocol import Detector
from raybench.runs.records import ResourceUsage
from raybench.worker.context import WorkerContext


class UsageMeter:
    """Measures the resource usage of a task from construction on."""

    def __init__(self, context: WorkerContext) -> None:
        self.context, self.started = context, time.perf_counter()
        if context.device != "cpu":
            from raybench.detectors import device  # importing torch takes seconds, and a CPU task may not need it

            device.give_back_memory(context.device)
            device.reset_peak_memory(context.device)

    def read(self, images: int, detector: Detector) -> ResourceUsage:
        """Return the usage since construction or the last call; `images` is the number of images processed."""
        peak_mb, total_mb = self._memory_mb(detector)
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        cpu_s, gpu_s = seconds * self.context.threads, seconds * self.context.gpus
        return ResourceUsage(seconds, images, cpu_s, gpu_s, self.context.device, peak_mb, total_mb)

    def _memory_mb(self, detector: Detector) -> tuple[float | None, float | None]:
        """Return the peak of GPU memory held and the GPU's total; None where unknown."""
        if self.context.device == "cpu":
            return None, None
        from raybench.detectors import device

        held_mb = device.held_memory_mb(self.context.device)
        total_mb = device.total_memory_mb(self.context.device)
        outside_torch_mb: float = getattr(detector, "gpu_memory_mb", 0.0)
        if held_mb is None and not outside_torch_mb:
            return None, total_mb
        return (held_mb or 0.0) + outside_torch_mb, total_mb
