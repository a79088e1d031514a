"""Which GPU a task works on, in a worker that does task after task.

Ray gives a task its GPU by CUDA_VISIBLE_DEVICES. CUDA reads that once, when a process first uses it: a worker that
later got another GPU would go on with its first one. Ray's own way out is a new process for each GPU task
(`max_calls=1`), at the price of importing torch and anomalib again, tens of seconds. Here a worker is shown all GPUs of
its node before CUDA looks, and each task makes the one it was given torch's current device: what "cuda" means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.worker import global_worker

GPU = "GPU"  # Ray's name of the resource


def choose() -> int | None:
    """Make the GPU that Ray gave to this task torch's current one; its number among the node's. None: it gave none.

    To be called in each task that may have a GPU, before anything in it uses CUDA.
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
    """Let CUDA (or what speaks like it) see these GPUs of the node. None: all that there are."""
    kind = get_accelerator_manager_for_resource(GPU)
    variable = kind.get_visible_accelerator_ids_env_var() if kind else None
    if variable is None:
        return
    if gpus is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = ",".join(gpus)


def position(given: str, all_of_node: Sequence[str] | None) -> int:
    """The number of a GPU in a process that sees all of the node's. None: the node hides none, and Ray counts them."""
    return int(given) if all_of_node is None else list(all_of_node).index(given)
