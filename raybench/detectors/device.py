"""The device that detectors run on: its name, precision, copies to it, synchronization and memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from raybench.errors import is_out_of_memory
from raybench.metrics.timing import cpu_name

_DRIVER = Path("/proc/driver/nvidia/version")
_COPY = 2**18  # numbers of a copy between host and GPU: 1 MiB


def describe(device: str) -> str:
    """Return the product name of the GPU or of the CPU."""
    return torch.cuda.get_device_name(device) if is_usable(device) else cpu_name()


def available(gpus: float | None = None) -> str:
    """Return "cuda" if torch has a GPU and `gpus`, GPUs per task in the experiment, is not 0; else "cpu"."""
    return "cuda" if gpus != 0 and torch.cuda.is_available() else "cpu"


def count() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count()


def use_gpu(number: int) -> None:
    """Make this GPU, counted among the visible ones, the current one: "cuda" means the current GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number)


def thread_on_same_gpu() -> Callable[[], None]:
    """Return a function with which a new thread chooses this thread's GPU. By itself it would be on the first one."""
    number = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return lambda: None if number is None else torch.cuda.set_device(number)


def exact(device: str) -> str:
    """Return `device` with the number of the GPU: "cuda" becomes the current one, "cuda:0"."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and torch.cuda.is_available() else device


def use_exact_floats() -> None:
    """Compute convolutions and matrix products in full float32, and the same bytes each time, from now on.

    By default torch rounds the inputs of convolutions to TF32, 10 bits of mantissa, on GPUs that have it; NVIDIA's
    images do so in matrix products too (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE). Scores would differ by 1e-3 from a CPU's.
    The older of torch's two interfaces is used because reading its flags fails once the newer one has set them.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # else transposed convolutions add up in any order


@contextlib.contextmanager
def tf32_convolutions() -> Iterator[None]:
    """Let convolutions round their inputs to TF32 while the block runs, as is torch's default: for optimiser steps."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def has_tf32(device: str) -> bool:
    """Return whether convolutions on this device can use TF32."""
    return is_usable(device) and torch.cuda.get_device_capability(device) >= (8, 0)


def check(device: str, solvers: bool = True) -> None:
    """Compute something of each kind that detectors need, and compare it with what it must be.

    Args:
        device: Torch's name of the GPU.
        solvers: Whether to try an inverse and a singular value decomposition too, whose library takes memory.

    Raises:
        RuntimeError: torch cannot use the GPU, or the GPU computes something else.
    """
    with torch.inference_mode():
        ones, twice = torch.ones(1, 1, 8, 8, device=device), 2 * torch.eye(4, device=device)
        found = {
            "a convolution": F.conv2d(ones, ones[:, :, :3, :3]).sum() / 324,
            "a matrix product": (ones[0, 0] @ ones[0, 0]).sum() / 512,
            "a copy": torch.ones(_COPY).to(device).cpu().sum() / _COPY,
        }
        if solvers:
            found["an inverse"] = torch.linalg.inv(twice).sum() / 2
            found["a singular value decomposition"] = torch.linalg.svdvals(twice).sum() / 8
        wrong = [name for name, value in found.items() if abs(float(value) - 1) > 1e-4]
    if wrong:
        raise RuntimeError(f"CUDA error: {', '.join(wrong)} on {device} is not what it must be")


def faults() -> dict[str, str]:
    """Check all GPUs that this process sees; return what is wrong, by GPU."""
    found = {}
    for number in range(max(torch.cuda.device_count(), 1)):
        try:
            check(f"cuda:{number}")
        except Exception as error:
            if not is_out_of_memory(error):  # others use it, so it works
                found[str(number)] = explain(error)
    return found


def explain(error: BaseException) -> str:
    """Return what is wrong with a GPU, in words that name driver and remedy."""
    first, *_ = str(error).splitlines() or [type(error).__name__]
    driver = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text()) if _DRIVER.exists() else None
    versions = (
        f"driver {driver[0] if driver else 'not loaded'}, torch {torch.__version__} for CUDA {torch.version.cuda}"
    )
    remedy = "install a newer driver, or torch for the driver's CUDA; or run on CPUs with `resources.gpus: 0`"
    return f"{first} ({versions}): {remedy}"


def limit_memory(device: str, fraction: float) -> None:
    """Let torch take this fraction of the GPU's memory; above it, it raises OutOfMemoryError."""
    if is_usable(device):
        torch.cuda.set_per_process_memory_fraction(fraction, exact(device))


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
    return tensor.pin_memory() if is_usable(str(device)) else tensor


def use_threads(count: int) -> None:
    """Set the number of CPU threads of one operation."""
    torch.set_num_threads(count)


def synchronize(device: str) -> None:
    """Wait until all work queued on the device is done."""
    if is_usable(device):
        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory_mb` and `held_memory_mb`."""
    if is_usable(device):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: str) -> float | None:
    """Return the peak of allocated device memory since the reset, in 10^6 bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if is_usable(device) else None


def held_memory_mb(device: str) -> float | None:
    """Return the peak of device memory that torch reserved since the reset, in 10^6 bytes; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) / 1e6 if is_usable(device) else None


def total_memory_mb(device: str) -> float | None:
    """Return the memory of the device in 10^6 bytes; None on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 1e6 if is_usable(device) else None


def give_back_memory(device: str) -> None:
    """Release the memory that torch has cached, for other processes."""
    if is_usable(device):
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


def is_usable(device: str) -> bool:
    """Return whether this is a GPU that torch can use. A detector without torch may hold one that torch cannot."""
    return torch.device(device).type == "cuda" and torch.cuda.is_available()
