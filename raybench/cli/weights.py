"""`raybench weights`: what the weights store holds, and how files get there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raybench.cli.terminal import DAMAGED
from raybench.detectors import registry, weights
from raybench.detectors.settings import PRESETS
from raybench.detectors.weights.catalog import ASSETS, TRANSFORMERS, own_asset
from raybench.store import Store, open_store

app = typer.Typer(help="Pretrained files by name and sha256, for machines without internet.", no_args_is_help=True)
out = Console()
MODERN = "modern"
"""Stands for the files of `modern`."""

To = Annotated[str, typer.Option("--to", envvar="RAYBENCH_WEIGHTS", help="The weights store: a folder or s3:// URI.")]
Replace = Annotated[bool, typer.Option("--replace", help="Take the place of another file of that name.")]


@app.command("list")
def list_(to: To) -> None:
    """List the files in the store, and the files that models may ask for."""
    held = weights.stored(open_store(to))
    table = Table("name", "file", "in the store", "what it is", box=None, header_style="bold")
    own = {name: own_asset(name, file.file) for name, file in held.items() if name not in ASSETS}
    for name, asset in {**ASSETS, **own}.items():
        here = held.get(name)
        table.add_row(name, asset.file, f"{here.size / 1e6:.1f} MB, {here.sha256[:12]}" if here else "–", asset.about)
    out.print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name that `weights list` shows.")],
    file: Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False)],
    to: To,
    replace: Replace = False,
    own: Annotated[bool, typer.Option("--own", help="A network of your own, under a name of your choice.")] = False,
    sha256: Annotated[
        str | None, typer.Option(help="Refuse the file if this is not its digest, 64 hexadecimal digits.")
    ] = None,
) -> None:
    """Put a file into the store."""
    own_file = file.name if own else ""
    data = file.read_bytes()
    _print_file(weights.add(_created(to), name, data, replace=replace, own_file=own_file, sha256=sha256), to)


@app.command()
def verify(to: To) -> None:
    """Read every file again; exit code 1 if one is damaged."""
    files = list(weights.verify(open_store(to)))
    for file, is_whole in files:
        state = "as written" if is_whole else f"DAMAGED: {file.key}"
        out.print(f"{file.name}: {state}", soft_wrap=True, highlight=False)
    if not all(is_whole for _, is_whole in files):
        raise typer.Exit(DAMAGED)


@app.command()
def mirror(
    to: To,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names; `modern` for all that raybench's models on vision transformers need; all that are published "
            "when none is given."
        ),
    ] = None,
    replace: Replace = False,
) -> None:
    """Fetch files from their publishers, where there is internet."""
    store = _created(to)
    asked = names or [name for name, asset in ASSETS.items() if asset.official]
    groups = (modern() if name == MODERN else [name] for name in asked)
    for name in dict.fromkeys(itertools.chain.from_iterable(groups)):
        _print_file(weights.add(store, name, weights.published(name), replace=replace), to)


def modern() -> list[str]:
    """Return the vision transformers that the models take by the defaults of any preset."""
    specs = [registry.resolve(name, {}, preset) for name in registry.names() for preset in PRESETS]
    return [name for name in TRANSFORMERS if any(name in spec.weights for spec in specs)]


def _created(uri: str) -> Store:
    store = open_store(uri)
    store.create()
    return store


def _print_file(file: weights.Stored, to: str) -> None:
    out.print(f"{file.name}: {open_store(to).uri(file.key)}", soft_wrap=True, highlight=False)
