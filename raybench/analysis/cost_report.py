"""The cost of a run in hours and money, beside the estimate made before it.

Money is hours times `resources.price_per_hour`: the price of one GPU with its share of the machine around it, or of
one CPU core where no GPU is used. A task is charged for the resources reserved for it: half a GPU costs half, timing
costs a whole one. Idle hours belong to no unit and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raybench.config.unit import Unit
from raybench.runs.cost_model import Forecast, LeftOut, MatchLevel, Work
from raybench.runs.records import UnitResult

HOUR_S = 3600.0
_ASSUMED: dict[MatchLevel, str] = {
    "same model": "from other input sizes or settings of the same model, by their pixels",
    "average": "of a model without any record, as the average of all models that have one",
}


@dataclass(frozen=True)
class Hours:
    """Hours of whole CPUs and whole GPUs."""

    cpu: float = 0.0
    gpu: float = 0.0
    units: int = 0
    """Number of units whose cost was recorded."""

    def money(self, price_per_hour: float | None) -> float | None:
        """Return the price of the GPU-hours, or of the CPU-hours where no GPU was used; None without a price."""
        return None if price_per_hour is None else price_per_hour * (self.gpu or self.cpu)

    @property
    def text(self) -> str:
        """`2 GPU-hours, 8 CPU-hours`, or the CPU-hours alone."""
        cpu = f"{self.cpu:.3g} CPU-hours"
        return f"{self.gpu:.3g} GPU-hours, {cpu}" if self.gpu else cpu


@dataclass(frozen=True)
class CostReport:
    """The cost of a run."""

    hours: Hours = field(default_factory=Hours)
    """Hours of all finished units."""
    price_per_hour: float | None = None
    forecast: Forecast | None = None
    """Forecast of the latest command that had something to do."""


def hours_of(results: Iterable[UnitResult]) -> Hours:
    """Sum the hours that finished units used for training, scoring and timing."""
    usages = [tuple(result.spent.values()) for result in results]
    cpu_s = sum(phase.cpu_s for phases in usages for phase in phases)
    gpu_s = sum(phase.gpu_s for phases in usages for phase in phases)
    return Hours(cpu_s / HOUR_S, gpu_s / HOUR_S, len(usages))


def total_hours(parts: Sequence[Hours]) -> Hours:
    """Add up hours."""
    return Hours(sum(part.cpu for part in parts), sum(part.gpu for part in parts), sum(part.units for part in parts))


def cost(hours: Hours, price_per_hour: float | None) -> str:
    """Format a cell of the board: money if there is a price, else GPU-hours or CPU-hours."""
    if not hours.units:
        return "–"
    money = hours.money(price_per_hour)
    return f"{hours.gpu or hours.cpu:.3g}" if money is None else f"{money:.2f}"


def format_cost(report: CostReport) -> list[str]:
    """Return a sentence on the cost of the run and one that compares it with its estimate."""
    hours, price = report.hours, report.price_per_hour
    texts = []
    if hours.units:
        unit = "GPU" if hours.gpu else "CPU"
        money = hours.money(price)
        per = f"money at {price:g} per {unit}-hour, in all {money:.2f}" if money is not None else f"{unit}-hours"
        texts.append(f"cost: {per}; training, scoring and timing of {hours.units} units took {hours.text}")
    if report.forecast:
        texts += [_format_comparison(report.forecast), *format_left_out(report.forecast)]
    return texts


def format_left_out(forecast: Forecast, units: Iterable[Unit] = ()) -> list[str]:
    """Say which units were left out, and what for: by model if `units` has them."""
    texts = []
    for what_for, why in _LEFT_OUT.items():
        ids = {unit_id for unit_id, found in forecast.left_out.items() if found == what_for}
        if ids:
            models = Counter(unit.model for unit in units if unit.unit_id in ids)
            named = ", ".join(f"{model} {count}" for model, count in sorted(models.items()))
            texts.append(f"{len(ids)} units were left out{f' ({named})' if named else ''}: {why}")
    return texts


_LEFT_OUT: Mapping[LeftOut, str] = {
    "budget": "the limit of what one command spends would have been passed. The verdicts count what is done; the same "
    "command does more, up to the same limit",
    "attempts": "they failed in `resources.attempts` commands. Once the cause is mended, `raybench run --retry-failed` "
    "tries them again",
    "race": "further seeds of models that, by the seeds before, are the best or within the margin of it with a "
    "probability below `race`",
}


def _format_comparison(forecast: Forecast) -> str:
    start = f"the latest command had {forecast.units} units to do"
    took, predicted = forecast.took, forecast.predicted
    if predicted is None:
        duration_text = f"; they took {_format_work(took)}" if took else ""
        return f"{start}, and nothing was recorded to predict from{duration_text}"
    if took is None:
        return f"{start}, predicted to take {_format_work(predicted)}; it has not ended"
    ratio = f", {took.wall_s / predicted.wall_s:.2f} times the prediction" if predicted.wall_s else ""
    failures = forecast.units - forecast.done - len(forecast.left_out)
    failed = f"; {failures} of them failed" if failures > 0 else ""
    return f"{start}: predicted {_format_work(predicted)}; took {_format_work(took)}{ratio}{failed}"


def format_estimate(forecast: Forecast, price_per_hour: float | None) -> list[str]:
    """Return what is still to be done, its estimated time and cost, and the assumptions behind the estimate."""
    damaged = [f"{key} is damaged and was left out; only estimates use it: delete it" for key in forecast.damaged]
    where = f"{forecast.slots} tasks at once on {forecast.nodes} nodes ({forecast.device})"
    if not forecast.units:
        return ["nothing is left to do"]
    steps = [
        f"{forecast.trains} detectors are trained, {forecast.scores} images scored over all units, and "
        f"{forecast.judges} units only judged anew"
    ]
    if forecast.predicted is None:
        return [
            *steps,
            f"{forecast.units} units to do; no prediction: no unit that ran on this kind of device ({forecast.device}) "
            "is recorded in this store",
            *damaged,
        ]
    hours = _hours(forecast.predicted)
    money = hours.money(price_per_hour)
    priced = f", money {money:.2f}" if money is not None else ""
    texts = [*steps, f"{forecast.units} units to do, {where}: about {_format_work(forecast.predicted)}{priced}"]
    assumed = [(forecast.bases[level], why) for level, why in _ASSUMED.items() if forecast.bases.get(level)]
    known = forecast.bases.get("recorded", 0)
    texts.append(f"{known} of them estimated from recorded units like them; starting workers is not included")
    return texts + [f"assumed: {count} units {why}" for count, why in assumed] + damaged


def _hours(work: Work) -> Hours:
    return Hours(work.cpu_s / HOUR_S, work.gpu_s / HOUR_S)


def _format_work(work: Work) -> str:
    return f"{duration(work.wall_s)} ({_hours(work).text})"


def duration(seconds: float) -> str:
    """Format a duration: in seconds below two minutes, in minutes below two hours, else in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"
