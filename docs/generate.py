"""Fill in what the documentation takes from the code, while mkdocs builds it.

A page asks by a comment, `<!-- generated: NAME -->`: `experiment` (every key of the experiment file), `cli` (every
command with its options), `errors` (their tree), `changelog` and `notice` (the files in the repository's root).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_REFERENCE = re.compile(r"^\|.*\]\[.*$", re.M)  # in a table row; Markdown would take it for a link
_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page. Called by mkdocs for each page."""
    escaped = _REFERENCE.sub(lambda row: row[0].replace("[", "\\["), markdown)
    return _MARKER.sub(lambda marker: PARTS[marker[1]](), escaped)


def experiment() -> str:
    """Describe every key of the experiment file, a table per section."""
    from raybench.config.experiment import Experiment

    schema = Experiment.model_json_schema()
    sections: list[tuple[str, Mapping[str, Any]]] = [("The experiment", schema)]
    sections += [(f"`{name}`", _resolve(schema, part)) for name, part in _sections(schema)]
    return "\n\n".join(_table(schema, *section) for section in sections)


def _sections(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, part in schema["properties"].items():
        optional = next((choice for choice in part.get("anyOf", ()) if "$ref" in choice), part)
        if "$ref" in optional:
            yield name, optional
        elif "$ref" in part.get("items", {}):
            yield f"{name}[]", part["items"]
        elif "$ref" in part.get("additionalProperties", {}):  # by line or pattern, or by the name of a group
            yield f"{name}.{'PATTERN' if name == 'overrides' else 'GROUP'}", part["additionalProperties"]


def _table(schema: Mapping[str, Any], title: str, section: Mapping[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", ())
    for name, part in section["properties"].items():
        resolved = _resolve(schema, part)
        inherited = "the experiment's" if title.startswith("`overrides") else _default(part, resolved)
        default = "required" if name in required else inherited
        text = part["description"].replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(schema, part)} | {default} | {text} |")
    return f"### {title}\n\n" + "\n".join(rows)


def _resolve(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(schema["$defs"][part["$ref"].rpartition("/")[2]]) if "$ref" in part else part


def _type(schema: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if "anyOf" in part:
        return " or ".join(_type(schema, choice) for choice in part["anyOf"])
    if "$ref" in part:
        return "section"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "items" in part:
        return f"list of {_type(schema, part['items'])}"
    limits = [
        f"{sign} {part[key]:,}" if part["type"] == "integer" else f"{sign} {part[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in part
    ]
    return ", ".join([{"object": "mapping", "string": "text"}.get(part["type"], part["type"]), *limits])


def _default(part: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    if "default" in part:
        return f"`{json.dumps(part['default'])}`"
    return "a table of its own" if "properties" in resolved else "`{}`"


def cli() -> str:
    """Describe every command of the command line, from Typer's own command tree."""
    import typer.main

    from raybench.cli import app

    return "\n\n".join(_commands(typer.main.get_group(app), "raybench"))


def _commands(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield _command(command, f"{prefix} {name}")


def _command(command: Any, name: str) -> str:
    arguments = [option for option in command.params if option.param_type_name == "argument"]
    usage = " ".join(
        [name, *(option.name.upper() if option.required else f"[{option.name.upper()}]" for option in arguments)]
    )
    rows = ["| argument or option | default | meaning |", "|---|---|---|"]
    for option in command.params:
        names = ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts))
        shown = f"`{option.name.upper()}`" if option in arguments else names
        rows.append(f"| {shown} | {_option_default(option)} | {(option.help or '').replace('|', chr(92) + '|')} |")
    return f"## {name}\n\n{command.help}\n\n```text\n{usage} [OPTIONS]\n```\n\n" + "\n".join(rows)


def _option_default(option: Any) -> str:
    if option.required:
        return "required"
    default = option.default
    return "–" if default is None or default is False or callable(default) else f"`{default}`"


def errors() -> str:
    """The tree of errors, as the module draws it."""
    import raybench.errors

    tree = (raybench.errors.__doc__ or "").partition("\n")[2].strip()
    return f"```text\n{tree}\n```"


def changelog() -> str:
    """The changelog, without its title."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2].strip()


def notice() -> str:
    """The licences of what raybench brings along or may download, without the file's title."""
    return (ROOT / "NOTICE").read_text(encoding="utf-8").partition("\n")[2].strip()


PARTS: Mapping[str, Callable[[], str]] = {
    "experiment": experiment,
    "cli": cli,
    "errors": errors,
    "changelog": changelog,
    "notice": notice,
}
