"""The command line: parse, call, print; one file per command."""

from raybench.cli.commands import app, main

__all__ = ["app", "main"]
