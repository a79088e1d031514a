"""`raybench models`: the models and their settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from raybench.cli import tables
from raybench.cli.options import Json
from raybench.cli.terminal import out, print_json
from raybench.detectors.settings import PRESETS
from raybench.errors import UnknownName


def models(
    preset: Annotated[str, typer.Option(help="Whose defaults to show: paper or cpu.")] = "paper",
    as_json: Json = False,
) -> None:
    """List the models and their settings."""
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    known = tables.known_models(preset)
    if as_json:
        print_json({"preset": preset, "models": list(map(asdict, known))})
        return
    table = Table("model", "what it does", "input sides", "settings (defaults)", box=None, header_style="bold")
    for model in known:
        settings = ", ".join(f"{key}={value}" for key, value in model.settings.items())
        table.add_row(model.name, model.summary, f"≥ {model.min_side}, ×{model.stride} px", settings)
    out.print(table)
