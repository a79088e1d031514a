"""Do what is left of a plan."""

from __future__ import annotations

import contextlib

from rich.console import Console

from raybench.config.plan import Plan
from raybench.errors import RunStopped
from raybench.report.console import RunSummary
from raybench.report.publish import cached_report
from raybench.runs.at_work import working
from raybench.runs.plans import changes_since, record_plan
from raybench.runs.run import RunStore


def execute(plan: Plan, address: str | None, console: Console | None, retry_failed: bool = False) -> RunSummary:
    """Do what is left of a plan on a Ray cluster; without one, where nothing is.

    Args:
        plan: The plan.
        address: Ray cluster, as in `ray.init`.
        console: Where progress and warnings go; None: nowhere.
        retry_failed: Try units again that failed in as many commands as the experiment allows.
    """
    if board := cached_report(plan, RunStore.of(plan)):
        record_plan(RunStore.of(plan), plan)
        return RunSummary(board, len(plan.units), len(plan.units))
    from raybench.scheduler.cluster import cluster_capacity, connected
    from raybench.scheduler.progress import shown
    from raybench.scheduler.runner import run_plan

    changes = changes_since(RunStore.of(plan), plan)
    watching = shown(console) if console else contextlib.nullcontext(lambda backlog: None)

    def tell(text: str) -> None:
        if console:
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    with connected(address), working(RunStore.of(plan), "raybench run", plan) as others, watching as watch:
        if console:
            for text in changes:
                console.print(f"since this run last began: {text}", markup=False, highlight=False, soft_wrap=True)
            for other in others:
                text = f"another command works on this run: {other.text}. Both share the work, and some is done twice"
                console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        is_paper = plan.experiment.preset == "paper"
        if console and is_paper and cluster_capacity(plan.experiment.resources).device == "cpu":
            console.print("there is no GPU: the papers' settings may take hours per model; `preset: cpu` takes minutes")
        try:
            return run_plan(plan, watch, tell, retry_failed)
        except RunStopped as stopped:  # said at once: `ray job stop` kills what is not gone after three seconds
            if console:
                console.print(str(stopped), style="yellow", markup=False, highlight=False, soft_wrap=True)
            raise
