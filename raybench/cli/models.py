"""`raybench models`: the models and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from raybench.cli.terminal import Json, out, print_json
from raybench.detectors import registry
from raybench.detectors.settings import PRESETS
from raybench.errors import UnknownName


@dataclass(frozen=True)
class ModelInfo:
    """A model that an experiment can name."""

    name: str
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
    return [ModelInfo(spec.name, spec.summary, spec.min_side, spec.stride, spec.config) for spec in specs]


def models(
    preset: Annotated[str, typer.Option(help="Whose defaults to show: paper or cpu.")] = "paper",
    as_json: Json = False,
) -> None:
    """List the models and their settings."""
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    known = known_models(preset)
    if as_json:
        print_json({"preset": preset, "models": list(map(asdict, known))})
        return
    table = Table("model", "what it does", "input sides", "settings (defaults)", box=None, header_style="bold")
    for model in known:
        settings = ", ".join(f"{key}={value}" for key, value in model.settings.items())
        table.add_row(model.name, model.summary, f"≥ {model.min_side}, ×{model.stride} px", settings)
    out.print(table)
