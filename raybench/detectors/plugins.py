"""Detectors of the user: `package.module:Class`, or a name registered as an entry point `raybench.detectors`.

The source is read, not imported, until a worker builds the detector: the driver must not import torch because a
detector does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from raybench.detectors.protocol import CODE, Detector, FitContext, ModelSpec
from raybench.errors import InputError, ModelError, UnknownName

GROUP = "raybench.detectors"
_INSTALLED = {"site-packages", "dist-packages"}
"""Names of the folders of installed packages."""
_METHODS = ("fit", "score", "save", "restore", "card")


@functools.cache  # reading the metadata of all installed packages takes 20 ms, and every task of a unit asks
def registered() -> Mapping[str, str]:
    """Return the entry points by name: `package.module:Class`."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def spec(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of a user's class. The digest of its source counts as weights: changed code is another detector.

    Args:
        name: `package.module:Class` or an entry point. The class may state `stride` and `min_side` as literals, in
            pixels.
        config: Settings for its constructor, as JSON types.

    Raises:
        InputError: There is no such module, or it is not valid Python.
        UnknownName: The module has no such class.
    """
    source, node = _find_class(name)
    literals = dict(_literals(node))
    return ModelSpec(
        name=name,
        summary=(ast.get_docstring(node) or "a detector of your own").partition("\n")[0],
        config=dict(config),
        weights={CODE: source.digest()},
        stride=int(literals.get("stride", 1)),
        min_side=int(literals.get("min_side", 1)),
    )


def licence(name: str) -> str:
    """Return the literal `licence` of a user's class; "unknown" if it has none or is not on this machine."""
    try:
        _, node = _find_class(name)
    except (InputError, UnknownName):
        return "unknown"
    return str(dict(_literals(node)).get("licence", "unknown"))


def create(spec: ModelSpec, height: int, width: int, context: FitContext) -> Detector:
    """Import the class and call it with (config, height, width, context).

    Raises:
        InputError: The source on this machine is not that of the spec.
        ModelError: The class lacks methods of a detector.
    """
    module, _, class_name = registered().get(spec.name, spec.name).partition(":")
    if _find_source(module).digest() != spec.weights[CODE]:
        raise InputError(
            f"{module} on this machine is not the code that the run was planned with; ship the same code to all"
        )
    detector_class = getattr(importlib.import_module(module), class_name)
    missing = [name for name in _METHODS if not callable(getattr(detector_class, name, None))]
    missing += sorted(getattr(detector_class, "__abstractmethods__", ()))
    if missing:
        raise ModelError(
            f"{spec.name} does not define {', '.join(missing)}; raybench.Detector has save, restore and card by default"
        )
    return cast(Detector, detector_class(dict(spec.config), height, width, context))


@dataclass(frozen=True)
class _Source:
    """The source code that a detector's behaviour rests on."""

    file: Path
    """The file of the module that holds the class."""
    top: Path
    """The folder of its top-level package, or the file if it is outside a package."""

    def digest(self) -> str:
        """Return the sha256 of all modules of the top-level package, and of what is imported from beside it."""
        total = hashlib.sha256()
        for name, data in sorted(modules_of(self.top).items()):
            total.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        return total.hexdigest()


def modules_of(top: Path) -> dict[str, bytes]:
    """Return the bytes of a module or of all modules of a package, and of what they import from the same folder.

    Of an installed package, which lies beside everything else that is installed, only the package itself counts, and
    raybench has a version.

    Args:
        top: The module's file or the package's folder.

    Returns:
        Bytes by the names of the files, relative to the folder that holds `top`.
    """
    found: dict[str, bytes] = {}
    waiting = [top]
    while waiting:
        place = waiting.pop()
        files = {file.relative_to(top.parent).as_posix(): file for file in _python_files(place)}
        new = {name: file for name, file in files.items() if name not in found}
        found |= {name: file.read_bytes() for name, file in new.items()}
        if top.parent.name not in _INSTALLED:
            beside = {name for file in new.values() for name in _imported(file)} - {"raybench"}
            waiting += [top.parent / f"{name}.py" for name in beside]
            waiting += [top.parent / name for name in beside if any(top.parent.glob(f"{name}/*.py"))]
    return found


def _python_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*.py") if path.is_file()]


def _imported(file: Path) -> Iterator[str]:
    """Yield the top-level names of what a module imports by absolute names, wherever in it."""
    try:
        nodes = list(ast.walk(_parse(file)))
    except InputError:  # nothing can import it
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _find_class(name: str) -> tuple[_Source, ast.ClassDef]:
    """Find a class without importing it. Raises InputError or UnknownName if there is none."""
    module, _, class_name = registered().get(name, name).partition(":")
    source = _find_source(module)
    classes = {node.name: node for node in _parse(source.file).body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        raise UnknownName(f"class in {source.file.name}", class_name, classes)
    return source, classes[class_name]


def _parse(file: Path) -> ast.Module:
    """Parse a module. Raises InputError with its line if it is not valid Python."""
    data = file.read_bytes()
    if b"\0" in data:  # Python names no line, and has another exception for it before 3.12
        raise InputError(f"{file}:{data[: data.index(0)].count(10) + 1} is not valid Python: it has a null byte")
    try:
        return ast.parse(data, str(file))
    except SyntaxError as error:
        place = f"{file}:{error.lineno}" if error.lineno else str(file)
        raise InputError(f"{place} is not valid Python: {error.msg}") from error


def _find_source(module: str) -> _Source:
    """Find a module without importing it or the packages around it. Raises InputError if there is none."""
    top, *inner = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = None
    if found and all(map(str.isidentifier, inner)):
        if found.submodule_search_locations is None and not inner and found.origin and found.origin.endswith(".py"):
            return _Source(Path(found.origin), Path(found.origin))
        for package in map(Path, found.submodule_search_locations or ()):
            path = package.joinpath(*inner)
            files = [path / "__init__.py", *([path.with_suffix(".py")] if inner else [])]
            if file := next(filter(Path.is_file, files), None):
                return _Source(file, package)
    raise InputError(f"there is no Python module {module!r}; put its folder on PYTHONPATH or install it")


def _literals(node: ast.ClassDef) -> list[tuple[str, Any]]:
    """Return the class attributes that are constants, by name."""
    constants = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        if isinstance(statement.value, ast.Constant):
            constants += [(target.id, statement.value.value) for target in targets if isinstance(target, ast.Name)]
    return constants
