"""The command line: one file per command, each parses its arguments, calls the package and prints.

Exit codes are in `options`: 0 done, 1 done with failed units, damage found or a run that got worse, 2 unusable
input, 3 stopped cleanly, 4 done and a watched line has changed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from raybench.cli import (
    annotate,
    check,
    compare,
    demo,
    doctor,
    export,
    inspect,
    labels,
    learning_curve,
    models,
    pack,
    predict,
    publish,
    report,
    robustness,
    run,
    runs,
    status,
    store,
    submit,
    verify,
    watch,
    weights,
)
from raybench.cli.terminal import BAD_INPUT, err, out
from raybench.errors import RaybenchError
from raybench.runs.run import versions

__all__ = ["app", "main"]

app = typer.Typer(
    name="raybench",
    help="Which anomaly detector should each product line run, how sure are we, and which images to annotate next?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(pack.pack)
app.command()(inspect.inspect)
app.command()(check.check)
app.command()(models.models)
app.command()(run.run)
app.command()(submit.submit)
app.command()(status.status)
app.command()(report.report)
app.command()(compare.compare)
app.command()(predict.predict)
app.command()(watch.watch)
app.command("learning-curve")(learning_curve.learning_curve)
app.command()(robustness.robustness)
app.command()(annotate.annotate)
app.add_typer(labels.app, name="labels")
app.command()(export.export)
app.command()(publish.publish)
app.command()(verify.verify)
app.command()(store.store)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(runs.runs)
app.command()(runs.rm)
app.command()(runs.gc)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Run the command line. An error that the user can fix is one message and exit code 2."""
    try:
        app(prog_name="raybench")
    except RaybenchError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        out.print(f"raybench {versions()['raybench']}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    pass
