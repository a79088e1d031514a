"""The GPU of a worker process that runs task after task: which one it is, whether it works, and when the process ends.

Ray assigns a GPU by CUDA_VISIBLE_DEVICES. CUDA reads that once, when a process first uses it, so a worker that later
gets another GPU would stay on its first one. Ray therefore starts a new process for each GPU task by default
(`max_calls=1`), at the price of importing torch and anomalib again, tens of seconds. Here a worker sees all GPUs of its
node, set before CUDA reads the variable, and each task makes its GPU torch's current device: the one that "cuda" means.

A process that would keep one GPU for life, and end when it is given another, ends in more than half of all tasks as
soon as they share GPUs (docs/scheduling.md). Only instances of MIG are kept for life: CUDA shows one to a process.

A process ends by itself
- at its next task, when its context of CUDA is lost: no call of CUDA succeeds any more;
- after IDLE_S without a task, because its context and its detectors hold memory that no share of a GPU counts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.worker import global_worker

from raybench.errors import GpuUnusable, is_out_of_memory
from raybench.scheduler.gpu_share import torch_limit
from raybench.scheduler.retries import IDLE_S, RetryReason

GPU = "GPU"  # Ray's name of the resource
IDLE = "ray::IDLE"  # Ray's title of a process without a task
ENDING: frozenset[RetryReason] = frozenset({"gpu_lost", "gpu_unusable", "gpu_oom", "not_begun"})
"""Reasons to try a task again in another process."""
_EXIT_CODE = 71
_MIG = "MIG-"
_GRACE_S = 1.0  # for a task's outcome to leave the process


class NotBegun(Exception):
    """The task was given to a process that cannot do it."""


@dataclass
class _Process:
    """What this process has to do with GPUs."""

    ending: bool = False
    """Whether it ends at its next task."""
    instance: str = ""
    """The instance of MIG that it keeps."""
    checked: set[str] = field(default_factory=set)
    """GPUs that have computed something here."""
    timer: threading.Timer | None = None
    """What ends it once it is idle."""


_process = _Process()


def choose() -> int | None:
    """Make the GPU of this task torch's current device; call it in each task before anything uses CUDA.

    Returns:
        The GPU's number among those of the node; None where Ray gave the task none.

    Raises:
        NotBegun: The process keeps another instance of MIG.
    """
    given: list[str] = ray.get_runtime_context().get_accelerator_ids()[GPU]
    if not given:
        return None
    if given[0].startswith(_MIG):
        keep(given[0])
        return 0
    all_of_node: Sequence[str] | None = global_worker.original_visible_accelerator_ids.get(GPU)
    _show(all_of_node)
    number = position(given[0], all_of_node)
    from raybench.worker import context  # torch takes seconds to import

    context.use_gpu(number)
    return number


def keep(instance: str) -> None:
    """Stay on the first instance of MIG that this process was given. Raises NotBegun for another one."""
    if _process.instance not in {"", instance}:
        raise NotBegun(f"this process keeps {_process.instance} and was given {instance}")
    _process.instance = instance


def prepare(share: float, uses_torch: bool) -> None:
    """Choose the GPU of this task, limit torch to the task's share, and check a GPU that is new to this process.

    Args:
        share: of the GPU.
        uses_torch: whether the task's detector does. Other libraries may use a GPU that torch cannot.

    Raises:
        NotBegun: The process keeps another GPU.
        GpuUnusable: The GPU does not compute.
    """
    if choose() is None or not uses_torch:
        return
    from raybench.detectors import device

    name = where()
    try:
        if name not in _process.checked:
            device.check("cuda", solvers=False)
            _process.checked.add(name)
        total_mb = device.total_memory_mb("cuda")
        if total_mb:
            device.limit_memory("cuda", torch_limit(share, total_mb))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise GpuUnusable(f"{name}: {device.explain(error)}") from error


def show_all() -> None:
    """Let this process see all GPUs that its node has for Ray."""
    _show(global_worker.original_visible_accelerator_ids.get(GPU))


def where() -> str:
    """Return the node and, within it, the GPU of this task, for messages."""
    given = ray.get_runtime_context().get_accelerator_ids()[GPU]
    node = f"node {ray.util.get_node_ip_address()}"  # type: ignore[no-untyped-call]
    return f"{node}, GPU {given[0]}" if given else node


def end_if_due() -> None:
    """End a process that has announced its end; call it first in each task."""
    if _process.ending:
        os._exit(_EXIT_CODE)


def end_soon() -> None:
    """End this process once the outcome of its task has left: when it is idle, or at its next task."""
    _process.ending = True
    _end_when_idle(_GRACE_S)


def end_if_left_idle() -> None:
    """End this process IDLE_S from now, unless it has a task then; call it after each task on a GPU."""
    _end_when_idle(IDLE_S)


def _end_when_idle(after_s: float) -> None:
    if _process.timer:
        _process.timer.cancel()
    _process.timer = threading.Timer(after_s, _end_if_idle, (after_s,))
    _process.timer.daemon = True
    _process.timer.start()


def _end_if_idle(after_s: float) -> None:
    if "".join(psutil.Process().cmdline()).startswith(IDLE):
        os._exit(0)
    _end_when_idle(after_s)


def _show(gpus: Sequence[str] | None) -> None:
    """Let CUDA (or the vendor's equivalent) see these GPUs of the node. None: all of them."""
    kind = get_accelerator_manager_for_resource(GPU)
    variable = kind.get_visible_accelerator_ids_env_var() if kind else None
    if variable is None:
        return
    if gpus is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = ",".join(gpus)


def position(given: str, all_of_node: Sequence[str] | None) -> int:
    """Return a GPU's index in a process that sees all of the node's. None: the node hides none, and IDs are indices."""
    return int(given) if all_of_node is None else list(all_of_node).index(given)
