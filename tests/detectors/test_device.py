from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raybench.detectors import device

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Leaves torch's flags as they were."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)


def test_what_a_device_must_compute() -> None:
    device.check("cpu")
    device.check("cpu", solvers=False)


def test_a_device_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def conv2d(*tensors: Any) -> torch.Tensor:
        return torch.zeros(1)

    monkeypatch.setattr("torch.nn.functional.conv2d", conv2d)
    with pytest.raises(RuntimeError, match="CUDA error: a convolution on cpu is not what it must be"):
        device.check("cpu")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_explained() -> None:
    found = device.faults()
    assert set(found) == {"0"}
    assert f"torch {torch.__version__} for CUDA {torch.version.cuda}" in found["0"]
    assert "resources.gpus: 0" in found["0"]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
def test_each_gpu_computes_what_it_must() -> None:
    assert device.faults() == {}


def test_no_float_is_rounded_to_tf32_but_in_the_block_that_allows_it() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    device.use_exact_floats()
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    with device.tf32_convolutions():
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), device.tf32_convolutions():
        raise ZeroDivisionError
    assert not torch.backends.cudnn.allow_tf32
