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

KEYS: Mapping[str, str] = {
    "name": "Names the run: its results lie in `STORE/runs/NAME`.",
    "store": "Where packed lines and results lie: `s3://bucket/prefix`, `file:///folder` or a path.",
    "lines": "Names of packed lines, patterns over them (`pcb-*`), and URIs of lines in other stores.",
    "models": "What to compare. A name alone stands for `{name: NAME}`.",
    "seeds": "One unit per line, model and seed.",
    "false_alarm_budget": "Share of OK images that may be flagged, at a threshold that is set from OK images alone.",
    "held_out": "Share of the OK training images that is held back from training, to set the threshold.",
    "train_budget_s": "Seconds of optimiser steps per unit, at most. `null`: each model's own steps, on any machine.",
    "squashed_twins": "On lines that are not square, also run each model on squashed images (column non-square).",
    "inspect": "Inspect the data of lines that nobody has inspected yet, beside training. Bad pictures become flags.",
    "preset": "Default settings: `paper` (the papers', for a GPU) or `cpu` (minutes per model on two cores).",
    "weights": "URI of the weights store. Empty: `$RAYBENCH_WEIGHTS`, else none.",
    "verdict": "What counts among models that separate NG from OK images equally well. Only the ratios matter.",
    "verdict.recall": "Recall at the threshold, less what the false-alarm rate exceeds its budget by.",
    "verdict.heat_map": "Quality of the heat maps.",
    "verdict.speed": "Milliseconds per image.",
    "verdict.size": "Megabytes of the saved detector.",
    "verdict.non_square": "What keeping the aspect of images costs or gains.",
    "annotation": "The annotation queue of each line.",
    "annotation.budget": "Images of each line that the queue picks; the other flags follow them.",
    "annotation.signals": "How many of the first flags get an anomaly type. 0 saves the seconds that each line takes.",
    "input": "How images become the network's input.",
    "input.fit": "`native` keeps the aspect, `letterbox` pads, `squash` distorts, `tile` cuts large images.",
    "input.pixels": "The network's pixel budget, height × width.",
    "input.tiles": "With `fit: tile`, about how many network inputs an image may be cut into.",
    "models[].name": "A detector of raybench's, `anomalib:Class` or `package.module:Class`.",
    "models[].label": "Its name on the board. Empty: the detector's name.",
    "models[].config": "The detector's settings; `raybench models` lists them.",
    "models[].input": "Replaces the experiment's `input` for this model.",
    "resources": "What one task takes. Nothing here can change a number.",
    "resources.cpus": "CPU cores per task.",
    "resources.gpus": "GPUs per train or score task. 0 runs on the CPU. `null`: by the memory that similar tasks used.",
    "resources.in_flight": "Tasks submitted ahead per slot.",
    "resources.retries": "Retries of a task whose worker, node, store or disk failed.",
    "resources.unit_timeout_s": "Seconds that all tasks of a unit may take together. A unit that takes longer fails.",
    "resources.measure_s": "Seconds of timing per unit, with the device to itself and without warm-up, about.",
    "resources.gpu_memory_mb": "Memory of the smallest GPU (10^6 bytes), where it cannot be found out.",
    "resources.price_per_hour": "Price of an hour of one GPU and its share of the machine; of a CPU core without GPUs.",
    "storage": "How to reach the store; never a secret. Empty values leave the choice to the standard AWS chain.",
    "storage.endpoint_url": "URL of the S3 server.",
    "storage.region": "Region of the S3 server.",
    "storage.profile": "Profile of the AWS configuration that holds the credentials.",
    "storage.ca_bundle": "File with certificate authorities to trust.",
    "overrides": "Keys that replace the experiment's own, by line or pattern. The last match wins, key by key.",
}  # fmt: skip
"""Descriptions of the experiment's keys, for those that the schema does not describe."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page. Called by mkdocs for each page."""
    escaped = _REFERENCE.sub(lambda row: row[0].replace("[", "\\["), markdown)
    return _MARKER.sub(lambda marker: PARTS[marker[1]](), escaped)


def experiment() -> str:
    """Describe every key of the experiment file, a table per section. Raises KeyError for an undescribed key."""
    from raybench.config.experiment import Experiment

    schema = Experiment.model_json_schema()
    sections: list[tuple[str, str, Mapping[str, Any]]] = [("The experiment", "", schema)]
    sections += [(f"`{name}`", path, _resolve(schema, part)) for name, path, part in _sections(schema)]
    return "\n\n".join(_table(schema, *section) for section in sections)


def _sections(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, part in schema["properties"].items():
        if "$ref" in part:
            yield name, f"{name}.", part
        elif "$ref" in part.get("items", {}):
            yield f"{name}[]", f"{name}[].", part["items"]
        elif "$ref" in part.get("additionalProperties", {}):  # by line or pattern: keys of the experiment itself
            yield f"{name}.PATTERN", "", part["additionalProperties"]


def _table(schema: Mapping[str, Any], title: str, path: str, section: Mapping[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", ())
    for name, part in section["properties"].items():
        resolved = _resolve(schema, part)
        inherited = "the experiment's" if title.startswith("`overrides") else _default(part, resolved)
        default = "required" if name in required else inherited
        text = (part.get("description") or KEYS[f"{path}{name}"]).replace("\n", " ").replace("|", "\\|")
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
