"""`raybench models`: the models and their settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from raybench.cli.terminal import Json, out, print_json
from raybench.detectors import registry
from raybench.detectors.settings import PRESETS
from raybench.detectors.weights.catalog import LITE0
from raybench.errors import UnknownName

OFFLINE, MIRROR, GPU = GROUPS = ("offline at once", "after one mirror", "needs a GPU")
_HINTS = {
    MIRROR: "raybench weights mirror modern, where there is internet",
    GPU: "with these settings a CPU trains for hours; --preset cpu has others",
}


@dataclass(frozen=True)
class ModelInfo:
    """A model that an experiment can name."""

    name: str
    group: str
    """What it takes, one of GROUPS. A model that needs a GPU may need weights too."""
    weights: tuple[str, ...]
    """The files that have to be in the weights store."""
    summary: str
    min_side: int
    """Shortest side of the network's input, in pixels."""
    stride: int
    """Sides of the network's input are multiples of it, in pixels."""
    settings: Mapping[str, Any]
    """The defaults of a preset."""


def known_models(preset: str) -> list[ModelInfo]:
    """Return raybench's own models with the defaults of a preset."""
    specs = [registry.resolve(name, {}, preset) for name in registry.names()]
    known = []
    for spec in specs:
        weights = tuple(sorted(set(spec.weights) - {LITE0}))
        group = GPU if preset == "paper" and "steps" in spec.config else MIRROR if weights else OFFLINE
        known.append(ModelInfo(spec.name, group, weights, spec.summary, spec.min_side, spec.stride, spec.config))
    return sorted(known, key=lambda model: GROUPS.index(model.group))


def models(
    preset: Annotated[str, typer.Option(help="Whose defaults to show: paper or cpu.")] = "paper",
    as_json: Json = False,
) -> None:
    """List the models by what they take, and their settings."""
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    known = known_models(preset)
    if as_json:
        print_json({"preset": preset, "models": list(map(asdict, known))})
        return
    for group, members in itertools.groupby(known, key=lambda model: model.group):
        hint = f": {_HINTS[group]}" if group in _HINTS else ""
        out.print(f"[bold]{group}[/bold]{hint}", soft_wrap=True)
        table = Table("model", "what it does", "weights", "input sides", "settings (defaults)", box=None)
        for model in members:
            settings = ", ".join(f"{key}={value}" for key, value in model.settings.items())
            weights = ", ".join(model.weights) or "–"
            table.add_row(model.name, model.summary, weights, f"≥ {model.min_side}, ×{model.stride} px", settings)
        out.print(table)
