"""What a run took, in hours and money, and how well that was predicted.

Money is hours times `resources.price_per_hour`: of one GPU, with its share of the machine around it, where GPUs are
used; of one CPU core where none is. A task is charged for what it had to itself: half a GPU costs half, timing costs
a whole one. Hours in which a machine stood idle belong to no unit and are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from raybench.runs.cost_model import MatchLevel
from raybench.runs.forecast import Forecast, Work
from raybench.runs.records import UnitResult

HOUR_S = 3600.0
_ASSUMED: dict[MatchLevel, str] = {
    "other CPUs": "from units with other CPUs per task, taken as they are",
    "other size": "from another input size, in proportion to its pixels",
    "other settings": "from other settings of the same model",
    "average": "of a model without any record, taken as the average of those that have one",
}


@dataclass(frozen=True)
class Hours:
    """Hours of whole CPUs and whole GPUs. units: whose cost was recorded."""

    cpu: float = 0.0
    gpu: float = 0.0
    units: int = 0

    def money(self, price_per_hour: float | None) -> float | None:
        return None if price_per_hour is None else price_per_hour * (self.gpu or self.cpu)

    @property
    def text(self) -> str:
        cpu = f"{self.cpu:.3g} CPU-hours"
        return f"{self.gpu:.3g} GPU-hours, {cpu}" if self.gpu else cpu


@dataclass(frozen=True)
class CostReport:
    """Of a run. hours: of all finished units. forecast: of the latest command that had something to do."""

    hours: Hours = field(default_factory=Hours)
    price_per_hour: float | None = None
    forecast: Forecast | None = None


def hours_of(results: Iterable[UnitResult]) -> Hours:
    """What the finished ones took together, on training, scoring and timing."""
    spent = [tuple(result.spent.values()) for result in results if result.spent]
    cpu_s = sum(phase.cpu_s for phases in spent for phase in phases)
    gpu_s = sum(phase.gpu_s for phases in spent for phase in phases)
    return Hours(cpu_s / HOUR_S, gpu_s / HOUR_S, len(spent))


def added(parts: Sequence[Hours]) -> Hours:
    return Hours(sum(part.cpu for part in parts), sum(part.gpu for part in parts), sum(part.units for part in parts))


def cost(hours: Hours, price_per_hour: float | None) -> str:
    """The cell of the board: money, where there is a price, else GPU-hours or CPU-hours."""
    if not hours.units:
        return "–"
    money = hours.money(price_per_hour)
    return f"{hours.gpu or hours.cpu:.3g}" if money is None else f"{money:.2f}"


def format_cost(spending: CostReport) -> list[str]:
    """A sentence on what was spent, and one on how that was predicted."""
    hours, price = spending.hours, spending.price_per_hour
    texts = []
    if hours.units:
        unit = "GPU" if hours.gpu else "CPU"
        money = hours.money(price)
        per = f"money at {price:g} per {unit}-hour, in all {money:.2f}" if money is not None else f"{unit}-hours"
        texts.append(f"cost: {per}; training, scoring and timing of {hours.units} units took {hours.text}")
    if spending.forecast:
        texts.append(_compared(spending.forecast))
    return texts


def _compared(forecast: Forecast) -> str:
    begun = f"the latest command had {forecast.units} units to do"
    took, predicted = forecast.took, forecast.predicted
    if predicted is None:
        happened = f"; they took {_took(took)}" if took else ""
        return f"{begun}, and nothing was recorded to predict from{happened}"
    if took is None:
        return f"{begun}, predicted to take {_took(predicted)}; it has not come to its end"
    ratio = f", {took.wall_s / predicted.wall_s:.2f} times the prediction" if predicted.wall_s else ""
    failed = f"; {forecast.units - forecast.done} of them failed" if forecast.done < forecast.units else ""
    return f"{begun}: predicted {_took(predicted)}; took {_took(took)}{ratio}{failed}"


def format_estimate(forecast: Forecast, price_per_hour: float | None) -> list[str]:
    """What is still to be done, what that will take, and what was assumed."""
    damaged = [f"{key} is damaged and was left out; it serves predictions only: delete it" for key in forecast.damaged]
    where = f"{forecast.slots} tasks at once on {forecast.nodes} nodes ({forecast.device})"
    if not forecast.units:
        return ["nothing is left to do"]
    if forecast.predicted is None:
        return [
            f"{forecast.units} units to do; no prediction: no unit that ran on this kind of device ({forecast.device}) "
            "is recorded in this store",
            *damaged,
        ]
    hours = _hours(forecast.predicted)
    money = hours.money(price_per_hour)
    priced = f", money {money:.2f}" if money is not None else ""
    texts = [f"{forecast.units} units to do, {where}: about {_took(forecast.predicted)}{priced}"]
    counted = [(forecast.bases[basis], why) for basis, why in _ASSUMED.items() if forecast.bases.get(basis)]
    known = forecast.bases.get("recorded", 0)
    texts.append(f"{known} of them from recorded units alike; the start of workers is not in it")
    return texts + [f"assumed: {count} units {why}" for count, why in counted] + damaged


def _hours(work: Work) -> Hours:
    return Hours(work.cpu_s / HOUR_S, work.gpu_s / HOUR_S)


def _took(work: Work) -> str:
    return f"{duration(work.wall_s)} ({_hours(work).text})"


def duration(seconds: float) -> str:
    """For people: seconds below two minutes, minutes below two hours, hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"
