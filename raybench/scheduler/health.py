"""Find nodes that fail tasks which do not fail elsewhere, and runs in which everything fails. Does not use Ray.

A node without credentials, without the certificate of the store's authority or with a broken installation fails each
task within milliseconds, so that it draws more tasks than any other. Whether a failure is the node's or the model's
shows on another node: a task that fails for a reason that may be the node's is done again there, which is no try of the
task. A node that fails several in a row gets no more of them until one of them has ended elsewhere. When that
succeeds, the node is the cause.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Set
from dataclasses import dataclass, field

from raybench.runs.records import Failure
from raybench.scheduler.backlog import Job
from raybench.scheduler.retries import Key, key_of

MAX_NODES = 3  # on which a task may fail before the failure is its own
SUSPICIOUS = 3  # tasks, or models, that fail in a row on a node
PROVEN = 2  # tasks that a node has failed and another has finished
ALIKE = 50  # tasks in a row that fail in the same way
_PARTICULAR = re.compile(r"\S*[/\d]\S*")
FEW_MODELS = 3  # that fail so at least, where there are as many
_COMMON = {"StoreDenied", "BucketMissing", "UnsafeStore"}  # no model can be the cause


@dataclass
class _Streak:
    """What a node has failed since it last finished a task."""

    tasks: dict[Key, str] = field(default_factory=dict)
    """Failures that may be the node's."""
    models: set[str] = field(default_factory=set)
    """Models with failures of their own."""
    proven: int = 0
    """Tasks that another node has finished since."""

    @property
    def is_suspicious(self) -> bool:
        return max(len(self.tasks), len(self.models)) >= SUSPICIOUS


class NodeHealth:
    """Which nodes failed which tasks."""

    def __init__(self) -> None:
        self._streaks: defaultdict[str, _Streak] = defaultdict(_Streak)
        self._failed_on: defaultdict[Key, set[str]] = defaultdict(set)

    @property
    def has_failures(self) -> bool:
        """Whether any node has failed a task since it last finished one."""
        return bool(self._failed_on or self._streaks)

    def failed_on(self, job: Job) -> Set[str]:
        """Return the nodes on which `job` failed for a reason that may be theirs."""
        return self._failed_on.get(key_of(job), frozenset())

    def is_suspicious(self, node_id: str) -> bool:
        """Return whether the node has failed several tasks in a row, and different ones."""
        return node_id in self._streaks and self._streaks[node_id].is_suspicious

    def failed(self, job: Job, node_id: str, message: str) -> None:
        """Note a failure that may be the node's."""
        if node_id:
            self._failed_on[key_of(job)].add(node_id)
            self._streaks[node_id].tasks[key_of(job)] = message

    def failed_by_itself(self, job: Job, node_id: str) -> None:
        """Note that `job` has failed for good. Not one node is to blame, unless it fails different models in a row."""
        for other in self._failed_on.pop(key_of(job), ()):
            self._streaks[other].tasks.pop(key_of(job), None)
        if node_id:
            self._streaks[node_id].models.add(job.unit.model)

    def finished(self, job: Job, node_id: str) -> dict[str, str]:
        """Note that `job` has ended well. Returns the nodes that it proves to be a cause, and what they failed with."""
        self._streaks.pop(node_id, None)
        causes = {}
        for other in self._failed_on.pop(key_of(job), set()) - {node_id}:
            streak = self._streaks[other]
            if message := streak.tasks.get(key_of(job)):
                streak.proven += 1
                if streak.proven == PROVEN:
                    causes[other] = message
        return causes

    def avoided(self, job: Job, alive: Collection[str]) -> Set[str]:
        """Return the nodes on which not to try `job`: none where no other one is alive."""
        failed_on = self.failed_on(job)
        suspicious = {node_id for node_id, streak in self._streaks.items() if streak.is_suspicious}
        for nodes in (failed_on | suspicious, failed_on):
            if not nodes >= set(alive):
                return nodes
        return frozenset()

    def may_try_elsewhere(self, job: Job, alive: Collection[str]) -> bool:
        """Return whether a failed task should be done again on a node that has not failed it."""
        failed_on = self.failed_on(job)
        return len(failed_on) < MAX_NODES and not failed_on >= set(alive)


class Breaker:
    """Tells when everything fails in the same way, so that a run need not fail a thousand units one by one."""

    def __init__(self, models: int) -> None:
        """models: how many the run compares."""
        self._models = models
        self._failed_models, self._failed_nodes = set[str](), set[str]()
        self.succeeded()

    def succeeded(self) -> None:
        """Note a task that has ended well."""
        self._begin("")

    def failed(self, model: str, node_id: str, failure: Failure) -> None:
        """Note a task that has failed, whether or not it is tried again."""
        kind = _kind(failure)
        if kind != self._kind:
            self._begin(kind)
        self._count += 1
        self._failed_models.add(model)
        self._failed_nodes.add(node_id)
        self._is_common = failure.error_type in _COMMON

    def is_open(self, alive: int) -> bool:
        """Return whether the run should stop: not for what one model, or one of several nodes, does."""
        few_models = len(self._failed_models) < min(FEW_MODELS, self._models) and not self._is_common
        # A lost worker does not tell where it was.
        few_nodes = len(self._failed_nodes) < min(2, alive) and "" not in self._failed_nodes
        return self._count >= ALIKE and not few_models and not few_nodes

    def _begin(self, kind: str) -> None:
        self._kind, self._count, self._is_common = kind, 0, False
        self._failed_models, self._failed_nodes = set[str](), set[str]()


def _kind(failure: Failure) -> str:
    """Describe how a task failed, without what differs between tasks: paths, IDs and numbers."""
    words = _PARTICULAR.sub("…", failure.message.partition("\n")[0])
    return f"{failure.error_type}: {words}"
