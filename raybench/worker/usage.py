"""What a task takes: time, CPUs, GPU and its memory."""

from __future__ import annotations

import time

from raybench.detectors.protocol import Detector
from raybench.runs.records import ResourceUsage
from raybench.worker.context import WorkerContext


class UsageMeter:
    """Runs from construction on."""

    def __init__(self, site: WorkerContext) -> None:
        self.site, self.started = site, time.perf_counter()
        if site.device != "cpu":
            from raybench.detectors import device  # torch takes seconds to import, and a CPU needs none of this

            device.give_back_memory(site.device)
            device.reset_peak_memory(site.device)

    def read(self, images: int, detector: Detector) -> ResourceUsage:
        """So far, having looked at so many images."""
        peak_mb, total_mb = self._memory_mb(detector)
        seconds = time.perf_counter() - self.started
        cpu_s, gpu_s = seconds * self.site.threads, seconds * self.site.gpus
        return ResourceUsage(seconds, images, cpu_s, gpu_s, self.site.device, peak_mb, total_mb)

    def _memory_mb(self, detector: Detector) -> tuple[float | None, float | None]:
        """GPU memory held at most and that there is."""
        if self.site.device == "cpu":
            return None, None
        from raybench.detectors import device

        found = device.held_memory_mb(self.site.device)
        own: float = getattr(detector, "gpu_memory_mb", 0.0)
        return (found or 0.0) + own if found is not None or own else None, device.total_memory_mb(self.site.device)
