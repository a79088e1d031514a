"""Detectors of the user's own: `package.module:Class`, or a name registered as an entry point `raybench.detectors`.

The class is read, not imported, until a worker builds it: a driver must not import torch because a detector does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from raybench.detectors.protocol import CODE, Detector, FitContext, ModelSpec
from raybench.errors import InputError, UnknownName

GROUP = "raybench.detectors"


def registered() -> dict[str, str]:
    """Entry points by name: `package.module:Class`."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def spec(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a class of the user's own. Its code counts as weights: a changed file is another detector.

    The class may state `stride` and `min_side` (pixels, literals). Raises InputError (no such module), UnknownName (no
    such class).
    """
    module, _, class_name = registered().get(name, name).partition(":")
    path = _source(module)
    text = path.read_bytes()
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        raise UnknownName(f"class in {path.name}", class_name, classes)
    literals = dict(_literals(classes[class_name]))
    return ModelSpec(
        name=name,
        summary=(ast.get_docstring(classes[class_name]) or "a detector of your own").partition("\n")[0],
        config=dict(config),
        weights={CODE: hashlib.sha256(text).hexdigest()},
        stride=int(literals.get("stride", 1)),
        min_side=int(literals.get("min_side", 1)),
    )


def create(spec: ModelSpec, height: int, width: int, context: FitContext) -> Detector:
    """The class called with (config, height, width, context).

    Raises InputError when its code is not the planned one.
    """
    module, _, class_name = registered().get(spec.name, spec.name).partition(":")
    found = hashlib.sha256(_source(module).read_bytes()).hexdigest()
    if found != spec.weights[CODE]:
        raise InputError(
            f"{module} on this machine is not the file the run was planned with; ship the same code to all"
        )
    return cast(
        Detector, getattr(importlib.import_module(module), class_name)(dict(spec.config), height, width, context)
    )


def _source(module: str) -> Path:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise InputError(f"there is no Python module {module!r}; put its folder on PYTHONPATH or install it")
    return Path(found.origin)


def _literals(node: ast.ClassDef) -> list[tuple[str, Any]]:
    """Class attributes that are plain numbers."""
    found = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        if isinstance(statement.value, ast.Constant):
            found += [(target.id, statement.value.value) for target in targets if isinstance(target, ast.Name)]
    return found
