"""The device that detectors run on: its name, copies to it, synchronization and memory."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def describe(device: str) -> str:
    """Return the product name of the GPU or of the CPU."""
    return torch.cuda.get_device_name(device) if _is_cuda(device) else _cpu_name()


def available(gpus: float | None = None) -> str:
    """Return "cuda" if torch has a GPU and `gpus`, GPUs per task in the experiment, is not 0; else "cpu"."""
    return "cuda" if gpus != 0 and torch.cuda.is_available() else "cpu"


def use_gpu(number: int) -> None:
    """Make this GPU, counted among the visible ones, the current one: "cuda" means the current GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number)


def exact(device: str) -> str:
    """Return `device` with the number of the GPU: "cuda" becomes the current one, "cuda:0"."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and torch.cuda.is_available() else device


def own_draws() -> contextlib.AbstractContextManager[None]:
    """Return a context that restores the random state of the CPU and of the current GPU when it ends.

    By default torch keeps the state of every visible GPU and warns.
    """
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.random.fork_rng([torch.cuda.current_device()] if in_use else [])


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to the device without waiting for the work queued there."""
    return pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy in page-locked memory, which a GPU reads without the CPU's help; for a CPU, the tensor itself."""
    return tensor.pin_memory() if _is_cuda(str(device)) else tensor


def use_threads(count: int) -> None:
    """Set the number of CPU threads of one operation."""
    torch.set_num_threads(count)


def synchronize(device: str) -> None:
    """Wait until all work queued on the device is done."""
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory_mb` and `held_memory_mb`."""
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: str) -> float | None:
    """Return the peak of allocated device memory since the reset, in 10^6 bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if _is_cuda(device) else None


def held_memory_mb(device: str) -> float | None:
    """Return the peak of device memory that torch reserved since the reset, in 10^6 bytes; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) / 1e6 if _is_cuda(device) else None


def total_memory_mb(device: str) -> float | None:
    """Return the memory of the device in 10^6 bytes; None on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 1e6 if _is_cuda(device) else None


def give_back_memory(device: str) -> None:
    """Release the memory that torch has cached, for other processes."""
    if _is_cuda(device):
        torch.cuda.empty_cache()


def copy_to_host(tensor: torch.Tensor | None) -> Callable[[], Any]:
    """Start to copy a tensor to the host. Returns a function that waits for the copy and returns it as an array."""
    if tensor is None or not tensor.is_cuda:
        return lambda: None if tensor is None else tensor.numpy()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> Any:
        copied.synchronize()
        return copy.numpy()

    return wait


def _is_cuda(device: str) -> bool:
    """Return whether to use CUDA. A detector without torch may hold a GPU that torch cannot use."""
    return torch.device(device).type == "cuda" and torch.cuda.is_available()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
