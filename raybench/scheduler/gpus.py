"""Make the GPU that Ray gave to a task the current one, in a worker that runs task after task.

Ray assigns a GPU by CUDA_VISIBLE_DEVICES. CUDA reads that once, when a process first uses it, so a worker that later
gets another GPU would stay on its first one. Ray therefore starts a new process for each GPU task by default
(`max_calls=1`), at the price of importing torch and anomalib again, tens of seconds. Here a worker sees all GPUs of its
node, set before CUDA reads the variable, and each task makes its GPU torch's current device: the one that "cuda" means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.worker import global_worker

GPU = "GPU"  # Ray's name of the resource


def choose() -> int | None:
    """Make the GPU of this task torch's current device; call it in each task before anything uses CUDA.

    Returns the GPU's number among those of the node; None where Ray gave the task none.
    """
    given: list[str] = ray.get_runtime_context().get_accelerator_ids()[GPU]
    if not given:
        return None
    all_of_node: Sequence[str] | None = global_worker.original_visible_accelerator_ids.get(GPU)
    _show(all_of_node)
    number = position(given[0], all_of_node)
    from raybench.worker import context  # torch takes seconds to import

    context.use_gpu(number)
    return number


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
