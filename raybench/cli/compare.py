"""`raybench compare`: what a run changed against an earlier one, and a gate for pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raybench._api.running import open_run
from raybench.analysis.run_comparison import CONDITIONS
from raybench.cli.terminal import OK, WORSE, Json, OutFolder, err, out, print_json
from raybench.errors import InputError
from raybench.report.comparison import console_comparison, junit, write_comparison
from raybench.runs.run import encode


def compare(
    old: Annotated[str, typer.Argument(help="The earlier run: an experiment file, or STORE/runs/NAME.")],
    new: Annotated[str, typer.Argument(help="The later run.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help=f"Exit with 1 if this holds for sure on a line: {', '.join(CONDITIONS)}. Repeatable."),
    ] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the checks as JUnit XML.")] = None,
    out_folder: OutFolder = Path("out"),
    as_json: Json = False,
) -> None:
    """Compare two runs on the images that both judged."""
    if unknown := [each for each in fail_if or () if each not in CONDITIONS]:
        raise InputError(f"--fail-if {unknown[0]!r}: known are {', '.join(map(repr, CONDITIONS))}")
    later = open_run(new)
    comparison = later.compare(open_run(old))
    page = write_comparison(later.plan, comparison, out_folder)
    console = err if as_json else out
    if as_json:
        print_json(encode(comparison))
    else:
        out.print(console_comparison(comparison))
        for line in comparison.lines:
            for note in line.notes:
                out.print(f"{line.line}: {note}", markup=False, highlight=False, soft_wrap=True)
        for text in comparison.differences:
            out.print(text, markup=False, highlight=False, soft_wrap=True, style="dim")
    console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
    results = {condition: comparison.check(condition) for condition in dict.fromkeys(fail_if or ())}
    if junit_file:
        junit_file.parent.mkdir(parents=True, exist_ok=True)
        junit_file.write_text(junit(comparison, results), encoding="utf-8")
    untold = [condition for condition, by_line in results.items() if set(by_line.values()) <= {None}]
    if untold:
        raise InputError(f"no line tells whether {untold[0]}: see the notes above")
    for condition, by_line in results.items():
        if unknown := [line for line, text in by_line.items() if text is None]:
            console.print(
                f"{condition}: cannot be told on {', '.join(unknown)}",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    failed = [
        (condition, line, text) for condition, by_line in results.items() for line, text in by_line.items() if text
    ]
    for condition, name, why in failed:
        console.print(f"{condition} on {name}: {why}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(WORSE if failed else OK)
