"""What an error of torch means: its own class where there is one, else the words of CUDA, cuDNN and cuSOLVER."""

from __future__ import annotations

import pytest

from raybench.errors import ModelError, is_gpu_lost, is_out_of_memory

OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})  # torch's names
AcceleratorError = type("AcceleratorError", (RuntimeError,), {})

MEMORY = [
    MemoryError("no more"),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."),
]
LOST = [
    AcceleratorError("CUDA error: an illegal memory access was encountered"),
    AcceleratorError("an error whose words nobody has seen yet"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?"),
    AssertionError("Torch not compiled with CUDA enabled"),
]
OTHER = [
    ModelError("image 'a': CUDA error is what its file is called"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    ValueError("out of memory"),
    AssertionError("a detector's own"),
]


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_gpu_lost(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_the_gpu_is_lost(error: Exception) -> None:
    assert is_gpu_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_the_detector_fails(error: Exception) -> None:
    assert not is_gpu_lost(error)
    assert not is_out_of_memory(error)
