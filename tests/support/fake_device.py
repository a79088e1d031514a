"""A device without values: its tensors have shapes, dtypes and a place; those on the CPU are real.

As on a GPU, an operation that mixes devices fails. An operation that needs a value waits for the device on a real GPU;
here it is counted and gets a made-up value.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = "lazy:0"
"""Torch's name of the device. For "cuda" the backward pass asks the driver for streams."""
_aten = torch.ops.aten


class FakeDevice(FakeTensorMode):  # type: ignore[no-untyped-call]
    """While it is active, tensors can be created on `DEVICE` or copied to it."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.launches = 0
        """Operations on the device."""
        self.uploads = 0
        """Copies to the device."""
        self.waits: Counter[str] = Counter()
        """Operations that wait for the device, by name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        reads_device = any(isinstance(leaf, FakeTensor) for leaf in leaves)
        if not reads_device and not any(
            isinstance(leaf, torch.device) and leaf.type == torch.device(DEVICE).type for leaf in leaves
        ):
            return func(*args, **kwargs)
        if func.namespace == "prim":
            return super().__torch_dispatch__(func, types, args, kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        if (made_up := self._value(func, args, kwargs)) is not None:
            self.waits[func.name()] += 1
            return made_up
        self.uploads += func is _aten._to_copy.default and not reads_device
        self.uploads += func is _aten.copy_.default and not isinstance(args[1], FakeTensor)
        self.launches += not func.is_view
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _value(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return a made-up result of an operation that waits for the device; None for another one."""
        if func is _aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is _aten.nonzero.default:
            return torch.ones((1, args[0].dim()), dtype=torch.int64)  # on the CPU, for PCA of anomalib reads it
        if func is _aten.index.Tensor and any(index is not None and index.dtype == torch.bool for index in args[1]):
            with self:
                return args[0].flatten()[:1]
        if func is _aten._to_copy.default and "device" in kwargs and torch.device(kwargs["device"]).type == "cpu":
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is _aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0].fill_(1)
        return None
