"""The device that detectors run on: what it is called, when it is done, how much memory it took."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def describe(device: str) -> str:
    """A name for people: of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if _is_cuda(device) else _cpu_name()


def available(gpus: float | None = None) -> str:
    """ "cuda" where this process has a GPU, and `gpus` of an experiment's resources does not say no; else "cpu"."""
    return "cuda" if gpus != 0 and torch.cuda.is_available() else "cpu"


def use_gpu(number: int) -> None:
    """Make "cuda" mean this GPU, of those that this process sees, until another is chosen."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number)


def exact(device: str) -> str:
    """`device` with the GPU's number: "cuda" is whichever was chosen last."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and torch.cuda.is_available() else device


def own_draws() -> contextlib.AbstractContextManager[None]:
    """Whatever is drawn or seeded within leaves no trace outside, on the CPU and on the current GPU. Of several GPUs
    that a process sees, torch would by itself keep the state of each, and warn."""
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.random.fork_rng([torch.cuda.current_device()] if in_use else [])


def use_threads(count: int) -> None:
    """CPU threads of one operation."""
    torch.set_num_threads(count)


def synchronize(device: str) -> None:
    """Wait until the device has done all that was asked of it."""
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: str) -> float | None:
    """Device memory (10^6 bytes) allocated at most since the reset; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if _is_cuda(device) else None


def held_memory_mb(device: str) -> float | None:
    """Device memory (10^6 bytes) that torch kept from others at most since the reset; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) / 1e6 if _is_cuda(device) else None


def total_memory_mb(device: str) -> float | None:
    """Device memory (10^6 bytes) that there is; None on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 1e6 if _is_cuda(device) else None


def give_back_memory(device: str) -> None:
    """Let others have the memory that torch keeps for later."""
    if _is_cuda(device):
        torch.cuda.empty_cache()


def _is_cuda(device: str) -> bool:
    """A task on a GPU slot without a GPU that torch can use has a detector without torch: it runs on the CPU."""
    return torch.device(device).type == "cuda" and torch.cuda.is_available()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
