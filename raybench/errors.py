"""The exceptions that raybench raises, as one tree.

RaybenchError
├── InputError              the user can fix it: one clear message, exit code 2, no traceback
│   ├── InputFaults         all faults of something at once
│   │   ├── ExperimentError of an experiment file
│   │   └── LabelError      of labels that come back to a line
│   ├── LineError           a product line cannot be read, or has no OK images to train on
│   ├── RejectedImage       an image is not packed; carries the reason written to the manifest
│   └── UnknownName         a model, layout or key does not exist; names the closest one that does
├── StoreError              the store fails
│   ├── StoreUnreachable    the endpoint does not answer, or answers with server errors
│   ├── StoreDenied         credentials are missing or refused
│   ├── BucketMissing       the bucket does not exist
│   ├── ObjectMissing       the key does not exist
│   └── UnsafeStore         the store ignores conditional PUT, so commits could be lost
├── ClusterUnreachable      no Ray cluster answers at the address, or it cannot be joined from here
├── SystematicFailure       everything fails in the same way, so the run stops; nothing is lost
├── RunStopped              a signal ended the run early; nothing is lost, and the same command resumes it
├── TimeLimit               a unit took longer than the experiment allows
├── GpuUnusable             a GPU of the cluster fails before anything is asked of it; names node, driver and remedy
├── TrackerError            an experiment tracker, such as MLflow, does not answer or refuses
├── IntegrityError          stored bytes differ from what was written (size, digest, page checksum, schema)
└── ModelError              a detector fails
    ├── WeightsMissing      required weights are missing; names the remedy
    ├── WeightsCorrupt      the sha256 of weights is not the expected one
    └── BadScores           scores or heat maps are not finite or have the wrong shape
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

SHOWN_NAMES = 30

# Libraries of a GPU raise RuntimeErrors that differ in their words only. cuDNN calls a lack of memory "not initialized"
# or "internal error" when it finds none for its handle or its plans.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory"
    r"|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED|CUDNN_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)",
    re.IGNORECASE,
)
_GPU_LOST = re.compile(
    r"CUDA error|CUDNN_STATUS_EXECUTION_FAILED|CUDA driver initialization failed|CUDA unknown error"
    r"|cudaGetDeviceCount|No CUDA GPUs are available|NVIDIA driver|not compiled with CUDA"
)


class RaybenchError(Exception):
    """Base class of all exceptions that raybench raises."""


class InputError(RaybenchError):
    """The user's input cannot be used. The message names the remedy."""


class InputFaults(InputError):
    """Something cannot be used. `where` names it, and `problems` lists all faults, one sentence each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  - {text}" for text in self.problems))

    def __reduce__(self) -> tuple[type[InputFaults], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.problems)


class ExperimentError(InputFaults):
    """An experiment cannot run."""


class LabelError(InputFaults):
    """Labels cannot be those of a line. Nothing is changed."""


class LineError(InputError):
    """A product line cannot be packed, read or trained on."""


class RejectedImage(InputError):
    """An image or its mask is left out of a line.

    `reason` is a short identifier for the manifest that never changes. `detail` is a sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[RejectedImage], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class UnknownName(InputError):
    """A name does not exist. The message names the closest one that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; {did_you_mean(name, self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class StoreError(RaybenchError):
    """The store failed in a way that retries do not fix."""


class StoreUnreachable(StoreError):
    """The endpoint did not answer, broke the connection or returned a server error (5xx). It may recover later."""


class StoreDenied(StoreError):
    """Credentials are missing or refused."""


class BucketMissing(StoreError):
    """The bucket does not exist."""


class ObjectMissing(StoreError):
    """The key does not exist."""


class UnsafeStore(StoreError):
    """The store ignores `If-None-Match`, so two writers could both believe that they committed."""


class ClusterUnreachable(RaybenchError):
    """No Ray cluster answers, or it cannot be joined from here. The message names the address and the remedy."""


class SystematicFailure(RaybenchError):
    """Task after task failed in the same way, so the run stopped. Commits are kept. The message names the failure."""


class RunStopped(RaybenchError):
    """A signal stopped the run. Commits are kept, and the same command resumes the run."""


class TimeLimit(RaybenchError):
    """A unit took longer than `resources.unit_timeout_s`."""


class GpuUnusable(RaybenchError):
    """A GPU does not compute. The message names the node, the driver and the remedy."""


class TrackerError(RaybenchError):
    """An experiment tracker, such as MLflow, does not answer or refuses. The same command does the rest."""


class IntegrityError(RaybenchError):
    """Stored bytes differ from the bytes that were written."""


class ModelError(RaybenchError):
    """A detector cannot be built, trained or used."""


class WeightsMissing(ModelError):
    """Required weights are missing. The message names the file and the remedy."""


class WeightsCorrupt(ModelError):
    """The sha256 of weights is not the expected one."""


class BadScores(ModelError):
    """A detector returned scores or heat maps that are not finite or have the wrong shape."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a clause that names the closest known name, or all known names (at most SHOWN_NAMES) if none is close."""
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"known: {', '.join(names[:SHOWN_NAMES])}{more}"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the memory of the host or of a GPU ran out, by the class of an error or by its text."""
    if isinstance(error, MemoryError) or _is_named("OutOfMemoryError", error):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_gpu_lost(error: BaseException) -> bool:
    """Tell whether this process cannot use its GPU any more, or never could.

    After an illegal access, a failed assertion on the device or a hardware fault, each later call of CUDA fails in the
    same process. A driver that is missing or too old fails the first one.
    """
    if is_out_of_memory(error) or not isinstance(error, (RuntimeError, AssertionError)):
        return False
    return _is_named("AcceleratorError", error) or bool(_GPU_LOST.search(str(error)))


def _is_named(name: str, error: BaseException) -> bool:
    """Whether a class of `error` has this name. Torch's are not imported, because it takes seconds."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
