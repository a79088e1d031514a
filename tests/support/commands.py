"""Does what a manifest names exist? Commands are looked up in the programs themselves, paths in the repository."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer.main
from ray.scripts.scripts import cli as ray_commands

from raybench.cli import app

ROOT = Path(__file__).parent.parent.parent
IMAGE_ROOT = "/opt/raybench/"
_PROGRAMS: dict[str, Any] = {"ray": ray_commands, "raybench": typer.main.get_group(app)}


def faults(command: str) -> list[str]:
    """What is wrong with a shell command: subcommands and options that do not exist, files that are not there."""
    found: list[str] = []
    for part in re.split(r"&&|\|\||;|[()]", command):
        words = [word for word in shlex.split(part) if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", word)]
        if not words:
            continue
        program = words[0].rpartition("/")[2]
        if program in _PROGRAMS:
            found += _unknown(_PROGRAMS[program], words[1:], program)
        elif program == "python":
            found += [
                f"there is no {word}" for word in words[1:] if word.endswith((".py", ".yaml")) and not _there(word)
            ]
    return found


def _unknown(group: Any, words: list[str], said: str) -> list[str]:
    at = 0
    while hasattr(group, "commands") and at < len(words) and not words[at].startswith("-"):
        if words[at] not in group.commands:
            return [f"{said} has no command {words[at]!r}"]
        group, said, at = group.commands[words[at]], f"{said} {words[at]}", at + 1
    known = {name for option in group.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words[at:] if word.startswith("--") and word != "--"]
    return [f"{said} has no option {name}" for name in given if name not in known]


def _there(word: str) -> bool:
    return (ROOT / word.removeprefix(IMAGE_ROOT)).is_file()
